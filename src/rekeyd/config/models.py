"""The settings: one class a table of the file, defaults as they stand here and in config.example.toml.

Secrets are never settings: where one is needed, the setting is the path of a file.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from rekeyd.config.values import (
    AccountId,
    Count,
    Cron,
    Duration,
    DurationOrZero,
    FilePath,
    Flag,
    HttpUrl,
    IamPath,
    LinkTemplate,
    Listen,
    Name,
    PathTemplate,
    QueueUrl,
    Region,
    Regions,
    RoleArn,
    RoleName,
    StateTemplate,
    TagGlob,
    TagKey,
    TimeZone,
    TopicArn,
    UserGlob,
    VaultPath,
)
from rekeyd.core.policy import Adopt, Attribution, OnExposed, Repair, SpareKey, StillUsed

SortedTable = PlainSerializer(lambda table: dict(sorted(table.items())), return_type=dict[str, str])


class Settings(BaseModel):
    """What all tables share: unknown keys are mistakes, nothing changes after reading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
        # The defaults go through the same checks as what is written.
        validate_default=True,
    )


class AccountSettings(Settings):
    """One account, reached by a role."""

    id: AccountId
    """Twelve digits, in quotes: leading zeros count."""
    role_arn: RoleArn | None = None
    """The role that rekeyd assumes there. Without it: rekeyd's own credentials, which must be of this account."""
    external_id_file: FilePath | None = None
    """A file with the external id that the role's trust policy asks for."""


class OrganizationSettings(Settings):
    """All member accounts of the organization that rekeyd's own credentials belong to."""

    role_name: RoleName
    """The role that rekeyd assumes in each member account."""
    exclude_accounts: tuple[AccountId, ...] = ()
    """Accounts left alone; reported as root_unwatched, never as clear."""


class AwsSettings(Settings):
    region: Region = "us-east-1"
    """Region for STS and for proving keys; it also chooses the partition."""
    settle: Duration = timedelta(seconds=15)
    """IAM's lists lag: nothing is concluded from them this soon after a change of our own."""
    endpoint_url: HttpUrl | None = None
    """For emulators. AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_IAM and AWS_ENDPOINT_URL_STS work too."""
    accounts: tuple[AccountSettings, ...] = ()
    """None and no organization: the account of rekeyd's own credentials."""
    organization: OrganizationSettings | None = None
    """Discover the member accounts instead of naming them."""


class AuthMethod(StrEnum):
    TOKEN_FILE = "token_file"  # noqa: S105 -- the name of a method
    APPROLE = "approle"
    KUBERNETES = "kubernetes"
    JWT = "jwt"
    CERT = "cert"
    AWS = "aws"


class AuthSettings(Settings):
    """How rekeyd logs in to Vault. Each method takes the settings that name it, and refuses the others."""

    method: AuthMethod = AuthMethod.TOKEN_FILE
    """token_file, approle, kubernetes, jwt, cert or aws."""
    token_file: FilePath | None = None
    """token_file: a file with a Vault token, read again when it changes."""
    mount: VaultPath | None = None
    """All but token_file: where the method is mounted, if not under its own name."""
    role_id: str | None = None
    """approle: the role id (it is no secret)."""
    role_id_file: FilePath | None = None
    """approle: a file with the role id, instead of role_id."""
    secret_id_file: FilePath | None = None
    """approle: a file with the secret id."""
    secret_id_wrapped: Flag | None = None
    """approle: secret_id_file holds a response-wrapping token, which is opened once; a restart, not a reload, needs a
    new one."""
    role: Name | None = None
    """kubernetes, jwt, cert, aws: the role to log in as. approle: whose secret id the wrapped one must be."""
    jwt_file: FilePath | None = None
    """kubernetes, jwt: a file with the service account's token or the JWT."""
    header_value: str | None = None
    """aws: the X-Vault-AWS-IAM-Server-ID that the server asks for."""


class FieldPreset(StrEnum):
    DEFAULT = "default"
    VAULT_AWS = "vault-aws"
    ENV = "env"
    SHARED_CREDENTIALS = "shared-credentials"

    @property
    def access_key_id(self) -> str:
        """The name of the field for the access key id."""
        return _PAIR_NAMES[self][0]

    @property
    def secret_access_key(self) -> str:
        """The name of the field for the secret access key."""
        return _PAIR_NAMES[self][1]


