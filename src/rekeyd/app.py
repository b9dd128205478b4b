"""Puts rules and adapters together. The only file that knows both."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_events import SqsQueue
from rekeyd.adapters.aws_session import AccountSettings, AwsSettings, OrganizationSettings
from rekeyd.adapters.channel_owners import OwnerSettings, OwnerWays
from rekeyd.adapters.channels import ChannelSettings, channels_of
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.heartbeat import Heartbeat
from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import (
    AppRoleAuth,
    AwsAuth,
    CertAuth,
    JwtAuth,
    KubernetesAuth,
    TokenFileAuth,
    VaultAuth,
    VaultSettings,
)
from rekeyd.adapters.windows import open_intervals
from rekeyd.config import Config, freezes_of, policies_of
from rekeyd.config.models import AuthMethod, FleetMode
from rekeyd.config.places import AliasOf, Places
from rekeyd.core.model import AccountId, Interval
from rekeyd.core.policy import Policy
from rekeyd.errors import ConfigError, StateError
from rekeyd.fleet.alarms import AlarmKeeper, LogNotifier
from rekeyd.fleet.gates import Gates
from rekeyd.fleet.mark import MarkKeeper
from rekeyd.fleet.outbox import Postman, names_of
from rekeyd.fleet.owners import OwnerDesk
from rekeyd.fleet.passes import Fleet
from rekeyd.fleet.settings import FleetSettings, Mode
from rekeyd.reconcile.execute import Executor
from rekeyd.reconcile.observe import Observer
from rekeyd.reconcile.principal import Reconciler
from rekeyd.reconcile.rules import Rules

# A wait for the next window is never longer than this, so that is how far windows are laid out.
_WINDOWS_AHEAD = timedelta(days=366)


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """Everything that a command or the daemon works with."""

    config: Config
    clock: SystemClock
    cloud: AwsCloud
    vault: KvVault
    journal: SqlJournal
    rules: Rules
    fleet: Fleet
    postman: Postman
    heartbeat: Heartbeat

    def tell(self) -> None:
        """Bring to people what is to be brought, and see how the channels do. Raises JournalError."""
        self.postman.deliver()
        self.heartbeat.send()

    def refuse_root(self) -> None:
        """P8: StateError when rekeyd's own credentials are an AWS root user's."""
        for account_id in self.cloud.accounts().watched:
            if self.cloud.sts.caller_identity(account_id).is_root:
                raise StateError(
                    f"rekeyd's credentials are those of the root user of account {account_id}; it refuses to run",
                    hint="use a role, or an IAM user with the permissions that `rekeyd policy aws` prints",
                )
            return


@contextmanager
def opened(config: Config, *, actor: str, clock: SystemClock | None = None, heart: bool = True) -> Iterator[App]:
    """With the journal's owner lock held. `heart`: beat in a thread of its own (the daemon has a scheduler for it)."""
    clock = clock if clock is not None else SystemClock()
    journal = journal_of(config, clock)
    vault = KvVault(vault_settings(config), clock)
    try:
        app = assembled(config, clock=clock, journal=journal, vault=vault, actor=actor)
        if heart:
            with journal.beating():
                yield app
        else:
            yield app
        app.postman.close()
    finally:
        vault.close()
        journal.close()


def renewed(app: App, config: Config, *, actor: str) -> App:
    """The same journal and clock under another configuration; the caller closes the old `vault` when nobody uses it.
    What was logged in for or opened once (a wrapped secret_id) goes on to the new one.

    What `config.journal` says is not looked at: a journal is changed by a restart.
    """
    kept = config.model_copy(update={"journal": app.config.journal})
    vault = KvVault(vault_settings(kept), app.clock, before=app.vault)
    try:
        return assembled(kept, clock=app.clock, journal=app.journal, vault=vault, actor=actor)
    except BaseException:
        vault.close()
        raise


@contextmanager
def observing(config: Config, *, actor: str) -> Iterator[App]:
    """For `plan`, `explain` and `audit`: looks live, holds nothing, writes nothing.

    Before the daemon's first start there is no journal: then it is as if it were new.
    """
    clock = SystemClock()
    path = Path(config.journal.url.removeprefix("sqlite:///"))
    if path.exists():
        journal = journal_of(config, clock, read_only=True)
    else:
        journal = open_journal("sqlite://", instance=config.journal.instance, clock=clock)
    vault = KvVault(vault_settings(config), clock)
    try:
        yield assembled(config, clock=clock, journal=journal, vault=vault, actor=actor)
    finally:
        vault.close()
        journal.close()


