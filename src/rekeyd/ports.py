"""What the rules need from the outside, as protocols. Adapters implement them; tests/world.py does too.

Rules for every implementation:
* Foreign exceptions are wrapped into `rekeyd.errors`; no response body, no secret in a message.
* A call that changes something outside takes a `guard` and calls it last, right before the request leaves
  (after signing): it raises `LeaseLostError` and then nothing must be sent.
* A lost answer to a change is `OutcomeUnknownError`; `TemporaryError` promises that nothing happened.
* Reads retry by themselves; changes never do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from rekeyd.core.model import (
    AccessKey,
    AccessKeyId,
    AccountId,
    Asked,
    CreateIntent,
    JournalFacts,
    KeyStatus,
    LastUse,
    Place,
    Principal,
    Proof,
    PublishNote,
    Retirement,
    RetireWhy,
    Rotation,
    RotationId,
    RotationKind,
    UserId,
    VaultHistory,
    VaultSeen,
)
from rekeyd.core.notice import AlarmState, Notice, state_of
from rekeyd.core.posture import AccountSummary as AccountSummary
from rekeyd.core.posture import CredentialReport as CredentialReport
from rekeyd.core.posture import ExposureNotice as ExposureNotice
from rekeyd.core.posture import ReportKey as ReportKey
from rekeyd.core.posture import ReportRow as ReportRow
from rekeyd.core.reasons import Reason
from rekeyd.core.rights import PasswordPolicy as PasswordPolicy
from rekeyd.core.rights import UserRights as UserRights
from rekeyd.core.secret import Secret

Guard = Callable[[], None]
"""Raises LeaseLostError when the caller may not change anything outside any more."""


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> datetime:
        """Aware UTC."""

    def monotonic(self) -> float:
        """Seconds; never goes back, and keeps counting while the machine is suspended."""

    def sleep(self, duration: timedelta) -> None:
        """Raises StoppingError as soon as the process is asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An access key ID and its secret access key. It lives in memory only."""

    access_key_id: AccessKeyId
    secret_access_key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    pair: Pair
    created_at: datetime
    user_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerIdentity:
    account_id: AccountId
    arn: str
    user_id: str
    """As STS gives it: a `UserId` for an IAM user, `AROA…:session` for a role, the account id for root."""

    @property
    def is_root(self) -> bool:
        return self.arn.endswith(":root")


class Iam(Protocol):
    """IAM of one account, called as the role or identity that the configuration names."""

    account_id: AccountId

    def get_user(self, user_name: str) -> Principal:
        """With tags. NotFoundError when there is none."""

    def list_users(self) -> tuple[Principal, ...]:
        """Every user with tags, in bulk (account authorization details)."""

    def list_access_keys(self, user_name: str) -> tuple[AccessKey, ...]: ...

    def owner_of_key(self, key_id: AccessKeyId) -> str | None:
        """The user's name; None: the root user. NotFoundError: no such key in this account."""

    def last_use(self, key_id: AccessKeyId) -> LastUse:
        """Never raises for an answer that AWS refuses: that is UseUnknown."""

    def create_access_key(self, user_name: str, *, operation_id: str, guard: Guard) -> CreatedKey:
        """Sent exactly once. OutcomeUnknownError: a key may exist whose secret is lost."""

    def update_access_key(self, user_name: str, key_id: AccessKeyId, status: KeyStatus, *, guard: Guard) -> None: ...

    def delete_access_key(self, user_name: str, key_id: AccessKeyId, *, guard: Guard) -> None:
        """A key that is gone already is success."""

    def account_summary(self) -> AccountSummary: ...

    def password_policy(self) -> PasswordPolicy:
        """An account without one has AWS's default."""

    def user_rights(self) -> Mapping[str, UserRights]:
        """By ARN: every user's policies, judged (account authorization details with groups and policies)."""

    def root_used_at(self, *, since: datetime) -> datetime | None:
        """By CloudTrail: the newest call or sign-in of the root user itself since then; None: it shows none."""

    def exposure_notices(self) -> tuple[ExposureNotice, ...] | None:
        """By AWS Health: open notices of credentials in wrong hands. None: it is not asked, or has no answer for this
        account, which lacks the support plan."""

    def account_alias(self) -> str | None: ...

    def credential_report(self, *, max_wait: timedelta) -> CredentialReport:
        """TemporaryError when it is still being made after `max_wait`."""

    def who_created(self, intents: Sequence[CreateIntent], user_name: str) -> Mapping[AccessKeyId, str | None] | None:
        """CloudTrail's CreateAccessKey events of this user since the oldest intent: key id to the operation id of
        ours that its event carries, or None for somebody else's. None instead of a map: it cannot be asked."""


