"""What rekeyd knows about a principal: immutable observations of IAM, Vault and the journal.

Times are aware UTC and end in `_at`. Ids are IAM's and Vault's own spelling.
"Not looked up", "looked up and empty" and "could not be looked up" are three
different values everywhere: unknown is never no (P4).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from rekeyd.core.reasons import Reason

AccountId = NewType("AccountId", str)
"""Twelve digits; leading zeros matter, so it is a string."""
UserId = NewType("UserId", str)
"""`AIDA…`: immutable, and not reused when a user is created again under the old name."""
AccessKeyId = NewType("AccessKeyId", str)
RotationId = NewType("RotationId", str)

# IAM allows two access keys per user and counts inactive ones; the quota cannot be raised.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
# It is not a hard invariant (parallel creation has produced eight), so code handles any number.
MAX_KEYS_PER_USER = 2


class KeyStatus(StrEnum):
    """IAM's spelling. Anything but ACTIVE cannot sign."""

    ACTIVE = "Active"
    INACTIVE = "Inactive"
    EXPIRED = "Expired"
    """In IAM's model since 2026 without documentation; rekeyd refuses to act on such a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The last recorded use. IAM records it late and at most every 15 minutes."""

    at: datetime
    service: str
    region: str
    """`N/A` for services without Regions."""


@dataclass(frozen=True, slots=True)
class NeverUsed:
    """IAM has no use on record."""


@dataclass(frozen=True, slots=True)
class UseUnknown:
    """The look-up failed. It is never read as "not used"."""

    detail: str


LastUse = Used | NeverUsed | UseUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    id: AccessKeyId
    status: KeyStatus
    created_at: datetime
    last_use: LastUse | None = None
    """None: nobody asked IAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An IAM user, identified by `user_id`; the name is only what IAM calls it now."""

    account_id: AccountId
    user_name: str
    user_id: UserId
    path: str
    arn: str
    tags: Mapping[str, str] | None = None
    """None: could not be read, so which policy applies cannot be told."""

    @property
    def label(self) -> str:
        return f"{self.account_id}/{self.user_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a pair lives in Vault: two places that differ in anything are two places."""

    address: str
    namespace: str
    mount: str
    path: str
    id_field: str
    secret_field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishNote:
    """What rekeyd wrote beside the secret (custom metadata). It counts only for the version that it names."""

    version: int
    user_id: UserId
    access_key_id: AccessKeyId
    old_access_key_id: AccessKeyId | None
    rotation_id: RotationId
    published_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultHeld:
    version: int
    created_at: datetime
    """The server's clock; compared for identity too, since numbering restarts after a metadata delete."""
    access_key_id: AccessKeyId
    note: PublishNote | None = None


@dataclass(frozen=True, slots=True)
class VaultAbsent:
    version: int
    """0: never written. n: the current version holds only our burn marker, and n is the number for check-and-set."""


@dataclass(frozen=True, slots=True)
class VaultDeleted:
    """Soft-deleted: somebody may undelete it."""

    version: int


@dataclass(frozen=True, slots=True)
class VaultDestroyed:
    version: int


@dataclass(frozen=True, slots=True)
class VaultWithoutPair:
    """There is a secret, and it has not both configured fields as non-empty strings."""

    version: int
    fields: tuple[str, ...]
    """Names only."""


@dataclass(frozen=True, slots=True)
class VaultUnreadable:
    detail: str


VaultSeen = VaultHeld | VaultAbsent | VaultDeleted | VaultDestroyed | VaultWithoutPair | VaultUnreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultVersion:
    version: int
    created_at: datetime
    readable: bool
    """False: deleted, destroyed, or its data could not be read."""
    access_key_id: AccessKeyId | None
    """None: unreadable, or no pair in it (a burn marker, say)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultHistory:
    """The versions that Vault still keeps, oldest first, as far as they were read."""

    created_at: datetime
    """When the secret's metadata was made: later than a recorded version means that numbering restarted."""
    current_version: int
    oldest_version: int
    """Versions below it were trimmed by `max_versions`."""
    versions: tuple[VaultVersion, ...]

    def latest_naming(self, key_id: AccessKeyId) -> VaultVersion | None:
        return next((v for v in reversed(self.versions) if v.access_key_id == key_id), None)

    def all_readable_since(self, version: int) -> bool:
        """Whether every version after `version` up to the current one is kept and readable."""
        seen = {v.version for v in self.versions if v.readable}
        return all(n in seen for n in range(version + 1, self.current_version + 1))


