"""What exists in the emulated AWS, and since when.

Users, their access keys and tags live in moto's own IAM backend; this module
adds what moto has no notion of: when a change takes effect (new keys later,
ended keys later), root keys, roles with trust, sessions, last use that lags.

    usable(key, now, region) = the last of its changes that has taken effect there

One lock guards everything, since moto's dictionaries are not made for threads.
"""

import json
import secrets
import string
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from moto.core.base_backend import BackendDict
from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, iam_backends
from moto.utilities.utils import get_partition

from rekeyd.demo.emulator.clock import WorldClock
from rekeyd.demo.emulator.wire import AwsError

# What is older than the world has always been in effect.
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_ALPHABET = string.ascii_uppercase + string.digits[2:8]


@dataclass(slots=True, kw_only=True)
class Delays:
    """How slow this world is; all zero is a world without delays. May be changed while it runs."""

    propagation: timedelta = timedelta(0)
    """Until a created or reactivated key is accepted; on AWS seconds, unbounded."""
    revocation: timedelta = timedelta(0)
    """While a deactivated or deleted key is still accepted; on AWS 3-4 s were seen."""
    region_lag: dict[str, timedelta] = field(default_factory=dict)
    """Added to both, for requests signed for that Region."""
    list_lag: timedelta = timedelta(0)
    """How old the state is that ListAccessKeys shows."""
    last_used_lag: timedelta = timedelta(0)
    """Until a use is seen; on AWS not published, hours are possible."""
    last_used_span: timedelta = timedelta(0)
    """Uses within this time after a recorded one are not recorded; 15 minutes on AWS."""
    cloudtrail_lag: timedelta = timedelta(0)
    """Until LookupEvents shows an event; about 5 minutes on AWS, not guaranteed."""
    report_build: timedelta = timedelta(0)
    """From GenerateCredentialReport to the report."""
    report_lifetime: timedelta = timedelta(hours=4)
    """How long the same report is served; 4 hours on AWS."""
    signature_age: timedelta | None = None
    """Signatures dated further than this from the world's clock are refused; 15 minutes on AWS. None: not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    at: datetime
    service: str
    region: str


@dataclass(slots=True, kw_only=True)
class StoredKey:
    """A long-term access key and all that happened to it; kept after its deletion."""

    id: str
    secret_access_key: str = field(repr=False)
    account_id: str
    owner: Any
    """moto's User; None for a root key."""
    created_at: datetime
    history: list[tuple[datetime, str]]
    """(when, "Active" | "Inactive" | "Deleted" | another status), oldest first."""
    uses: list[Use] = field(default_factory=list)
    stored: Any = None
    """moto's AccessKey; None for a root key."""

    @property
    def user_name(self) -> str | None:
        return None if self.owner is None else str(self.owner.name)

    @property
    def status(self) -> str:
        return self.history[-1][1]

    @property
    def exists(self) -> bool:
        return self.status != "Deleted"

    def status_at(self, at: datetime) -> str | None:
        """None before its creation."""
        return next((status for since, status in reversed(self.history) if since <= at), None)

    def usable(self, now: datetime, delays: Delays, region: str | None) -> bool:
        """Whether the data plane of that Region accepts it."""
        lag = delays.region_lag.get(region or "", timedelta(0))
        usable = False
        for since, status in self.history:
            active = status == "Active"
            if since == LONG_AGO or now >= since + lag + (delays.propagation if active else delays.revocation):
                usable = active
        return usable

    def last_use(self, now: datetime, delays: Delays) -> Use | None:
        """As IAM's data shows it by now."""
        return next((use for use in reversed(self.uses) if use.at + delays.last_used_lag <= now), None)


@dataclass(slots=True, kw_only=True)
class Session:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str = field(repr=False)
    account_id: str
    arn: str
    user_id: str
    expires_at: datetime
    issued_at: datetime
    task: frozenset[str] | None = None
    """Actions that an AssumeRoot session may do; None for any other session."""
    user: Any = None
    """moto's User whose key asked for it, by GetSessionToken or GetFederationToken; None for any other session."""
    lag_from: datetime = LONG_AGO


@dataclass(slots=True, kw_only=True)
class EmulatedRole:
    arn: str
    role_id: str
    trusted_accounts: frozenset[str]
    external_id: str | None = field(repr=False)
    max_session: timedelta


@dataclass(slots=True, kw_only=True)
class Root:
    """The root user of an account."""

    created_at: datetime
    mfa: bool = True
    password: bool = False
    password_last_used_at: datetime | None = None
    password_changed_at: datetime | None = None
    certificate: bool = False
    """Whether it has a signing certificate."""


