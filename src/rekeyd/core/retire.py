"""The way out of a key: overlap, deactivation, quarantine, deletion.

A step needs all of: its clock ran out, IAM's last-used data is known and does not
object, and the pair that Vault serves was proven in this very pass. What a person
did in between (reactivated it, used it) stops the way out and is reported; rekeyd
does not fight. An emergency ends another key's time early and is the only thing
that may.
"""

from datetime import datetime, timedelta

from rekeyd.core.actions import Action, Deactivate, Delete, ProveHeld, Refuse, StartQuarantine, Wait
from rekeyd.core.model import (
    AccessKey,
    KeyStatus,
    NeverUsed,
    Observed,
    Proof,
    Retirement,
    RetireWhy,
    RotationKind,
    Used,
    UseUnknown,
    VaultAbsent,
)
from rekeyd.core.policy import Policy, StillUsed
from rekeyd.core.reasons import Reason

# A person said so about exactly these: with Vault empty, nothing else lets a key go.
_BY_A_PERSONS_WORD = frozenset({RetireWhy.REPLACED, RetireWhy.SPARE, RetireWhy.ORPHAN})
_HELD_BY_ITS_USE = frozenset({RetireWhy.OVERLAP, RetireWhy.SUPERSEDED, RetireWhy.ROLLED_BACK})


def retire(seen: Observed, policy: Policy, key: AccessKey, retirement: Retirement, now: datetime) -> Action:
    """The next step for a key whose clocks are running."""
    if key.status is KeyStatus.ACTIVE:
        return _towards_deactivation(seen, policy, key, retirement, now)
    return _towards_deletion(seen, policy, key, retirement, now)


def _towards_deactivation(
    seen: Observed, policy: Policy, key: AccessKey, retirement: Retirement, now: datetime
) -> Action:
    if retirement.deactivated_at is not None or retirement.reactivated:
        return Refuse(reason=Reason.REACTIVATED, key_id=key.id)
    reason = _may_be_deactivated(seen, policy, key, retirement, now)
    if not isinstance(reason, Reason):
        return reason
    return _proof_missing(seen, key, retirement) or Deactivate(key_id=key.id, reason=reason)


def _may_be_deactivated(
    seen: Observed, policy: Policy, key: AccessKey, retirement: Retirement, now: datetime
) -> Wait | Refuse | Reason:
    """The reason for which its time is over; else what it waits for, or what stands against it."""
    if _ended_early(seen):
        return Reason.ENDED_EARLY
    match retirement.why:
        case RetireWhy.REPLACED:
            return Reason.REPLACE_ASKED
        case RetireWhy.SPARE:
            return _use_gate(policy, key, policy.spare_key_silent_for, None, Reason.SPARE_KEY, now)
        case RetireWhy.ORPHAN:
            return _never_used_gate(key) or Reason.ORPHAN_PRESUMED
        case RetireWhy.OVERLAP | RetireWhy.SUPERSEDED | RetireWhy.ROLLED_BACK:
            if _is_old_key_of_emergency(seen, key):
                return Reason.EMERGENCY
            overlap_ends = retirement.started_at + policy.overlap
            if now < overlap_ends:
                return Wait(until=overlap_ends, reason=Reason.IN_OVERLAP, key_id=key.id)
            return _use_gate(policy, key, policy.unused_for, hold_ends(policy, retirement), Reason.OVERLAP_ENDED, now)