class RotationKind(StrEnum):
    NORMAL = "normal"
    EMERGENCY = "emergency"
    ADOPT = "adopt"
    """Vault had nothing; the old key is in unknown hands."""
    CREATE = "create"
    """A first key for a user without any."""
    REPAIR = "repair"
    """The held key is dead."""
    ROLLBACK = "rollback"


class IssueState(StrEnum):
    """How far the irreversible part of a rotation came, by what the journal durably says."""

    OPENED = "opened"
    """Nothing was sent."""
    CREATING = "creating"
    """CreateAccessKey may have been sent; its answer is not known."""
    CREATED = "created"
    """The new key's id is known; no write to Vault was begun."""
    PUBLISHING = "publishing"
    """A write to Vault may have been sent."""
    PUBLISHED = "published"
    """Read back from Vault and proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One open rotation, from the journal."""

    id: RotationId
    kind: RotationKind
    opened_at: datetime
    asked_by: str | None = None
    """Who asked by `rotate-now` or `rollback`; None: the policy."""
    state: IssueState = IssueState.OPENED
    operation_id: str | None = None
    """Goes into the request's user agent, so that CloudTrail can prove whose key it is."""
    keys_before: frozenset[AccessKeyId] = frozenset()
    create_sent_at: datetime | None = None
    old_key_id: AccessKeyId | None = None
    new_key_id: AccessKeyId | None = None
    """For a rollback: the target, the key that shall be held again."""
    cas: int | None = None
    """The Vault version seen before the intent; the publishing write must become `cas + 1`."""
    burned_version: int | None = None
    """The version that our burn made; None: not burned."""
    published_at: datetime | None = None