def journal_of(config: Config, clock: SystemClock, *, read_only: bool = False) -> SqlJournal:
    settings = config.journal
    password_file = None if settings.password_file is None else Path(settings.password_file)
    return open_journal(
        settings.url, instance=settings.instance, clock=clock, password_file=password_file, read_only=read_only
    )


def assembled(config: Config, *, clock: SystemClock, journal: SqlJournal, vault: KvVault, actor: str) -> App:
    cloud = AwsCloud(aws_settings(config), clock, instance=config.journal.instance)
    rules = rules_of(config, lambda: cloud.partition, alias_source(cloud))
    settings = fleet_settings(config)
    gates = Gates(journal=journal, clock=clock, settings=settings)
    mark = MarkKeeper(vault=vault, journal=journal, clock=clock, enabled=settings.mode is Mode.ENFORCE)
    executor = Executor(
        cloud=cloud,
        vault=vault,
        clock=clock,
        rules=rules,
        confirm_mark=mark.confirm,
        raise_mark=mark.raise_,
        before_open=gates.before_open,
    )
    reconciler = Reconciler(observer=Observer(vault=vault, clock=clock, rules=rules), executor=executor)
    # The addresses are read from files; a journal that is only read has nothing to tell anybody.
    channels = () if journal.read_only else channels_of(channel_settings(config), cloud.sessions)
    owners = None if journal.read_only else OwnerWays(owner_settings(config))
    postman = Postman(
        journal=journal,
        clock=clock,
        channels=channels,
        owners=owners,
        link=config.alarms.link,
        instance=config.journal.instance,
        names=lambda: account_names(cloud, journal),
    )
    heartbeat = Heartbeat(_path(config.alarms.heartbeat_url_file))
    fleet = Fleet(
        cloud=cloud,
        journal=journal,
        clock=clock,
        settings=settings,
        rules=rules,
        reconciler=reconciler,
        gates=gates,
        mark=mark,
        alarms=AlarmKeeper(
            journal=journal,
            clock=clock,
            repeat_every=settings.alarm_repeat_every,
            notify=LogNotifier(),
            channels=names_of(channels),
            unwritten=postman.send_unwritten,
        ),
        owners=owner_desk(config, journal, clock, owners),
        passed_well=heartbeat.wish,
        actor=actor,
        stop=clock.stopping,
    )
    return App(
        config=config,
        clock=clock,
        cloud=cloud,
        vault=vault,
        journal=journal,
        rules=rules,
        fleet=fleet,
        postman=postman,
        heartbeat=heartbeat,
    )


def rules_of(config: Config, partition: Callable[[], str], alias_of: AliasOf) -> Rules:
    policies = policies_of(config)
    places = Places(config, policies, partition=partition, alias_of=alias_of)
    return Rules(
        policies=policies,
        place_of=places.place_of,
        windows_of=windows_of,
        settle=config.aws.settle,
        region=config.aws.region,
        extra_of=places.extra_of,
        sharers_of=places.sharers_of,
    )


def account_names(cloud: AwsCloud, journal: SqlJournal) -> dict[AccountId, str]:
    """For people: the alias of an account; where it has none, the name that the organization gave it."""
    return {**cloud.names, **{each.account_id: each.alias for each in journal.account_statuses() if each.alias}}


def alias_source(cloud: AwsCloud) -> AliasOf:
    """Asks once an account; a failure is asked again."""
    known: dict[AccountId, str | None] = {}

    def alias_of(account_id: AccountId) -> str | None:
        if account_id not in known:
            known[account_id] = cloud.iam(account_id).account_alias()
        return known[account_id]

    return alias_of


def windows_of(policy: Policy, now: datetime) -> tuple[Interval, ...] | None:
    if not policy.windows:
        return None
    return tuple(
        Interval(start=start, end=end) for start, end in open_intervals(policy.windows, now, now + _WINDOWS_AHEAD)
    )


def fleet_settings(config: Config) -> FleetSettings:
    unused = [policy.unused_after for policy in config.policies]
    return FleetSettings(
        mode=Mode.OBSERVE if config.fleet.mode is FleetMode.OBSERVE else Mode.ENFORCE,
        freezes=freezes_of(config),
        max_parallel=config.fleet.max_parallel,
        max_rotations_per_hour=config.fleet.max_rotations_per_hour,
        stop_after_failures=config.fleet.stop_after_failures,
        brake_retry=config.fleet.brake_retry,
        scan_every=config.scan.every,
        drift_every=config.scan.drift_every,
        alarm_repeat_every=config.alarms.repeat_every,
        unused_after=min(unused) if unused else FleetSettings().unused_after,
        root_used_within=config.root.used_within,
    )