def _towards_deletion(seen: Observed, policy: Policy, key: AccessKey, retirement: Retirement, now: datetime) -> Action:
    if retirement.deactivated_at is None:
        return StartQuarantine(key_id=key.id, reason=Reason.SEEN_INACTIVE)
    if key.last_use is None or isinstance(key.last_use, UseUnknown):
        return Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=key.id)
    # A deactivation takes seconds to reach every Region; uses in that time were still accepted.
    in_force_at = retirement.deactivated_at + timedelta(seconds=seen.settle_seconds)
    if isinstance(key.last_use, Used) and key.last_use.at > in_force_at:
        return Refuse(reason=Reason.USED_IN_QUARANTINE, key_id=key.id)
    if _ended_early(seen):
        return _proof_missing(seen, key, retirement) or Delete(key_id=key.id, reason=Reason.ENDED_EARLY)
    quarantine = policy.orphans.quarantine if retirement.why is RetireWhy.ORPHAN else policy.quarantine
    quarantine_ends = retirement.deactivated_at + quarantine
    if now < quarantine_ends:
        return Wait(until=quarantine_ends, reason=Reason.IN_QUARANTINE, key_id=key.id)
    return _proof_missing(seen, key, retirement) or Delete(key_id=key.id, reason=Reason.QUARANTINE_ENDED)


def hold_ends(policy: Policy, retirement: Retirement) -> datetime | None:
    """Until then its use holds a key without more ado: `max_hold` after its overlap. None: however long."""
    if retirement.why not in _HELD_BY_ITS_USE:
        return None
    return retirement.started_at + policy.overlap + policy.max_hold


def held_too_long_since(policy: Policy, retirement: Retirement, now: datetime) -> datetime | None:
    """Of a key that its use holds: since when, if that is longer than `max_hold`."""
    ends = hold_ends(policy, retirement)
    return None if ends is None or now < ends else ends - policy.max_hold


def _ended_early(seen: Observed) -> bool:
    """An emergency is asked and not yet published, so it is about another key than the emergency's own old one."""
    return seen.asked is not None and seen.asked.emergency


def _is_old_key_of_emergency(seen: Observed, key: AccessKey) -> bool:
    rotation = seen.journal.rotation
    return rotation is not None and rotation.kind is RotationKind.EMERGENCY and rotation.old_key_id == key.id


def _use_gate(
    policy: Policy,
    key: AccessKey,
    silent_for: timedelta,
    held_until: datetime | None,
    reason: Reason,
    now: datetime,
) -> Refuse | Reason:
    """Refuse while the key is, or may be, in use; else `reason`, or that it is held no longer.

    `held_until`: see `hold_ends`; None: `still_used` does not apply.
    """
    if key.last_use is None or isinstance(key.last_use, UseUnknown):
        return Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=key.id)
    if isinstance(key.last_use, NeverUsed):
        return reason
    silent_at = key.last_use.at + silent_for
    if now >= silent_at:
        return reason
    if policy.still_used is StillUsed.DEACTIVATE and held_until is not None:
        if now >= held_until:
            return Reason.MAX_HOLD_ENDED
        silent_at = min(silent_at, held_until)
    return Refuse(reason=Reason.STILL_USED, key_id=key.id, until=silent_at)


def _never_used_gate(key: AccessKey) -> Refuse | None:
    """A key that was ever used has a user, so it is nobody's orphan."""
    match key.last_use:
        case NeverUsed():
            return None
        case Used():
            return Refuse(reason=Reason.STRAY_KEY, key_id=key.id)
        case _:
            return Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=key.id)


def _proof_missing(seen: Observed, key: AccessKey, retirement: Retirement) -> Action | None:
    """P3: nothing is deactivated or deleted unless what Vault serves was proven in this pass.

    With Vault empty there is nothing to prove, and only a person's word (`--replace`, `spare_key`,
    `orphans.attribution`) lets the key go.
    """
    if isinstance(seen.vault, VaultAbsent):
        if retirement.why in _BY_A_PERSONS_WORD:
            return None
        return Refuse(reason=Reason.VAULT_DELETED, key_id=key.id)
    if seen.proof is None:
        return ProveHeld(reason=Reason.PROOF_NEEDED)
    if seen.proof.result is not Proof.ACCEPTED or seen.held is None or seen.held.status is not KeyStatus.ACTIVE:
        return Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=key.id)
    return None