class RetireWhy(StrEnum):
    OVERLAP = "overlap"
    """Replaced by a rotation."""
    REPLACED = "replaced"
    """`--replace`: a person said so."""
    SPARE = "spare"
    """`spare_key = "retire-unused"`."""
    ORPHAN = "orphan"
    """`orphans.attribution = "window"`: probably ours, never proven."""
    SUPERSEDED = "superseded"
    """We made it, it may have been published, and it is not what Vault holds."""
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """The clocks of a key on its way out. All of them were checked against Vault's versions and the mark."""

    why: RetireWhy
    started_at: datetime
    """The overlap runs from here."""
    deactivation_sent_at: datetime | None = None
    deactivated_at: datetime | None = None
    """The quarantine runs from here; also set when somebody else deactivated it and we saw it so first."""
    deletion_sent_at: datetime | None = None
    reactivated: bool = False
    """Seen Active after its deactivation, by another hand than ours: its quarantine is void, and it is left alone until
    a person deactivates it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """What the journal says of one key of this user."""

    made_by: RotationId | None = None
    """None: not ours, as far as the journal knows."""
    cas: int | None = None
    """For a key of ours: the Vault version seen before its intent; its publishing write could only become `cas + 1`."""
    made_at: datetime | None = None
    """For a key of ours: when its CreateAccessKey was sent."""
    published: bool = False
    deactivated_by_us: bool = False
    """Our own last deactivation of it, finished or not, was not followed by our reactivation."""
    retirement: Retirement | None = None
    gone: bool = False
    """Deleted, by whose hand ever, as far as the journal knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateIntent:
    """A CreateAccessKey without a known outcome, of an open or a closed rotation."""

    rotation_id: RotationId
    operation_id: str
    sent_at: datetime
    keys_before: frozenset[AccessKeyId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What the journal says was last published for this user, checked against Vault's versions."""

    access_key_id: AccessKeyId
    place: Place
    version: int
    version_created_at: datetime
    published_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A pending request of a person."""

    by: str
    at: datetime
    emergency: bool = False
    rollback: bool = False
    replace: AccessKeyId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFacts:
    rotation: Rotation | None = None
    keys: Mapping[AccessKeyId, KeyFacts] = field(default_factory=dict)
    unresolved: tuple[CreateIntent, ...] = ()
    publication: Publication | None = None
    proven_version: int | None = None
    """The Vault version whose pair was last proven; None: never, or the version is another one now."""
    held_dead_since: datetime | None = None
    """When the held key was first seen dead, without a healthy look since."""
    restored_key_id: AccessKeyId | None = None
    """The key that a rollback restored: not due again until a person asks."""

    def key(self, key_id: AccessKeyId) -> KeyFacts:
        return self.keys.get(key_id, _NO_FACTS)


_NO_FACTS = KeyFacts()


class Proof(StrEnum):
    """What STS said to the pair that was read from Vault in this pass."""

    ACCEPTED = "accepted"
    WRONG_SECRET = "wrong-secret"  # noqa: S105 - a verdict, not a secret
    """`SignatureDoesNotMatch` while our own calls pass."""
    NOT_HONOURED = "not-honoured"
    """`InvalidClientTokenId`: inactive, deleted, or not yet propagated."""
    OTHER_PRINCIPAL = "other-principal"
    """Accepted, and it is somebody else."""
    UNAVAILABLE = "unavailable"
    """No verdict: denied, throttled, no answer. Neither success nor failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldProof:
    version: int
    access_key_id: AccessKeyId
    result: Proof
    refusals: int = 0
    """How many fresh signatures in a row were refused."""


class Origin(StrEnum):
    """What CloudTrail says about who created a key that nothing else explains."""

    OURS = "ours"
    """The event carries the operation id of one of our intents."""
    FOREIGN = "foreign"
    """The event is there and carries none of ours."""
    NO_EVENT = "no-event"
    """Events come minutes late, so this is not an answer yet."""
    UNAVAILABLE = "unavailable"
    """No permission, or no answer."""


class Selection(StrEnum):
    MANAGED = "managed"
    LEFT = "left"
    """Once managed; no policy matches it now, or an exclusion does."""
    UNKNOWN = "unknown"
    """Which policy applies cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Half open: `start <= t < end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Why no rotation may be opened now, although the policy wants one. Never binds a retirement."""

    reason: Reason
    until: datetime | None
    """None: until a person acts."""
    binds_asked: bool = True
    """Whether it also binds a named `rotate-now` (an emergency is bound by none)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that one decision looks at."""

    principal: Principal
    keys: tuple[AccessKey, ...]
    vault: VaultSeen
    place: Place
    history: VaultHistory | None = None
    """Older versions; None: not needed at this look, or unreadable."""
    journal: JournalFacts = field(default_factory=JournalFacts)
    selection: Selection = Selection.MANAGED
    problems: tuple[Reason, ...] = ()
    """Structural refusals that were found while looking (collision, own identity, re-created user …)."""
    asked: Asked | None = None
    proof: HeldProof | None = None
    """Made in this pass, for the version that Vault serves now; else None."""
    origins: Mapping[AccessKeyId, Origin] = field(default_factory=dict)
    claims: Mapping[AccessKeyId, str] = field(default_factory=dict)
    """For every key of origin OURS: the operation id that its event carries."""
    gate: Gate | None = None
    windows: tuple[Interval, ...] | None = None
    """The policy's next open intervals; None: always open."""
    quiet_until: datetime | None = None
    """Nothing is concluded from IAM before: our own last change, or a predecessor's, may not show yet."""
    settle_seconds: float = 15.0
    lists_apart_seconds: float = 0.0
    """How long the held key has been seen dead by lists of this process, first to last."""

    @property
    def held_id(self) -> AccessKeyId | None:
        return self.vault.access_key_id if isinstance(self.vault, VaultHeld) else None

    @property
    def held(self) -> AccessKey | None:
        return self.find(self.held_id)

    @property
    def others(self) -> tuple[AccessKey, ...]:
        """The keys that Vault does not hold, oldest first."""
        held_id = self.held_id
        return tuple(sorted((k for k in self.keys if k.id != held_id), key=lambda k: (k.created_at, k.id)))

    def find(self, key_id: AccessKeyId | None) -> AccessKey | None:
        return next((k for k in self.keys if k.id == key_id), None)

    @property
    def vault_version(self) -> int | None:
        """The number for the next check-and-set; None: unreadable."""
        return None if isinstance(self.vault, VaultUnreadable) else self.vault.version