class Sts(Protocol):
    """Identity calls."""

    def caller_identity(self, account_id: AccountId) -> CallerIdentity:
        """Whom rekeyd acts as in that account."""

    def credentials_expire_at(self, account_id: AccountId) -> datetime | None:
        """When the credentials for that account end for good; None: they are refreshed or do not end."""

    def prove(self, pair: Pair, principal: Principal, *, region: str | None = None) -> Proof:
        """Sign GetCallerIdentity with the pair, once, freshly. None: `aws.region`. An answer of AWS never raises."""


class Cloud(Protocol):
    """All accounts."""

    def accounts(self) -> "Accounts":
        """Which accounts to watch, freshly from the configuration or the organization."""

    def iam(self, account_id: AccountId) -> Iam: ...

    @property
    def sts(self) -> Sts: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    watched: tuple[AccountId, ...]
    unwatched: Mapping[AccountId, str] = field(default_factory=dict)
    """Excluded, suspended or otherwise not enterable, with the reason for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The journal's high-water mark, as it stands in Vault."""

    version: int
    """Of the Vault secret, for check-and-set; 0: there is no mark yet."""
    instance: str
    incarnation: str
    """A random id of the journal; a journal made anew has another."""
    seq: int
    event_hash: str


class Vault(Protocol):
    """KV v2 of Vault or OpenBao. Reads that decide something come from the leader."""

    def current(self, place: Place) -> VaultSeen:
        """Never raises for an unreadable secret: that is VaultUnreadable."""

    def history(self, place: Place) -> VaultHistory | None:
        """The kept versions; None when nothing was ever written or the metadata cannot be read."""

    def read_pair(self, place: Place, version: int) -> Pair | None:
        """That version's pair; None when it has none. TemporaryError/RefusedError when it cannot be read."""

    def check_writable(self, place: Place) -> None:
        """PreconditionError naming the missing capability; also when the mount is not KV v2 or Vault is sealed."""

    def token_ends_at(self) -> datetime | None:
        """When the token ends unless renewed or replaced; None: it does not."""

    def token_ends_before(self, needed_until: datetime) -> datetime | None:
        """When the token ends, if that is earlier than it is needed and rekeyd can do nothing about it; None: there
        will be one. What ends too early is renewed or replaced by a login first; where not even a new one lives that
        long, the work depends on a renewal on the way, of which `rekeyd doctor` warns."""

    def publish(
        self, place: Place, pair: Pair, *, cas: int, extra: Mapping[str, str], guard: Guard, give_up_at: datetime
    ) -> tuple[int, datetime]:
        """Write id and secret in one version, keeping other people's fields; returns (version, created_time).

        ConflictError: version cas + 1 is somebody else's, ours did not land. OutcomeUnknownError: not known by
        `give_up_at` (or the process is stopping). The same body is sent with the same cas until it is known.
        """

    def burn(self, place: Place, *, cas: int, guard: Guard) -> int:
        """Move the version without changing what consumers read; returns the new version. ConflictError as above."""

    def write_note(self, place: Place, note: PublishNote) -> None:
        """Patch rekeyd's custom metadata, leaving everybody else's alone."""

    def destroy(self, place: Place, versions: Sequence[int]) -> None:
        """For good. Idempotent."""

    def read_mark(self) -> Mark: ...

    def write_mark(self, mark: Mark) -> int:
        """Check-and-set on `mark.version`; returns the new version. ConflictError when somebody else wrote it."""


