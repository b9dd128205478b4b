"""The state of the emulated AWS and its rules (facts/aws.md part 1); the ports on it are in `iam.py`.

* two keys per user, inactive ones count; only `add_key` of the operators may exceed it
* CreateDate has whole seconds
* a change of a key reaches each Region's authentication after its own delay, drawn from the seed
* IAM's lists may lag behind; the last use lags, is kept once per 15 minutes, and only of accepted calls
* user names are unique without regard to case; a user made again has another UserId
"""

import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from rekeyd.core.model import (
    MAX_KEYS_PER_USER,
    AccessKey,
    AccessKeyId,
    AccountId,
    KeyStatus,
    Principal,
    Used,
    UserId,
)
from rekeyd.errors import LimitExceededError, NotFoundError, RefusedError
from rekeyd.ports import CallerIdentity, CredentialReport, ExposureNotice, PasswordPolicy
from tests.world.clock import OwnClock, VirtualClock

# "When an access key is used more than once in a 15-minute span, only the first use is recorded."
USE_SPAN = timedelta(minutes=15)
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Hand(StrEnum):
    """Who did it."""

    REKEYD = "rekeyd"
    ADMIN = "admin"
    SETUP = "setup"


@dataclass(slots=True, kw_only=True)
class Lags:
    """How far AWS is behind itself. A pair is a range from which the seed draws."""

    new_key: tuple[timedelta, timedelta] = (timedelta(seconds=2), timedelta(seconds=8))
    """Until a new or reactivated key is accepted."""
    dead_key: tuple[timedelta, timedelta] = (timedelta(seconds=2), timedelta(seconds=4))
    """Until a deactivated or deleted key is refused."""
    region_extra: dict[str, timedelta] = field(default_factory=dict)
    """Added in that Region; a cut-off Region has a very long one."""
    listing: timedelta = timedelta(0)
    """How long ListAccessKeys may still show the state before a change."""
    listing_flaps: bool = False
    """Within that time each list shows the old or the new state, as the seed wills."""
    last_use: timedelta = timedelta(minutes=10)
    cloudtrail: tuple[timedelta, timedelta] = (timedelta(minutes=2), timedelta(minutes=12))
    report_every: timedelta = timedelta(hours=4)
    report_takes: timedelta = timedelta(seconds=2)


@dataclass(slots=True, kw_only=True, eq=False)
class KeyState:
    id: AccessKeyId
    secret: str
    owner: "UserState"
    created_at: datetime
    made_by: Hand
    operation_id: str | None
    status: KeyStatus
    status_by: Hand
    changes: list[tuple[datetime, bool]]
    """(when, usable from then on), for propagation."""
    deleted_by: Hand | None = None
    uses: deque[tuple[datetime, Used]] = field(default_factory=deque)
    """(visible from, use), not visible yet."""
    last_use: Used | None = None
    recorded_at: datetime | None = None
    seen_inactive_at: datetime | None = None
    """Since when rekeyd can know it to be Inactive; None: it is Active, or rekeyd was never shown it so."""
    adopted: bool = False
    """The only key of a user with nothing in Vault when rekeyd made the second: the one that rekeyd replaces."""

    @property
    def deleted(self) -> bool:
        return self.deleted_by is not None


@dataclass(slots=True, kw_only=True, eq=False)
class UserState:
    account: "AccountState"
    name: str
    user_id: UserId
    path: str
    tags: dict[str, str]
    keys: dict[AccessKeyId, KeyState] = field(default_factory=dict)
    """The living ones."""
    deleted_by: Hand | None = None
    password_enabled: bool = False
    mfa_active: bool = False
    snapshots: list[tuple[datetime, tuple[AccessKey, ...]]] = field(default_factory=list)
    """(shown from, list), oldest first."""
    principal_cache: Principal | None = None

    @property
    def principal(self) -> Principal:
        if self.principal_cache is None:
            self.principal_cache = Principal(
                account_id=self.account.id,
                user_name=self.name,
                user_id=self.user_id,
                path=self.path,
                arn=f"arn:{self.account.partition}:iam::{self.account.id}:user{self.path}{self.name}",
                tags=None if self.account.tags_unreadable else dict(self.tags),
            )
        return self.principal_cache


@dataclass(slots=True, kw_only=True, eq=False)
class RootKey:
    created_at: datetime
    active: bool = True
    last_used_at: datetime | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class TrailEvent:
    at: datetime
    visible_at: datetime
    user_name: str
    key_id: AccessKeyId
    operation_id: str | None


STRONG_PASSWORDS = PasswordPolicy(minimum_length=14, reuse_prevention=24)


