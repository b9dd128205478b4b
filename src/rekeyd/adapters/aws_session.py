"""Credentials and clients for every account: one botocore loader, one session per role, clients made when needed.

* Each change of a key goes through a client of its own, which sends once, whatever the environment says of retries.
* Reads go through an adaptive client per account, since IAM's limits are per account.
* STS is Regional, always. `endpoint_url` and AWS_ENDPOINT_URL[_IAM|_STS] hold for every client made here.
* An account with a role never falls back to rekeyd's own credentials.

A session with its IAM client costs about 0.5 MB and 10 ms (the first one 5 MB and 40 ms), one for STS 0.15 MB and 3 ms.
"""

import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.loaders
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.regions import EndpointResolver

from rekeyd import __version__
from rekeyd.adapters.aws_errors import Call, ask
from rekeyd.core.model import AccountId
from rekeyd.errors import ConfigError, NotFoundError, TemporaryError

if TYPE_CHECKING:
    from mypy_boto3_cloudtrail import CloudTrailClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_organizations import OrganizationsClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

# Role chaining caps a session at one hour, and a daemon on an instance role chains. Less than 20 minutes would lie
# inside botocore's refresh window (15 min) and cost one AssumeRole per call.
SESSION_SECONDS = 3600

# A change is over, one way or the other, within eight seconds.
_CHANGE = Config(
    connect_timeout=3,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 1},
    user_agent_extra=f"rekeyd/{__version__}",
)
# Authorization details of 5,000 users take seconds.
_READ = Config(
    connect_timeout=5,
    read_timeout=30,
    retries={"mode": "adaptive", "total_max_attempts": 6},
    user_agent_extra=f"rekeyd/{__version__}",
)
_IDENTITY = Config(
    connect_timeout=3,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 3},
    user_agent_extra=f"rekeyd/{__version__}",
)
# A long poll is answered after twenty seconds; whoever polls does so again, and needs no retries.
_POLL = _CHANGE.merge(Config(read_timeout=30))
_PROBE = _CHANGE.merge(Config(signature_version=UNSIGNED))

# At DEBUG botocore prints answers, secret access keys included. Nothing may turn that on.
_botocore_log = logging.getLogger("botocore")
if _botocore_log.level < logging.INFO:
    _botocore_log.setLevel(logging.INFO)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """One `[[aws.accounts]]`."""

    id: AccountId
    role_arn: str | None = None
    """None: rekeyd's own credentials."""
    external_id_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationSettings:
    """`[aws.organization]`."""

    role_name: str
    exclude_accounts: frozenset[AccountId] = frozenset()
    external_id_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    region: str
    """Also chooses the partition."""
    endpoint_url: str | None = None
    accounts: tuple[AccountSettings, ...] = ()
    organization: OrganizationSettings | None = None
    health: bool = False
    """Ask AWS Health for notices of exposed keys."""


@dataclass(slots=True, kw_only=True)
class _Entrance:
    """The session of one account and the clients made of it."""

    session: botocore.session.Session
    clients: dict[str, Any] = field(default_factory=dict)