# vault-aws: as Vault's own AWS engine answers; env: AWS's variables; shared-credentials: ~/.aws/credentials.
_PAIR_NAMES: Mapping[FieldPreset, tuple[str, str]] = {
    FieldPreset.DEFAULT: ("access_key_id", "secret_access_key"),
    FieldPreset.VAULT_AWS: ("access_key", "secret_key"),
    FieldPreset.ENV: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    FieldPreset.SHARED_CREDENTIALS: ("aws_access_key_id", "aws_secret_access_key"),
}


class FieldSettings(Settings):
    """The names of the fields in the secret."""

    preset: FieldPreset = FieldPreset.DEFAULT
    """default, vault-aws, env or shared-credentials."""
    access_key_id: str | None = None
    """A name of its own for the field of the access key id, instead of the preset's."""
    secret_access_key: str | None = None
    """A name of its own for the field of the secret access key, instead of the preset's."""
    extra: Annotated[dict[str, str], SortedTable] = Field(default_factory=dict)
    """Static fields written beside the pair; strings, and no secrets."""


class VaultSettings(Settings):
    address: HttpUrl
    """Else $VAULT_ADDR. Vault or OpenBao."""
    namespace: VaultPath | None = None
    """Else $VAULT_NAMESPACE."""
    ca_file: FilePath | None = None
    """Else $VAULT_CACERT: a PEM file; without one the system's certificates count."""
    client_cert_file: FilePath | None = None
    """Else $VAULT_CLIENT_CERT: a PEM file, shown to a Vault that asks for client certificates."""
    client_key_file: FilePath | None = None
    """Else $VAULT_CLIENT_KEY: the key of client_cert_file."""
    allow_http: Flag = False
    """Speak http without TLS to a Vault on another machine. Every secret would cross the network readable."""
    proxy: str | None = None
    """http://host:port of a proxy that opens tunnels (CONNECT). None: none; HTTPS_PROXY is never read, nor netrc."""
    mount: VaultPath = "secret"
    """Where the KV v2 engine is mounted."""
    path: PathTemplate = "aws/{account_id}/{user_name}"
    """Where the pair of a user lies below the mount: account_id, account_alias, user_name, user_path, partition."""
    state_path: StateTemplate = "rekeyd/{instance}"
    """Where the journal's high-water mark lies below the mount."""
    auth: AuthSettings = Field(default_factory=AuthSettings)
    fields: FieldSettings = Field(default_factory=FieldSettings)


class MatchSettings(Settings):
    accounts: tuple[AccountId, ...] | None = None
    """Account ids."""
    users: tuple[UserGlob, ...] | None = None
    """Globs of user names, without regard to case."""
    paths: tuple[IamPath, ...] | None = None
    """Beginnings of IAM paths."""
    tags: Annotated[dict[TagKey, TagGlob], SortedTable] | None = None
    """Tag keys and globs of their values."""


class WindowSettings(Settings):
    cron: Cron
    """When it opens: minute, hour, day, month, weekday as in crontab (1-5 is Monday to Friday)."""
    duration: Duration
    """How long it stays open."""
    timezone: TimeZone = "UTC"
    """Whose clock `cron` speaks of."""