@dataclass(slots=True, kw_only=True, eq=False)
class AccountState:
    """One account and its switches; set the public fields at will."""

    id: AccountId
    partition: str
    alias: str | None
    caller: CallerIdentity
    credentials_expire_at: datetime | None = None
    users: dict[str, UserState] = field(default_factory=dict)
    """By case-folded name."""
    root_keys: list[RootKey] = field(default_factory=list)
    root_mfa: bool = True
    root_password: bool = True
    root_password_last_used_at: datetime | None = None
    password_policy: PasswordPolicy = STRONG_PASSWORDS
    administrators: dict[str, str] = field(default_factory=dict)
    """User name to the policy that makes it one."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """User name to the quarantine policy that AWS attached."""
    exposure_notices: tuple[ExposureNotice, ...] | None = None
    """AWS Health's; None: it is not asked, or has no answer."""
    root_seen_used_at: datetime | None = None
    """The newest use of the root user that CloudTrail shows."""
    trail: list[TrailEvent] = field(default_factory=list)
    report: CredentialReport | None = None
    report_ready_at: datetime | None = None
    # switches
    unreachable: bool = False
    """Every call as this account's role: TemporaryError, nothing happened."""
    denied: set[str] = field(default_factory=set)
    """Names of `Iam` and `Sts` methods that are refused with AccessDeniedError."""
    throttled: int = 0
    """So many next calls are throttled."""
    cloudtrail: bool = True
    """Whether LookupEvents is permitted."""
    unwatched: str | None = None
    """Excluded or suspended, and why."""
    tags_unreadable: bool = False
    summary_blind: bool = False
    """The account summary shows no root access key, whatever there is."""
    report_blind: bool = False
    """The credential report lists no root access key, whatever there is."""

    def forget_principals(self) -> None:
        """After `tags_unreadable` was switched."""
        for user in self.users.values():
            user.principal_cache = None