# --- journal ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    account_id: AccountId
    holder: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest event of the journal."""

    incarnation: str
    seq: int
    event_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEvent:
    seq: int
    at: datetime
    actor: str
    """`daemon`, or `user:<unix name>` for a command."""
    account_id: AccountId | None
    user_name: str | None
    rotation_id: RotationId | None
    event: str
    access_key_id: AccessKeyId | None
    reason: Reason | None
    detail: Mapping[str, str | int | None]
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingChange:
    """A deactivation, reactivation or deletion of which no outcome was recorded."""

    holder: str
    holder_alive: bool
    """False: the kernel released its owner lock, or its heartbeat ended."""
    key_id: AccessKeyId
    verb: str
    sent_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """A fact's anchor: the Vault version that named `access_key_id` when the fact was recorded or last checked."""

    access_key_id: AccessKeyId | None
    version: int
    version_created_at: datetime | None
    place: Place | None
    """Where that version stood; None: in the journal of a rekeyd that did not write it down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything that the journal has on one principal, unchecked."""

    facts: JournalFacts
    user_name: str | None
    """Under which name the journal last knew this UserId; None: never seen."""
    name_taken_by: UserId | None
    """Another UserId that the journal has under the same name in this account."""
    anchor: Anchored | None
    pending: tuple[PendingChange, ...]
    last_change_at: datetime | None
    """Our last change of this user's keys in IAM, finished or not."""
    failures: int
    retry_at: datetime | None
    managed_before: bool
    """Whether rekeyd ever opened a rotation for, or recorded a publication of, this user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftPlace:
    """Where a moved pair stood before. Whoever still reads there will one day read a dead key."""

    id: int
    account_id: AccountId
    user_name: str
    place: Place
    left_at: datetime


class AccountJournal(Protocol):
    """The journal of one account as its holder.

    Every method is one durable transaction that first checks `(holder, epoch)` (LeaseLostError) and appends one
    hash-chained event. JournalError when it cannot be written: then the step must not go on.
    """

    lease: Lease

    def guard(self) -> None:
        """LeaseLostError unless the lease is still ours and this process's own heartbeat is fresh."""

    def known(self, principal: Principal) -> Known: ...

    def failures(self, principal: Principal) -> tuple[int, datetime | None]:
        """`failures` and `retry_at` of `known`, for much less."""

    def open_rotation(
        self,
        principal: Principal,
        *,
        kind: RotationKind,
        reason: Reason,
        asked_by: str | None,
        old_key_id: AccessKeyId | None,
        target: AccessKeyId | None,
        at: datetime,
        old_key_created_at: datetime | None = None,
    ) -> Rotation:
        """`old_key_created_at`: by IAM; for the audit trail alone."""

    def create_intended(
        self,
        principal: Principal,
        rotation_id: RotationId,
        *,
        operation_id: str,
        keys_before: frozenset[AccessKeyId],
        cas: int,
        place: Place,
        at: datetime,
    ) -> None: ...

    def created(
        self,
        principal: Principal,
        rotation_id: RotationId,
        key_id: AccessKeyId,
        *,
        at: datetime,
        reason: Reason | None = None,
    ) -> None:
        """Also for a key that was proven to be the lost one; then `reason` says by what."""

    def not_created(self, principal: Principal, rotation_id: RotationId, *, reason: Reason, at: datetime) -> None:
        """Certainly not made: the intent is resolved and the rotation is OPENED again."""

    def create_unknown(self, principal: Principal, rotation_id: RotationId, *, detail: str, at: datetime) -> None:
        """The answer was lost; the state stays CREATING and the intent stays unresolved."""

    def publish_intended(
        self, principal: Principal, rotation_id: RotationId, *, cas: int, at: datetime, proven_in: Sequence[str] = ()
    ) -> None:
        """`at`: when the pair was accepted in the last Region of `proven_in`, which is for the audit trail alone."""

    def published(
        self,
        principal: Principal,
        rotation_id: RotationId,
        *,
        key_id: AccessKeyId,
        place: Place,
        version: int,
        version_created_at: datetime,
        at: datetime,
    ) -> None:
        """`at`: when the pair that was read back from Vault was accepted.

        Starts the retirement of the rotation's old key (ROLLED_BACK for a rollback, else OVERLAP), ends the
        retirement of the published key, fulfils a pending request of this user, resets `held_dead_since`; a
        rollback sets `restored_key_id`, any other kind clears it."""

    def move_intended(self, principal: Principal, key_id: AccessKeyId, *, to: Place, cas: int, at: datetime) -> None:
        """Before the held pair is copied to another place."""

    def moved(
        self,
        principal: Principal,
        key_id: AccessKeyId,
        *,
        before: Place,
        to: Place,
        version: int,
        version_created_at: datetime,
        at: datetime,
    ) -> None:
        """The held pair stands at `to` and was proven there. No clock changes; the place before is a LeftPlace.

        For a pair that rekeyd had not published, it is from now on as if it had.
        """

    def burned(self, principal: Principal, rotation_id: RotationId, *, version: int, at: datetime) -> None: ...

    def start_retirement(
        self,
        principal: Principal,
        key_id: AccessKeyId,
        *,
        why: RetireWhy,
        reason: Reason,
        anchor: Anchored,
        at: datetime,
    ) -> None: ...

    def end_retirement(self, principal: Principal, key_id: AccessKeyId, *, reason: Reason, at: datetime) -> None:
        """The key is gone by another hand: its clocks end."""

    def forget(self, principal: Principal, *, reason: str, at: datetime) -> None:
        """A person says that the user re-created under this one's name may be managed: this one is history."""

    def seen_inactive(self, principal: Principal, key_id: AccessKeyId, *, reason: Reason, at: datetime) -> None:
        """Sets `deactivated_at` of its retirement to `at`."""

    def seen_active(self, principal: Principal, key_id: AccessKeyId, *, at: datetime) -> None:
        """It was deactivated and is Active by another hand: its quarantine is void, its retirement `reactivated`."""

    def change_intended(
        self, principal: Principal, key_id: AccessKeyId, *, verb: str, reason: Reason, at: datetime
    ) -> None:
        """`verb`: deactivate | reactivate | delete. Before the call."""

    def change_done(self, principal: Principal, key_id: AccessKeyId, *, verb: str, at: datetime) -> None:
        """After its success. deactivate sets `deactivated_at`, reactivate voids the retirement's quarantine."""

    def change_failed(self, principal: Principal, key_id: AccessKeyId, *, verb: str, detail: str, at: datetime) -> None:
        """It certainly did not happen: the intent is withdrawn."""

    def settle_pending(
        self, principal: Principal, key_id: AccessKeyId, *, verb: str, happened: bool, at: datetime
    ) -> None:
        """A later look showed what became of an intent without outcome."""

    def proven(self, principal: Principal, *, anchor: Anchored, at: datetime) -> None:
        """The pair of that Vault version was proven."""

    def reanchor(self, principal: Principal, *, anchor: Anchored) -> None:
        """The same key under a newer Vault version; no event, since somebody may edit the secret every second."""

    def restart_clocks(self, principal: Principal, *, reason: str, anchor: Anchored, at: datetime) -> None:
        """Every clock of this user starts again at `at`: the run of Vault versions was broken."""

    def held_dead(self, principal: Principal, *, since: datetime | None) -> None:
        """Remember (or, None: forget) that the held key was seen dead."""

    def close_rotation(
        self, principal: Principal, rotation_id: RotationId, *, reason: Reason, completed: bool, at: datetime
    ) -> None:
        """Unresolved create intents stay unresolved: a late CreateAccessKey may still show."""

    def failed(
        self, principal: Principal, *, error: str, retry_at: datetime, counts_for_brake: bool, at: datetime
    ) -> int:
        """Returns the number of failures in a row. `error` is a message of ours, never a response body."""

    def succeeded(self, principal: Principal) -> None:
        """Resets the failures in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A person's wish for one principal, kept until it is fulfilled or withdrawn."""

    id: int
    account_id: AccountId
    user_name: str
    asked: Asked
    answer: str | None = None
    """`published`, `withdrawn` or `refused`; None: still open."""
    reason: Reason | None = None
    begun: bool = False
    """Whether something irreversible was begun for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalStatus:
    """What the last look at a principal came to; what `status` and the API show."""

    account_id: AccountId
    user_name: str
    user_id: UserId
    policy: str | None
    state: str
    """fresh | due | rotating | overlap | quarantine | on_hold | frozen | refused | unmanaged"""
    reason: Reason
    message: str
    held_access_key_id: AccessKeyId | None
    old_access_key_id: AccessKeyId | None
    held_created_at: datetime | None
    oldest_active_at: datetime | None
    next_at: datetime | None
    """When the daemon looks again by itself; None: at the next drift look."""
    looked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    account_id: AccountId
    alias: str | None
    state: str
    """ok | failing | braked | unreachable | root_unwatched"""
    message: str
    last_pass_at: datetime | None
    """The last that ended well."""
    last_drift_at: datetime | None
    principals: int
    due: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A finding that a person must see, from its first sight to its end."""

    fingerprint: str
    """Stable over restarts: severity-free identity of the finding (account, principal, reason, key)."""
    severity: str
    reason: str
    account_id: AccountId | None
    principal: str | None
    message: str
    remedy: str
    cis: tuple[str, ...]
    first_seen_at: datetime
    last_seen_at: datetime
    notified_at: datetime | None
    """When it was last announced; None: not yet."""
    resolved_at: datetime | None = None
    repeats: int = 0
    """How often it was announced again since it was raised."""
    acknowledged_until: datetime | None = None
    """A person knows of it: until then it is not repeated. It stays open, and as severe as it is."""
    acknowledged_by: str | None = None
    acknowledged_because: str | None = None
    owner: str | None = None
    """Whom it is told, by the user's tag; None: whoever reads the channels. Only of `Notice.OWNER`."""

    def state(self, now: datetime) -> AlarmState:
        return state_of(
            resolved_at=self.resolved_at,
            acknowledged_until=self.acknowledged_until,
            repeats=self.repeats,
            now=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedKey:
    """An access key that a person, or AWS by its quarantine policy, says is in wrong hands, until it is gone or
    Inactive."""

    key_id: AccessKeyId
    account_id: AccountId
    user_name: str
    told_by: str
    told_at: datetime
    because: str
    over_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One thing to say about one alarm, with the alarm as it was then."""

    kind: Notice
    alarm: Alarm
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerNotice:
    """What the owner of a user is told: once for a reason and a key."""

    user_id: UserId
    key: str
    """The access key ID that it is about."""
    announcement: Announcement


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one channel is told in one message. Its id and content stay the same until the channel has taken it."""

    id: str
    channel: str
    announcements: tuple[Announcement, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """How a channel does; only of channels that were ever used."""

    name: str
    waiting: int
    """Announcements that it has not taken yet."""
    failures: int
    """In a row."""
    failing_since: datetime | None
    retry_at: datetime | None
    error: str
    """A message of ours; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Announcements in words. No secret is in it."""

    id: str
    """The same when it is sent again: a receiver can tell."""
    at: datetime
    severity: str
    """Of the worst that goes on: critical, high, medium; `resolved` when everything in it is over."""
    title: str
    text: str
    """`paragraphs`, and how many are `left`."""
    paragraphs: tuple[str, ...]
    """One of each announcement that is written out, the worst first."""
    left: int = 0
    """So many more announcements are not written out."""
    document: Mapping[str, object]
    """The same for programs."""


class OwnerChannels(Protocol):
    """Ways to the owners of users; each owner has a channel of its own, so that none waits for another's."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the ways. A channel's name is that of its way, a colon, and the owner."""

    @property
    def problem(self) -> str | None:
        """Why nobody can be told, though somebody should be; None: somebody can."""

    def names_for(self, owner: str) -> tuple[str, ...]:
        """Channels to this owner; empty: no way can take such an owner."""

    def channel(self, name: str) -> "Channel | None":
        """None: no such way, or not any more."""


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str:
        """The same over restarts; shown to people, so no secret is in it."""

    def send(self, message: Message) -> None:
        """Error: it was not taken, or that is not known; it will be sent again with the same id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    account_id: AccountId | None
    """None: the fleet's."""
    engaged_at: datetime
    retry_at: datetime
    failures: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainVerdict:
    events: int
    broken_at: int | None
    """The first seq whose hash does not follow from its predecessor; None: whole."""


class Journal(Protocol):
    """The SQL journal of one deployment: intents, outcomes, clocks, leases, alarms, audit.

    No column can hold a secret.
    """

    instance: str
    holder: str
    """This process: `host:pid:random`."""

    def close(self) -> None:
        """Frees this holder's leases and owner lock."""

    # the chain and the mark
    def head(self) -> Head: ...

    def contains(self, seq: int, event_hash: str) -> bool: ...

    def clock_event_since_mark(self) -> bool:
        """Whether a clock was started or voided after `marked`, so that the mark must be raised."""

    def marked(self, mark: Mark) -> None:
        """Remember the mark that this journal wrote last."""

    def last_mark(self) -> Mark | None: ...

    def refuse_requests(self, *, reason: Reason, at: datetime) -> None:
        """Answer every open request `refused`: an old copy of the journal does not know which of them were served."""

    def restart_all_clocks(self, *, reason: str, at: datetime) -> None:
        """No clock of any user counts from before `at` (the journal was lost or restored)."""

    def append(
        self,
        event: str,
        *,
        at: datetime,
        actor: str,
        account_id: AccountId | None = None,
        user_name: str | None = None,
        reason: Reason | None = None,
        access_key_id: AccessKeyId | None = None,
        detail: Mapping[str, str | int | None] | None = None,
    ) -> int:
        """An audit event outside a lease (start, brake, request, alarm …); returns its seq."""

    def history(
        self,
        *,
        account_id: AccountId | None = None,
        user_name: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> tuple[JournalEvent, ...]:
        """Oldest first; with `limit` the newest of them."""

    def verify(self) -> ChainVerdict: ...

    # leases (SCALE.md D4, D7)
    def beat(self) -> None:
        """Heartbeat of this holder; also frees the rows of holders that are dead."""

    def acquire(self, account_id: AccountId, *, actor: str) -> AccountJournal | None:
        """None: another live holder has it."""

    def known(self, principal: Principal) -> Known:
        """The same as `AccountJournal.known`, without a lease: to look, not to act."""

    def release(self, lease: Lease) -> None: ...

    def holder_of(self, account_id: AccountId) -> str | None: ...

    # requests
    def ask(self, account_id: AccountId, user_name: str, asked: Asked) -> int: ...

    def ask_for_exposed(self, exposed: ExposedKey, *, by: str, at: datetime, again_after: timedelta) -> int | None:
        """An emergency for the key's user, once for this exposure; None: it was asked for already.

        A request that was refused is repeated `again_after` its answer. Atomic: any process may call it at any time.
        """

    def requests(self, account_id: AccountId | None = None, *, open_only: bool = True) -> tuple[Request, ...]:
        """Emergencies first, then by age."""

    def request(self, request_id: int) -> Request: ...

    def answer(self, request_id: int, answer: str, *, reason: Reason | None, at: datetime) -> None: ...

    def withdraw(self, request_id: int, *, at: datetime) -> bool:
        """False: too late, it was begun or answered."""

    # state for people, selection and metrics
    def save_status(self, status: PrincipalStatus, *, actor: str = "daemon") -> None:
        """A refusal is audited once: when it begins, or when its reason or its keys change."""

    def drop_status(self, account_id: AccountId, user_ids: Sequence[UserId]) -> None: ...

    def statuses(self, account_id: AccountId | None = None) -> tuple[PrincipalStatus, ...]: ...

    def save_account(self, status: AccountStatus) -> None: ...

    def account_statuses(self) -> tuple[AccountStatus, ...]: ...

    def open_users(self, account_id: AccountId) -> Mapping[UserId, str]:
        """Users with an open rotation, a retirement, an unresolved intent or a pending change, with their last name."""

    def retirements(self, account_id: AccountId) -> Mapping[tuple[UserId, AccessKeyId], Retirement]:
        """Of all keys of the account that are on their way out."""

    def rotations_opened_since(self, at: datetime) -> int: ...

    def publications(self) -> Mapping[tuple[AccountId, UserId], Place]:
        """Where every user's pair was last published (collisions, moves)."""

    def left_places(self, account_id: AccountId) -> tuple[LeftPlace, ...]: ...

    def left_place_emptied(self, left: LeftPlace, *, actor: str, at: datetime) -> None: ...

    # brake
    def brakes(self) -> tuple[Brake, ...]: ...

    def engage_brake(self, brake: Brake, *, at: datetime) -> None: ...

    def release_brake(self, account_id: AccountId | None, *, actor: str, at: datetime) -> bool: ...

    def note_issue_result(self, account_id: AccountId, user_id: UserId, *, failed: bool) -> int:
        """After CreateAccessKey was sent: returns how many different users failed in a row in this account."""

    # alarms
    def alarms(self, *, open_only: bool = True) -> tuple[Alarm, ...]: ...

    def save_alarm(self, alarm: Alarm) -> None:
        """All but the acknowledgement, which a worsening or a new life of the alarm voids."""

    def announce(self, announcements: Sequence[Announcement], channels: Sequence[str], *, at: datetime) -> None:
        """Save the alarms, and put the announcements into the outbox of each channel, in one transaction."""

    def acknowledge(
        self, fingerprint: str, *, until: datetime, by: str, because: str, channels: Sequence[str], at: datetime
    ) -> Alarm | None:
        """Audited, and announced on these channels. None: no such alarm is open."""

    def tell_exposed(self, exposed: ExposedKey) -> None: ...

    def tell_exposed_once(self, exposed: ExposedKey, *, since: datetime) -> bool:
        """The same, unless the key is marked already, or was since then. False: nothing was changed."""

    def exposed_keys(self, account_id: AccountId, *, open_only: bool = True) -> tuple[ExposedKey, ...]: ...

    def exposure_over(self, exposed: ExposedKey, *, at: datetime) -> None: ...

    # outbox
    def has_mail(self, channel: str, *, at: datetime, ready_before: datetime) -> bool:
        """Whether `take_batch` would give something now. Only reads."""

    def take_batch(self, channel: str, *, at: datetime, ready_before: datetime) -> Batch | None:
        """What this channel is to be told now, begun by this holder; None: nothing, not yet, or another one is at it.

        A batch that was not taken comes again as it was. A new one has everything announced before `ready_before`.
        """

    def batch_sent(self, batch: Batch, *, at: datetime) -> None:
        """The channel took it: audited, and gone from the outbox."""

    def batch_failed(
        self, batch: Batch, *, error: str, retry_at: datetime, at: datetime, given_up: bool = False
    ) -> None:
        """It is sent again; `given_up`: never, and the channel is told what waits behind it. Audited."""

    def channel_states(self) -> tuple[ChannelState, ...]: ...

    def drop_channels(self, keep: Sequence[str], *, at: datetime) -> int:
        """Forget channels that are not configured any more; returns how many announcements went with them.

        Where a way to owners is kept, so are the channels to its owners.
        """

    # owners of users
    def owner_notices(self, account_id: AccountId) -> frozenset[tuple[UserId, str, str]]:
        """What owners were told, or could not be told: (user, reason, key)."""

    def tell_owner(self, notice: OwnerNotice, channels: Sequence[str], *, at: datetime) -> bool:
        """Put it into the outbox of each channel, and remember that; False: it was told before.

        No channels: it is remembered, and in the audit trail, that nobody could be told.
        """

    def ready_channels(self, *, at: datetime, ready_before: datetime) -> tuple[str, ...]:
        """All for which `take_batch` would give something now."""

    def drop_owner_mail(self, ways: Sequence[str], *, before: datetime, at: datetime) -> int:
        """What owners could not be told since `before` is given up; returns how many announcements."""