class PolicySettings(Settings):
    name: Name
    """Shown in every message; unique."""
    match: MatchSettings = Field(default_factory=MatchSettings)
    """Whom it manages; all conditions given must hold. Nothing given: every user."""
    exclude: MatchSettings = Field(default_factory=MatchSettings)
    """Whom it leaves alone; any condition given is enough."""
    namespace: VaultPath | None = None
    """Instead of vault.namespace, for the pairs of these users."""
    mount: VaultPath | None = None
    """Instead of vault.mount."""
    path: PathTemplate | None = None
    """Instead of vault.path."""
    fields: FieldSettings | None = None
    """Instead of vault.fields, as a whole."""
    max_age: Duration = timedelta(days=90)
    """No active key gets older than this. CIS benchmarks ask for 90 days."""
    overlap: Duration = timedelta(days=7)
    """How long both keys are Active after the new one was proven: the time consumers have to move over."""
    quarantine: Duration = timedelta(days=7)
    """How long the old key is Inactive, and can still be brought back, before it is deleted."""
    adopt: Adopt = Adopt.WHEN_ASKED
    """When a key that Vault does not hold is replaced: when-asked, when-due, at-once."""
    create: Flag = False
    """Make a first key for a user without any."""
    repair: Repair = Repair.REFUSE
    """What to do when the held key is dead: refuse (report it), issue (make a new one)."""
    spare_key: SpareKey = SpareKey.REFUSE
    """What to do with a second key of a user that Vault does not know: refuse, retire-unused."""
    spare_key_silent_for: Duration = timedelta(days=90)
    """A second key counts as unused after this long without use."""
    unused_after: Duration = timedelta(days=45)
    """Keys unused for this long are reported. CIS benchmarks ask for 45 days."""
    on_exposed: OnExposed = OnExposed.ALARM
    """What to do about a managed key in wrong hands (AWS's quarantine policy, or a person's word): alarm, or rotate
    as `rotate-now --emergency` does."""
    still_used: StillUsed = StillUsed.HOLD
    """What to do with an old key that is still used when its overlap ends: hold, or deactivate after max_hold."""
    max_hold: Duration = timedelta(days=30)
    """How long such a key is held before the alarm gets more severe, or the key is deactivated."""
    unused_for: DurationOrZero = timedelta(days=1)
    """The old key must have been silent this long. The whole margin: it must exceed the lag of IAM's last-used data."""
    verify_regions: Regions = None
    """Where a new key is proven: "auto" (aws.region and where the old key was last used) or a list of Regions."""
    verify_timeout: Duration = timedelta(minutes=2)
    """How long a new key may take until AWS honours it everywhere."""
    verify_first: DurationOrZero = timedelta(seconds=3)
    """The first probe comes this long after creation."""
    verify_probes: Count = 3
    """Successes in a row that prove a key, per Region."""
    verify_spacing: DurationOrZero = timedelta(seconds=1)
    """The time between two probes."""
    publish_timeout: Duration = timedelta(minutes=10)
    """How long Vault may be unreachable while a pair waits to be written."""
    windows: tuple[WindowSettings, ...] = ()
    """When rotations may be opened. None: always. Retirement is never bound by windows."""


class OrphanSettings(Settings):
    """A key that a crash or a lost answer left behind."""

    attribution: Attribution = Attribution.CLOUDTRAIL
    """How it is proven ours: cloudtrail, window (by time alone), never (a person decides)."""
    wait: Duration = timedelta(days=1)
    """cloudtrail: how long its event may take. window: how long the key must go unused."""
    quarantine: Duration = timedelta(days=7)
    """window: how long it stays Inactive before it is deleted."""


class ScanSettings(Settings):
    every: Duration = timedelta(hours=1)
    """How often each account is scanned."""
    drift_every: Duration = timedelta(hours=1)
    """How often every managed user is looked at in full, due or not."""
    health: Flag = False
    """Ask AWS Health for exposed keys, once an hour an account; it answers from the support plan Business on."""


class RootSettings(Settings):
    check_every: Duration = timedelta(minutes=15)
    """How often each account is checked for root user access keys."""
    used_within: Duration = timedelta(days=7)
    """How long a use of a root user stays an alarm. CloudTrail shows the last 90 days, the credential report all."""


class AlarmSettings(Settings):
    repeat_every: Duration = timedelta(hours=4)
    """How often an open alarm is repeated."""
    urls_file: FilePath | None = None
    """A file with Apprise URLs, one a line. They hold secrets."""
    sns_topic_arn: TopicArn | None = None
    """An SNS topic that gets every alarm."""
    webhook_url_file: FilePath | None = None
    """A file with the address of a webhook that gets every alarm as signed JSON."""
    webhook_secret_file: FilePath | None = None
    """A file with the secret that the webhook's messages are signed with (HMAC-SHA256)."""
    heartbeat_url_file: FilePath | None = None
    """A file with a URL that is fetched after each pass that ended well: a dead-man's switch."""
    link: LinkTemplate | None = None
    """A page of yours that every message links to; {reason}, {account_id} and {alarm_id} are filled in."""