class Aws:
    """All accounts. Methods are IAM's control plane; `by` says whose hand it is."""

    def __init__(self, clock: VirtualClock, seed: int, lags: Lags, *, callers: OwnClock) -> None:
        self.clock = clock
        self.callers = callers
        """The clock of the machine that signs rekeyd's calls."""
        self.lags = lags
        self.accounts: dict[AccountId, AccountState] = {}
        self.keys: dict[AccessKeyId, KeyState] = {}
        """Every key that ever was, deleted ones too."""
        self.changed: set[UserState] = set()
        """Users whose keys changed since the promises were last checked."""
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret

    # --- accounts and users ---------------------------------------------------------------------------------------

    def account(self, account_id: str) -> AccountState:
        try:
            return self.accounts[AccountId(account_id)]
        except KeyError:
            raise NotFoundError(f"account {account_id}: there is no such account") from None

    def add_account(self, account_id: str, *, partition: str, alias: str | None) -> AccountState:
        arn = f"arn:{partition}:sts::{account_id}:assumed-role/rekeyd/rekeyd"
        caller = CallerIdentity(account_id=AccountId(account_id), arn=arn, user_id="AROAREKEYDREKEYDREKE:rekeyd")
        account = AccountState(id=AccountId(account_id), partition=partition, alias=alias, caller=caller)
        self.accounts[account.id] = account
        return account

    def user(self, account_id: str, user_name: str) -> UserState:
        user = self.account(account_id).users.get(user_name.casefold())
        if user is None:
            raise NotFoundError(f"user {user_name} in account {account_id}: there is no such user")
        return user

    def users(self) -> Iterator[UserState]:
        for account in list(self.accounts.values()):
            yield from list(account.users.values())

    def create_user(self, account_id: str, user_name: str, *, path: str, tags: Mapping[str, str]) -> UserState:
        account = self.account(account_id)
        if user_name.casefold() in account.users:
            raise RefusedError(f"user {user_name} in account {account_id}: the name is taken, whatever its case")
        user = UserState(
            account=account, name=user_name, user_id=UserId(f"AIDA{self._word(17)}"), path=path, tags=dict(tags)
        )
        user.snapshots = [(self.clock.now(), ())]
        account.users[user_name.casefold()] = user
        return user

    def delete_user(self, user: UserState, *, by: Hand) -> None:
        for key in list(user.keys.values()):
            self.delete_key(key, by=by)
        user.deleted_by = by
        del user.account.users[user.name.casefold()]

    def rename_user(self, user: UserState, new_name: str, *, path: str | None = None) -> None:
        users = user.account.users
        if new_name.casefold() != user.name.casefold() and new_name.casefold() in users:
            raise RefusedError(f"user {new_name} in account {user.account.id}: the name is taken, whatever its case")
        del users[user.name.casefold()]
        user.name = new_name
        user.path = user.path if path is None else path
        user.principal_cache = None
        users[new_name.casefold()] = user

    # --- keys -----------------------------------------------------------------------------------------------------

    def create_key(
        self,
        user: UserState,
        *,
        by: Hand,
        operation_id: str | None = None,
        age: timedelta = timedelta(0),
        status: KeyStatus = KeyStatus.ACTIVE,
        over_quota: bool = False,
    ) -> KeyState:
        if len(user.keys) >= MAX_KEYS_PER_USER and not over_quota:
            raise LimitExceededError(
                f"user {user.name} in account {user.account.id}: cannot exceed quota for AccessKeysPerUser: 2"
            )
        now = self.clock.now()
        at = now - age
        key = KeyState(
            id=AccessKeyId(f"AKIA{self._word(16)}"),
            secret="".join(self._random.choices(_BASE64, k=40)),
            owner=user,
            created_at=at.replace(microsecond=0),
            made_by=by,
            operation_id=operation_id,
            status=status,
            status_by=by,
            changes=[(at, status is KeyStatus.ACTIVE)],
        )
        user.keys[key.id] = key
        self.keys[key.id] = key
        self._keys_changed(user)
        if age <= timedelta(0):
            delay = self._draw(self.lags.cloudtrail, f"trail/{key.id}")
            user.account.trail.append(
                TrailEvent(
                    at=now, visible_at=now + delay, user_name=user.name, key_id=key.id, operation_id=operation_id
                )
            )
        return key

    def set_status(self, key: KeyState, status: KeyStatus, *, by: Hand) -> None:
        key.status_by = by
        if key.status is status:
            return
        key.status = status
        key.seen_inactive_at = None
        key.changes.append((self.clock.now(), status is KeyStatus.ACTIVE))
        self._keys_changed(key.owner)

    def delete_key(self, key: KeyState, *, by: Hand) -> None:
        key.deleted_by = by
        key.changes.append((self.clock.now(), False))
        del key.owner.keys[key.id]
        self._keys_changed(key.owner)

    def listed(self, user: UserState) -> tuple[AccessKey, ...]:
        """As ListAccessKeys shows it now."""
        shown = user.snapshots
        if len(shown) > 1:
            now = self.clock.now()
            while len(shown) > 1 and shown[1][0] <= now:
                del shown[0]
            if self.lags.listing_flaps and len(shown) > 1:
                return self._random.choice(shown)[1]
        return shown[0][1]

    # --- authentication -------------------------------------------------------------------------------------------

    def honoured(self, key: KeyState, region: str, *, ahead: timedelta = timedelta(0)) -> bool:
        """Whether that Region accepts the key id now (or `ahead` of now, if nothing more changes)."""
        now = self.clock.now() + ahead
        changes = key.changes
        for index in range(len(changes) - 1, -1, -1):
            at, usable = changes[index]
            if now >= at + self._propagation(key, index, region, usable=usable):
                return usable
        return False

    def authenticate(self, key_id: str, secret: str, region: str) -> KeyState | str:
        """The key, or `InvalidClientTokenId` or `SignatureDoesNotMatch`."""
        key = self.keys.get(AccessKeyId(key_id))
        if key is None or not self.honoured(key, region):
            return "InvalidClientTokenId"
        if key.secret != secret:
            return "SignatureDoesNotMatch"
        return key

    def record_use(self, key: KeyState, *, service: str, region: str) -> None:
        now = self.clock.now()
        if key.recorded_at is not None and now - key.recorded_at < USE_SPAN:
            return
        key.recorded_at = now
        key.uses.append((now + self.lags.last_use, Used(at=now.replace(microsecond=0), service=service, region=region)))

    def visible_use(self, key: KeyState) -> Used | None:
        now = self.clock.now()
        while key.uses and key.uses[0][0] <= now:
            key.last_use = key.uses.popleft()[1]
        return key.last_use

    # --- chance ---------------------------------------------------------------------------------------------------

    def _propagation(self, key: KeyState, index: int, region: str, *, usable: bool) -> timedelta:
        extra = self.lags.region_extra.get(region, timedelta(0))
        span = self.lags.new_key if usable else self.lags.dead_key
        if self.clock.now() - key.changes[index][0] >= span[1] + extra:
            return span[1] + extra
        return self._draw(span, f"{key.id}/{index}/{region}") + extra

    def _draw(self, span: tuple[timedelta, timedelta], name: str) -> timedelta:
        """The same for the same name, in whatever order it is asked."""
        share = random.Random(f"{self._seed}/{name}").random()  # noqa: S311 - repeatable, not secret
        return span[0] + (span[1] - span[0]) * share

    def _word(self, length: int) -> str:
        return "".join(self._random.choices(_BASE32, k=length))

    def _keys_changed(self, user: UserState) -> None:
        self.changed.add(user)
        keys = tuple(AccessKey(id=key.id, status=key.status, created_at=key.created_at) for key in user.keys.values())
        if self.lags.listing:
            user.snapshots.append((self.clock.now() + self.lags.listing, keys))
        else:
            user.snapshots = [(self.clock.now(), keys)]