def event_queue(config: Config, cloud: AwsCloud) -> SqsQueue | None:
    """None: the configuration names none."""
    events = config.events
    if events.queue_url is None:
        return None
    return SqsQueue(cloud.sessions, events.queue_url, region=events.region or config.aws.region)


def channel_settings(config: Config) -> ChannelSettings:
    alarms = config.alarms
    return ChannelSettings(
        urls_file=_path(alarms.urls_file),
        sns_topic_arn=alarms.sns_topic_arn,
        webhook_url_file=_path(alarms.webhook_url_file),
        webhook_secret_file=_path(alarms.webhook_secret_file),
    )


def owner_settings(config: Config) -> OwnerSettings:
    return OwnerSettings(
        urls_file=_path(config.owners.urls_file),
        webhook_url_file=_path(config.alarms.webhook_url_file) if config.owners.webhook else None,
        webhook_secret_file=_path(config.alarms.webhook_secret_file) if config.owners.webhook else None,
    )


def owner_desk(config: Config, journal: SqlJournal, clock: SystemClock, ways: OwnerWays | None) -> OwnerDesk | None:
    if ways is None:
        return None
    return OwnerDesk(
        journal=journal,
        clock=clock,
        channels=ways,
        tag=config.owners.tag,
        notify_before=config.owners.notify_before,
    )


def aws_settings(config: Config) -> AwsSettings:
    aws = config.aws
    return AwsSettings(
        region=aws.region,
        endpoint_url=aws.endpoint_url,
        accounts=tuple(
            AccountSettings(
                id=AccountId(account.id),
                role_arn=account.role_arn,
                external_id_file=None if account.external_id_file is None else Path(account.external_id_file),
            )
            for account in aws.accounts
        ),
        organization=None
        if aws.organization is None
        else OrganizationSettings(
            role_name=aws.organization.role_name,
            exclude_accounts=frozenset(AccountId(a) for a in aws.organization.exclude_accounts),
        ),
        health=config.scan.health,
    )


def vault_settings(config: Config) -> VaultSettings:
    vault = config.vault
    return VaultSettings(
        address=vault.address,
        auth=_auth(config),
        state_path=vault.state_path.replace("{instance}", config.journal.instance),
        namespace=vault.namespace or "",
        mount=vault.mount,
        ca_file=_path(vault.ca_file),
        client_cert_file=_path(vault.client_cert_file),
        client_key_file=_path(vault.client_key_file),
        pool_size=config.fleet.max_parallel,
        allow_http=vault.allow_http,
        proxy=vault.proxy,
    )


def _auth(config: Config) -> VaultAuth:
    auth = config.vault.auth
    token_file, secret_id_file, jwt_file = (_path(f) for f in (auth.token_file, auth.secret_id_file, auth.jwt_file))
    match auth.method:
        case AuthMethod.TOKEN_FILE if token_file is not None:
            return TokenFileAuth(token_file=token_file)
        case AuthMethod.APPROLE if secret_id_file is not None:
            return AppRoleAuth(
                secret_id_file=secret_id_file,
                role_id=auth.role_id,
                role_id_file=_path(auth.role_id_file),
                mount=auth.mount or "approle",
                wrapped=bool(auth.secret_id_wrapped),
                role=auth.role,
            )
        case AuthMethod.KUBERNETES if auth.role is not None:
            given = {} if jwt_file is None else {"jwt_file": jwt_file}
            return KubernetesAuth(role=auth.role, mount=auth.mount or "kubernetes", **given)
        case AuthMethod.JWT if auth.role is not None and jwt_file is not None:
            return JwtAuth(role=auth.role, jwt_file=jwt_file, mount=auth.mount or "jwt")
        case AuthMethod.CERT:
            return CertAuth(role=auth.role or "", mount=auth.mount or "cert")
        case AuthMethod.AWS if auth.role is not None:
            return AwsAuth(
                role=auth.role,
                region=config.aws.region,
                header_value=auth.header_value,
                mount=auth.mount or "aws",
            )
        case _:
            # The configuration's own check names what is missing before it comes to this.
            raise ConfigError(f'vault.auth.method = "{auth.method.value}" cannot be used with the settings given')


def _path(path: str | None) -> Path | None:
    return None if path is None else Path(path)