class OwnerSettings(Settings):
    """Owners of users: told of rotations ahead and of old keys that are still used, each once."""

    tag: TagKey = "owner"
    """The tag of a user that names its owner: an e-mail address, or a name that a URL of urls_file takes."""
    notify_before: DurationOrZero = timedelta(days=7)
    """How long before a rotation its owner is told. "0s": not before it."""
    urls_file: FilePath | None = None
    """A file with Apprise URLs that have {owner} in them, one a line; they may hold secrets."""
    webhook: Flag = False
    """Tell owners by alarms.webhook_url_file too; the message names the owner."""


class EventSettings(Settings):
    """Hints from CloudTrail: who is named in one is looked at within seconds instead of at the next scan."""

    queue_url: QueueUrl | None = None
    """An SQS queue that EventBridge feeds (deploy/aws/events.yaml), read with rekeyd's own credentials."""
    region: Region | None = None
    """The queue's Region, where its URL does not tell it; else aws.region."""


class FreezeSettings(Settings):
    first_day: date = Field(alias="from")
    """The first day without new rotations (UTC)."""
    last_day: date = Field(alias="to")
    """The last day without new rotations (UTC)."""
    reason: str = Field(min_length=1)
    """Shown wherever a rotation is postponed by it."""


class FleetMode(StrEnum):
    ENFORCE = "enforce"
    OBSERVE = "observe"


class FleetSettings(Settings):
    mode: FleetMode = FleetMode.ENFORCE
    """enforce, or observe: the whole daemon and all alarms, but nothing outside is changed."""
    freezes: tuple[FreezeSettings, ...] = ()
    """Days on which no rotation is opened."""
    max_parallel: Annotated[Count, Field(le=256)] = 16
    """Accounts worked on at the same time."""
    max_rotations_per_hour: Count = 20
    """Rotations opened per hour over the whole fleet. Emergencies are not counted."""
    stop_after_failures: Count = 5
    """The brake: failures in a row, by different users of one account, that stop opening rotations there."""
    brake_retry: Duration = timedelta(hours=1)
    """After this long one rotation is tried, to see whether the brake can be released."""
    stop_timeout: Duration = timedelta(seconds=60)
    """From SIGTERM to exit. Keep it below the supervisor's own (TimeoutStopSec, terminationGracePeriodSeconds)."""


class JournalSettings(Settings):
    url: str = "sqlite:////var/lib/rekeyd/journal.db"
    """Four slashes: an absolute path. (postgresql:// is not available in this version.)"""
    password_file: FilePath | None = None
    """PostgreSQL: a file with the password; never write it into the URL."""
    instance: Name = "default"
    """Two deployments on one Vault need two names."""


class HttpSettings(Settings):
    listen: Listen = "127.0.0.1:9744"
    """/healthz /readyz /metrics /api/v1/status"""
    token_file: FilePath | None = None
    """A file with the token that the API asks for; needed for it when not on loopback."""


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


class LoggingSettings(Settings):
    format: LogFormat = LogFormat.JSON
    """json or console; always to stderr."""


class Config(Settings):
    """The whole file."""

    aws: AwsSettings = Field(default_factory=AwsSettings)
    vault: VaultSettings
    policies: tuple[PolicySettings, ...] = ()
    """First match wins. Without any, nothing is managed; root users are watched all the same."""
    orphans: OrphanSettings = Field(default_factory=OrphanSettings)
    scan: ScanSettings = Field(default_factory=ScanSettings)
    root: RootSettings = Field(default_factory=RootSettings)
    alarms: AlarmSettings = Field(default_factory=AlarmSettings)
    owners: OwnerSettings = Field(default_factory=OwnerSettings)
    events: EventSettings = Field(default_factory=EventSettings)
    fleet: FleetSettings = Field(default_factory=FleetSettings)
    journal: JournalSettings = Field(default_factory=JournalSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
