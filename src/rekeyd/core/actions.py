"""What a decision can ask for: a closed union. The executor does exactly one of them, then looks again."""

from dataclasses import dataclass
from datetime import datetime

from rekeyd.core.model import AccessKeyId, RetireWhy, RotationId, RotationKind
from rekeyd.core.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRotation:
    """Journal only. `target` is the key to go back to, for a rollback."""

    kind: RotationKind
    reason: Reason
    old_key_id: AccessKeyId | None = None
    target: AccessKeyId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueKey:
    """Create, prove and publish: one verb, since IAM shows a secret once."""

    rotation_id: RotationId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Republish:
    """Make an older version's pair the current one (rollback): prove it, write it with check-and-set, read it back."""

    rotation_id: RotationId
    key_id: AccessKeyId
    version: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveHeld:
    """Sign with the pair that Vault serves."""

    reason: Reason
    publishes: RotationId | None = None
    """When accepted, this rotation is recorded as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRetirement:
    """Journal only: the key's clocks start now."""

    key_id: AccessKeyId
    why: RetireWhy
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class StartQuarantine:
    """Journal only: the key was seen Inactive, so its quarantine runs from now."""

    key_id: AccessKeyId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Journal only: CloudTrail proved that this key is what our lost request made."""

    rotation_id: RotationId
    key_id: AccessKeyId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Deactivate:
    key_id: AccessKeyId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Reactivate:
    key_id: AccessKeyId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    key_id: AccessKeyId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """Move Vault's version so that a late write of this rotation must fail its check-and-set."""

    rotation_id: RotationId
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Journal only, but for destroying the Vault versions that held a key which is gone."""

    rotation_id: RotationId
    reason: Reason
    completed: bool
    """Whether the rotation did what it was opened for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    until: datetime
    reason: Reason
    key_id: AccessKeyId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Nothing to do, and nothing to wait for but a change from outside."""

    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The state needs a person, or a gate to open."""

    reason: Reason
    key_id: AccessKeyId | None = None
    until: datetime | None = None
    """When it could change by itself; None: only by a person."""


Step = (
    OpenRotation
    | IssueKey
    | Republish
    | ProveHeld
    | StartRetirement
    | StartQuarantine
    | Claim
    | Deactivate
    | Reactivate
    | Delete
    | Burn
    | Close
)
"""Actions after which the world has to be looked at again."""

Rest = Wait | Idle | Refuse
"""Answers that end a pass for the principal."""

Action = Step | Rest


def publishes(step: Step) -> bool:
    """Whether the step, once done, made a new pair the held one: what was asked for is then fulfilled."""
    return isinstance(step, IssueKey | Republish) or (isinstance(step, ProveHeld) and step.publishes is not None)


def only_looks(step: Step) -> bool:
    """Whether the step changes nothing in IAM or Vault and starts no clock, so that observe mode may do it."""
    return isinstance(step, ProveHeld) and step.publishes is None