class AwsSessions:
    """Thread-safe. Clients are safe to share; making them is not, so that happens under one lock."""

    def __init__(self, settings: AwsSettings, *, instance: str) -> None:
        self.settings = settings
        self.session_name = _session_name(instance)
        self._lock = threading.RLock()
        self._loader = botocore.loaders.create_loader()
        self._resolver: Any = EndpointResolver(self._loader.load_data("endpoints"))
        self._own: _Entrance | None = None
        self._own_account_id: AccountId | None = None
        self._roles: dict[AccountId, _Entrance] = {}
        self._probes: dict[str, STSClient] = {}

    # clients

    def reading(self, account_id: AccountId) -> "IAMClient":
        """IAM with adaptive retries: for reads only."""
        client: IAMClient = self._client(account_id, "iam", "iam", _READ)
        return client

    def changing(self, account_id: AccountId) -> "IAMClient":
        """A new client that sends once, for one change; the caller closes it. It costs 3 ms.

        A connection kept from an earlier change may be closed by the other side just as the next one is sent on
        it, and then that one's outcome is unknown for nothing.
        """
        with self._lock:
            client: IAMClient = self._make(self._signed_in(account_id).session, "iam", _CHANGE, self.settings.region)
            return client

    def sts(self, account_id: AccountId) -> "STSClient":
        client: STSClient = self._client(account_id, "sts", "sts", _IDENTITY)
        return client

    def trail(self, account_id: AccountId, region: str | None = None) -> "CloudTrailClient":
        """CloudTrail of that Region; None: where the partition records IAM's events."""
        where = region or self.iam_region
        client: CloudTrailClient = self._client(account_id, f"trail-{where}", "cloudtrail", _READ, region=where)
        return client

    def health(self, account_id: AccountId) -> Any:
        """AWS Health, which each partition has at one place, as IAM. (Its types are not among those that mypy gets.)"""
        return self._client(account_id, "health", "health", _READ, region=self.iam_region)

    def own_sts(self) -> "STSClient":
        client: STSClient = self._client(None, "sts", "sts", _IDENTITY)
        return client

    def organizations(self) -> "OrganizationsClient":
        client: OrganizationsClient = self._client(None, "organizations", "organizations", _READ)
        return client

    def own_iam(self) -> "IAMClient":
        """Of the account of rekeyd's own credentials, whether or not it is watched."""
        client: IAMClient = self._client(None, "iam", "iam", _READ)
        return client

    def iam_with(self, given: "CredentialsTypeDef") -> "IAMClient":
        """IAM with a session made for one task, sending once; the caller closes it."""
        client: IAMClient = self._with("iam", _CHANGE, given)
        return client

    def sts_with(self, given: "CredentialsTypeDef") -> "STSClient":
        """The same for STS, which may be asked again."""
        client: STSClient = self._with("sts", _IDENTITY, given)
        return client

    def _with(self, service: str, config: Config, given: "CredentialsTypeDef") -> Any:
        with self._lock:
            return self._make(
                self._entrance(None).session,
                service,
                config,
                self.settings.region,
                aws_access_key_id=given["AccessKeyId"],
                aws_secret_access_key=given["SecretAccessKey"],
                aws_session_token=given["SessionToken"],
            )

    def sns(self, region: str) -> "SNSClient":
        """With rekeyd's own credentials, sending once: the outbox repeats."""
        client: SNSClient = self._client(None, f"sns-{region}", "sns", _CHANGE, region=region)
        return client

    def sqs(self, region: str) -> "SQSClient":
        """With rekeyd's own credentials, sending once: the next poll repeats."""
        client: SQSClient = self._client(None, f"sqs-{region}", "sqs", _POLL, region=region)
        return client

    def probe(self, region: str, prepare: Callable[["STSClient"], None]) -> "STSClient":
        """STS of that Region without credentials, sending once: the caller signs each request by itself."""
        with self._lock:
            if region not in self._probes:
                client: STSClient = self._make(_plain_session(self._loader), "sts", _PROBE, region)
                prepare(client)
                self._probes[region] = client
            return self._probes[region]

    # accounts

    @property
    def partition(self) -> str:
        """`aws`, `aws-cn`, …: part of every ARN."""
        return str(self._resolver.get_partition_for_region(self.settings.region))

    @property
    def iam_region(self) -> str:
        """The Region of the partition's IAM control plane: it signs as that, and CloudTrail records it there."""
        endpoint = self._resolver.construct_endpoint("iam", self.settings.region) or {}
        return str(endpoint.get("credentialScope", {}).get("region", self.settings.region))

    def own_account_id(self) -> AccountId:
        """The account of rekeyd's own credentials; asked once."""
        if self._own_account_id is None:
            call = Call(action="sts:GetCallerIdentity", account_id=None)
            self._own_account_id = ask(call, lambda: AccountId(self.own_sts().get_caller_identity()["Account"]))
        return self._own_account_id

    def own_credentials_end_at(self) -> datetime | None:
        """Only a fixed set of temporary credentials in the environment says when it ends."""
        with self._lock:
            credentials = self._entrance(None).session.get_credentials()
            if credentials is None or credentials.method != "env":
                return None
            said = os.environ.get("AWS_CREDENTIAL_EXPIRATION")
        if not said:
            return None
        try:
            ends_at = datetime.fromisoformat(said)
        except ValueError:
            return None
        return ends_at.astimezone(UTC) if ends_at.tzinfo else ends_at.replace(tzinfo=UTC)

    def role_arn(self, account_id: AccountId) -> str | None:
        """None: rekeyd's own credentials. NotFoundError for an account that the configuration does not reach."""
        return self._role(account_id)[0]

    def renew(self) -> None:
        """Forget all credentials and clients: AWS refused them, and whoever provides them may have newer ones."""
        with self._lock:
            self._own = None
            self._roles.clear()

    # how it is made

    def _role(self, account_id: AccountId) -> tuple[str | None, Path | None]:
        for account in self.settings.accounts:
            if account.id == account_id:
                return account.role_arn, account.external_id_file
        organization = self.settings.organization
        if account_id == self.own_account_id() and (organization or not self.settings.accounts):
            return None, None
        if organization is None or account_id in organization.exclude_accounts:
            raise NotFoundError(f"account {account_id} is not one that the configuration watches")
        arn = f"arn:{self.partition}:iam::{account_id}:role/{organization.role_name}"
        return arn, organization.external_id_file

    def _client(
        self,
        account_id: AccountId | None,
        key: str,
        service: str,
        config: Config,
        *,
        region: str | None = None,
    ) -> Any:
        with self._lock:
            entrance = self._signed_in(account_id)
            if key not in entrance.clients:
                entrance.clients[key] = self._make(entrance.session, service, config, region or self.settings.region)
            return entrance.clients[key]

    def _signed_in(self, account_id: AccountId | None) -> _Entrance:
        """A client made while there are no credentials would never have any: TemporaryError."""
        entrance = self._entrance(account_id)
        call = Call(action="sign in", account_id=account_id)
        if ask(call, entrance.session.get_credentials) is None:
            raise TemporaryError(
                "no AWS credentials found", hint="set AWS_PROFILE, or run with an instance, task or pod role"
            )
        return entrance

    def _entrance(self, account_id: AccountId | None) -> _Entrance:
        role_arn, external_id_file = self._role(account_id) if account_id else (None, None)
        if account_id is None or role_arn is None:
            if self._own is None:
                self._own = _Entrance(session=_plain_session(self._loader))
            return self._own
        if account_id not in self._roles:
            call = Call(action="sts:AssumeRole", account_id=account_id)
            credentials = DeferredRefreshableCredentials(
                refresh_using=lambda: self._assume(call, role_arn, external_id_file), method="assume-role"
            )
            session = _plain_session(self._loader)
            # The only provider: should the role fail, nothing of the environment may take its place.
            session.register_component("credential_provider", CredentialResolver([_Fixed(credentials)]))
            self._roles[account_id] = _Entrance(session=session)
        return self._roles[account_id]

    def _assume(self, call: Call, role_arn: str, external_id_file: Path | None) -> Any:
        """New session credentials. Its errors are rekeyd's: botocore logs them with traceback, answer and all."""
        extra: dict[str, Any] = {"RoleSessionName": self.session_name, "DurationSeconds": SESSION_SECONDS}
        if external_id_file is not None:
            extra["ExternalId"] = _external_id(external_id_file, call)
        with self._lock:
            source = self._entrance(None).session.get_credentials()
        if source is None:
            raise TemporaryError(f"{call} was not sent: no AWS credentials found")
        fetcher = AssumeRoleCredentialFetcher(self._source_client, source, role_arn, extra_args=extra)
        return ask(call, fetcher.fetch_credentials)

    def _source_client(self, service: str, **credentials: Any) -> Any:
        with self._lock:
            session = self._entrance(None).session
            return self._make(session, service, _IDENTITY, self.settings.region, **credentials)

    def _make(
        self, session: botocore.session.Session, service: str, config: Config, region: str, **credentials: Any
    ) -> Any:
        call = Call(action=f"{service}:*", account_id=None)
        create: Any = session.create_client
        return ask(
            call,
            lambda: create(
                service, region_name=region, endpoint_url=self.settings.endpoint_url, config=config, **credentials
            ),
        )


class _Fixed(CredentialProvider):
    """A credential provider that has one answer."""

    METHOD = "assume-role"

    def __init__(self, credentials: DeferredRefreshableCredentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> DeferredRefreshableCredentials:
        return self._credentials


def _plain_session(loader: Any) -> botocore.session.Session:
    session = botocore.session.Session()
    session.register_component("data_loader", loader)
    # AWS_STS_REGIONAL_ENDPOINTS=legacy in the environment would prove keys at one place only.
    session.set_config_variable("sts_regional_endpoints", "regional")
    return session


def _session_name(instance: str) -> str:
    """STS takes 2-64 of these characters; CloudTrail shows it as the user."""
    return re.sub(r"[^\w+=,.@-]", "-", f"rekeyd-{instance}", flags=re.ASCII)[:64]


def _external_id(path: Path, call: Call) -> str:
    try:
        external_id = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{call}: external_id_file {path} cannot be read ({type(error).__name__})") from error
    if not external_id:
        raise ConfigError(f"{call}: external_id_file {path} is empty")
    return external_id