@dataclass(slots=True, kw_only=True)
class Denial:
    """An injected AccessDenied, in force until lifted."""

    account_id: str | None
    action: str
    user_name: str | None
    unless_tag: tuple[str, str] | None = None
    """Users with this tag are spared, as by a policy that allows by tag."""
    active: bool = True

    def lift(self) -> None:
        self.active = False

    def spares(self, tags: Mapping[str, str]) -> bool:
        return self.unless_tag is not None and tags.get(self.unless_tag[0]) == self.unless_tag[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who signed, once that is proven."""

    account_id: str
    arn: str
    user_id: str
    key: StoredKey | None = None
    session: Session | None = None

    @property
    def is_root(self) -> bool:
        return self.key is not None and self.key.owner is None

    @property
    def user_name(self) -> str | None:
        return None if self.key is None else self.key.user_name


class World:
    """Everything that exists, behind one lock."""

    def __init__(
        self, *, clock: WorldClock, delays: Delays, region: str, on_secret: Callable[[str], object] | None = None
    ) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.delays = delays
        self.region = region
        self.partition = str(get_partition(region))
        self.keys: dict[str, StoredKey] = {}
        self.sessions: dict[str, Session] = {}
        self.roles: dict[str, EmulatedRole] = {}
        self.roots: dict[str, Root] = {}
        self.denials: list[Denial] = []
        self.admins: set[str] = set()
        """Ids of users that may call more than GetCallerIdentity."""
        self._on_secret = on_secret
        self.secrets: list[str] = []
        """Every secret ever handed out: secret access keys and session tokens."""
        # moto's backends are global to the process: a world starts from nothing.
        BackendDict.reset()

    # -- moto's backend

    def iam(self, account_id: str) -> Any:
        return iam_backends[account_id][self.partition]

    def load_policy(self, account_id: str, arn: str) -> None:
        """Makes one of AWS's own managed policies known to moto, which loads all 1,600 or none."""
        backend = self.iam(account_id)
        if ":iam::aws:policy/" not in arn or arn in backend.managed_policies:
            return
        name = arn.rpartition("/")[2]
        document = json.loads(aws_managed_policies_data).get(name)
        if document is not None:
            policy = AWSManagedPolicy.from_data(name, account_id, self.partition, document)
            backend.managed_policies[policy.arn] = policy

    def find_user(self, account_id: str, name: str) -> Any:
        """moto's User or None; names are case-insensitive, as on AWS."""
        users = self.iam(account_id).users
        if name in users:
            return users[name]
        folded = name.casefold()
        return next((user for known, user in users.items() if known.casefold() == folded), None)

    def user(self, account_id: str, name: str) -> Any:
        found = self.find_user(account_id, name)
        if found is None:
            raise AwsError("NoSuchEntity", f"The user with name {name} cannot be found.")
        return found

    def root(self, account_id: str) -> Root:
        if account_id not in self.roots:
            self.roots[account_id] = Root(created_at=LONG_AGO)
        return self.roots[account_id]

    # -- keys

    def keys_of(self, account_id: str, owner: Any) -> list[StoredKey]:
        """Existing keys of a user (or of root: None), in order of creation."""
        if owner is not None:
            return [self.keys[key.access_key_id] for key in owner.access_keys]
        return [key for key in self._of_root(account_id) if key.exists]

    def keys_seen(self, account_id: str, owner: Any, at: datetime) -> list[tuple[StoredKey, str]]:
        """Keys and their status as they were at that time."""
        candidates: Iterator[StoredKey] | list[StoredKey]
        if self.delays.list_lag == timedelta(0):
            return [(key, key.status) for key in self.keys_of(account_id, owner)]
        if owner is None:
            candidates = self._of_root(account_id)
        else:
            candidates = (key for key in self.keys.values() if key.owner is owner)
        seen = [(key, key.status_at(at)) for key in candidates]
        return [(key, status) for key, status in seen if status is not None and status != "Deleted"]

    def make_key(self, account_id: str, owner: Any, *, effective_at: datetime | None = None) -> StoredKey:
        """Without looking at the quota. `effective_at` None: from now on, after the propagation delay."""
        now = self.clock.now()
        stored = None
        if owner is not None:
            stored = owner.create_access_key(prefix="AKIA")
            self.iam(account_id).access_keys[stored.access_key_id] = stored
        key_id = stored.access_key_id if stored is not None else _access_key_id("AKIA")
        key = StoredKey(
            id=key_id,
            secret_access_key=stored.secret_access_key if stored is not None else secrets.token_urlsafe(30),
            account_id=account_id,
            owner=owner,
            created_at=now.replace(microsecond=0),
            history=[(effective_at or now, "Active")],
            stored=stored,
        )
        self.date_key(key, key.created_at)
        self.keys[key.id] = key
        self._made_secret(key.secret_access_key)
        return key

    def date_key(self, key: StoredKey, created_at: datetime) -> None:
        key.created_at = created_at.replace(microsecond=0)
        if key.stored is not None:
            key.stored.create_date = key.created_at.replace(tzinfo=None)

    def change_key(self, key: StoredKey, status: str) -> None:
        """Status `Deleted` removes it from moto's user as well."""
        key.history.append((self.clock.now(), status))
        if key.stored is None:
            return
        if status != "Deleted":
            key.stored.status = status
            return
        if key.stored in key.owner.access_keys:
            key.owner.access_keys.remove(key.stored)
        self.iam(key.account_id).access_keys.pop(key.id, None)

    def find_key(self, account_id: str, owner: Any, key_id: str) -> StoredKey:
        """An existing key of that owner; NoSuchEntity otherwise."""
        key = self.keys.get(key_id)
        if key is None or not key.exists or key.owner is not owner or key.account_id != account_id:
            raise AwsError("NoSuchEntity", f"The Access Key with id {key_id} cannot be found.")
        return key

    def record_use(self, key: StoredKey, service: str, region: str) -> None:
        now = self.clock.now()
        if key.uses and now < key.uses[-1].at + self.delays.last_used_span:
            return
        # Only the newest visible use and those after it can ever be asked for.
        while len(key.uses) > 1 and key.uses[1].at + self.delays.last_used_lag <= now:
            key.uses.pop(0)
        key.uses.append(Use(at=now, service=service, region=region))

    # -- users

    def make_user(self, account_id: str, name: str, path: str, tags: list[dict[str, str]]) -> Any:
        """moto's User, with an id and a date like AWS's."""
        if self.find_user(account_id, name) is not None:
            raise AwsError("EntityAlreadyExists", f"User with name {name} already exists.")
        user = self.iam(account_id).create_user(self.region, name, path, tags)
        user.id = new_id("AIDA")
        user.create_date = self.clock.now().replace(microsecond=0, tzinfo=None)
        return user

    def rename_user(self, account_id: str, user: Any, new_name: str | None, new_path: str | None) -> None:
        """moto would lose the tags: it keeps them by ARN."""
        backend = self.iam(account_id)
        tags = user.tags or []
        backend.tagger.delete_all_tags_for_resource(user.arn)
        backend.update_user(user.name, new_path, new_name)
        backend.tagger.tag_resource(user.arn, tags)
        for key in user.access_keys:
            key.user_name = user.name

    # -- sessions

    def open_session(
        self,
        *,
        account_id: str,
        arn: str,
        user_id: str,
        lasts: timedelta,
        task: frozenset[str] | None = None,
        user: Any = None,
    ) -> Session:
        # Whole seconds, as aws:TokenIssueTime is.
        now = self.clock.now()
        session = Session(
            access_key_id=_access_key_id("ASIA"),
            secret_access_key=secrets.token_urlsafe(30),
            token=secrets.token_urlsafe(120),
            account_id=account_id,
            arn=arn,
            user_id=user_id,
            expires_at=(now + lasts).replace(microsecond=0),
            issued_at=now.replace(microsecond=0),
            task=task,
            user=user,
        )
        self.sessions[session.access_key_id] = session
        self._made_secret(session.secret_access_key)
        self._made_secret(session.token)
        return session

    # -- who may do what

    def denied(self, account_id: str, service: str, action: str, user_name: str | None) -> bool:
        return any(
            not each.spares(self.tags_of(account_id, user_name))
            for each in self.denials_of(account_id, service, action, user_name)
        )

    def denials_of(self, account_id: str, service: str, action: str, user_name: str | None) -> list[Denial]:
        """Those in force that concern the action, whatever tags they ask for."""
        return [
            denial
            for denial in self.denials
            if denial.active
            and denial.account_id in (None, account_id)
            and denial.user_name in (None, user_name)
            and (fnmatchcase(action, denial.action) or fnmatchcase(f"{service}:{action}", denial.action))
        ]

    def tags_of(self, account_id: str, user_name: str | None) -> dict[str, str]:
        user = self.find_user(account_id, user_name) if user_name else None
        return {} if user is None else {tag["Key"]: tag["Value"] for tag in user.tags or []}

    def arn(self, service: str, account_id: str, rest: str) -> str:
        return f"arn:{self.partition}:{service}::{account_id}:{rest}"

    def _made_secret(self, secret: str) -> None:
        self.secrets.append(secret)
        if self._on_secret is not None:
            self._on_secret(secret)

    def _of_root(self, account_id: str) -> list[StoredKey]:
        return [key for key in self.keys.values() if key.owner is None and key.account_id == account_id]


def new_id(prefix: str) -> str:
    """A unique id like AWS's: prefix and 17 letters or digits."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(17))


def _access_key_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(16))
