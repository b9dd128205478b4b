"""Which one action comes next for a principal.

    decide(observed, policy, now) -> Action

It looks at what IAM, Vault and the journal show now, not at the step the daemon
believes it reached: after a crash the same call resumes the rotation. First
matching row wins:

1. no policy, or nobody can tell which: only an unpublished key of ours is removed
2. what makes any conclusion unsafe: refuse
3. our own last change may not show yet: wait
4. an open rollback
5. an issue that did not end well
6. the held key is dead: reactivate what we hit ourselves, repair, or refuse
7. keys that Vault does not hold: explain, retire, or refuse
8. a rotation: complete it, issue its key, or open one
"""

from collections import Counter
from datetime import datetime, timedelta

from rekeyd.core.actions import (
    Action,
    Close,
    Idle,
    IssueKey,
    OpenRotation,
    ProveHeld,
    Reactivate,
    Refuse,
    Republish,
    Rest,
    StartRetirement,
    Wait,
)
from rekeyd.core.model import (
    MAX_KEYS_PER_USER,
    AccessKey,
    IssueState,
    KeyStatus,
    NeverUsed,
    Observed,
    Proof,
    RetireWhy,
    Rotation,
    RotationKind,
    Selection,
    Used,
    VaultAbsent,
    VaultDeleted,
    VaultDestroyed,
    VaultHeld,
    VaultUnreadable,
    VaultWithoutPair,
)
from rekeyd.core.policy import Adopt, Orphans, Policy, Repair, SpareKey, due_at
from rekeyd.core.reasons import Reason
from rekeyd.core.retire import retire
from rekeyd.core.unfinished import explain, finish_issue, remove_unpublished, unexplained

# A refused pair counts as dead for a repair only after this many fresh signatures.
REFUSALS_FOR_DEAD = 2


def decide(seen: Observed, policy: Policy | None, now: datetime) -> Action:
    """The one action for this principal. Pure: same arguments, same answer."""
    if refusal := _unsafe(seen):
        return refusal
    if seen.quiet_until is not None and now < seen.quiet_until:
        return Wait(until=seen.quiet_until, reason=Reason.SETTLING)
    if seen.selection is not Selection.MANAGED or policy is None:
        return _without_policy(seen, now)
    rotation = seen.journal.rotation
    if rotation is not None:
        if rotation.kind is RotationKind.ROLLBACK and rotation.state is not IssueState.PUBLISHED:
            return _continue_rollback(seen, rotation)
        if action := finish_issue(seen, rotation):
            return action
    if action := _held_key(seen, policy, now):
        return action
    if seen.asked is not None and seen.asked.rollback:
        return _begin_rollback(seen)
    if action := _other_keys(seen, policy, now):
        return action
    return _rotate(seen, policy, now)


# --- 1, 2: who is not touched ----------------------------------------------------------------------------------------


def _without_policy(seen: Observed, now: datetime) -> Action:
    if seen.selection is Selection.UNKNOWN:
        return Refuse(reason=Reason.POLICY_UNKNOWN)  # P4: unknown stops even the removal of our own key
    rotation = seen.journal.rotation
    if rotation is not None:
        if rotation.state is IssueState.OPENED and rotation.kind is not RotationKind.ROLLBACK:
            return Close(rotation_id=rotation.id, reason=Reason.LEFT_UNPUBLISHED, completed=False)
        if action := finish_issue(seen, rotation):
            return action
    for key in seen.others:
        facts = seen.journal.key(key.id)
        if facts.made_by is not None and not facts.published and facts.retirement is None:
            return remove_unpublished(seen, key, facts.made_by, facts)
    if rotation is not None and rotation.state is IssueState.CREATING:
        # Without an unexplained key it were closed by now. The defaults are the strictest rules.
        return explain(seen, Orphans(), unexplained(seen)[0], now)
    if rotation is not None or any(seen.journal.key(k.id).retirement for k in seen.others):
        return _FROZEN
    return Idle(reason=Reason.LEFT_POLICY)


_FROZEN = Refuse(reason=Reason.LEFT_POLICY)


def _unsafe(seen: Observed) -> Refuse | None:
    if seen.problems:
        return Refuse(reason=seen.problems[0])
    if len(seen.keys) > MAX_KEYS_PER_USER:
        return Refuse(reason=Reason.MORE_THAN_TWO_KEYS)
    if any(n > 1 for n in Counter(key.created_at for key in seen.keys).values()):
        return Refuse(reason=Reason.SAME_SECOND_KEYS)
    odd = next((k for k in seen.keys if k.status not in (KeyStatus.ACTIVE, KeyStatus.INACTIVE)), None)
    if odd is not None:
        return Refuse(reason=Reason.KEY_STATUS_UNKNOWN, key_id=odd.id)
    match seen.vault:
        case VaultUnreadable():
            return Refuse(reason=Reason.VAULT_UNREADABLE)
        case VaultDeleted():
            return Refuse(reason=Reason.VAULT_DELETED)
        case VaultDestroyed():
            return Refuse(reason=Reason.VAULT_DESTROYED)
        case VaultWithoutPair():
            return Refuse(reason=Reason.VAULT_WITHOUT_PAIR)
        case VaultAbsent() if seen.journal.publication is not None and seen.asked is None:
            return Refuse(reason=Reason.VAULT_DELETED)  # what we published is gone without a trace
        case VaultAbsent() | VaultHeld():
            pass
    if seen.proof is not None and seen.proof.result is Proof.OTHER_PRINCIPAL:
        return Refuse(reason=Reason.FOREIGN_KEY_IN_VAULT, key_id=seen.held_id)
    return None


# --- 4: going back ---------------------------------------------------------------------------------------------------


def _begin_rollback(seen: Observed) -> Action:
    target = next((k for k in reversed(seen.others) if seen.journal.key(k.id).retirement is not None), None)
    if target is None or seen.history is None or seen.history.latest_naming(target.id) is None:
        return Refuse(reason=Reason.ROLLBACK_IMPOSSIBLE)
    rotation = seen.journal.rotation
    if rotation is not None:
        return Close(rotation_id=rotation.id, reason=Reason.ROLLBACK, completed=False)
    return OpenRotation(kind=RotationKind.ROLLBACK, reason=Reason.ROLLBACK, old_key_id=seen.held_id, target=target.id)


def _continue_rollback(seen: Observed, rotation: Rotation) -> Action:
    """It never removes its target; unfinished, it is repeated from what Vault holds now."""
    target = seen.find(rotation.new_key_id)
    if target is None:
        return Close(rotation_id=rotation.id, reason=Reason.ROLLBACK_TARGET_GONE, completed=False)
    if target.status is KeyStatus.INACTIVE:
        return Reactivate(key_id=target.id, reason=Reason.ROLLBACK)
    if seen.held_id == target.id:
        if seen.proof is not None and seen.proof.result is not Proof.ACCEPTED:
            return Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=target.id)
        return ProveHeld(reason=Reason.PUBLISHED_BUT_UNRECORDED, publishes=rotation.id)
    if seen.history is None:
        return Refuse(reason=Reason.VAULT_UNREADABLE, key_id=target.id)
    version = seen.history.latest_naming(target.id)
    if version is None:
        return Close(rotation_id=rotation.id, reason=Reason.ROLLBACK_IMPOSSIBLE, completed=False)
    return Republish(rotation_id=rotation.id, key_id=target.id, version=version.version, reason=Reason.ROLLBACK)


# --- 6: the key that consumers use -----------------------------------------------------------------------------------


def _held_key(seen: Observed, policy: Policy, now: datetime) -> Action | None:
    """None: the held key is well, or Vault holds none."""
    held_id, held = seen.held_id, seen.held
    if held_id is None:
        return None
    if held is not None and held.status is KeyStatus.INACTIVE and seen.journal.key(held_id).deactivated_by_us:
        return Reactivate(key_id=held_id, reason=Reason.DEACTIVATED_BY_US)
    listed_well = held is not None and held.status is KeyStatus.ACTIVE
    proof = seen.proof
    if proof is None:
        if not listed_well:
            return ProveHeld(reason=Reason.PROOF_NEEDED)
        if seen.journal.proven_version != seen.vault_version:
            return ProveHeld(reason=Reason.VERSION_CHANGED)
        return None
    match proof.result:
        case Proof.ACCEPTED:
            if listed_well:
                return None
            # STS honours what IAM's list denies: one of them lags.
            return Wait(until=now + _settle(seen), reason=Reason.SETTLING, key_id=held_id)
        case Proof.WRONG_SECRET:
            return _dead(seen, policy, now)
        case Proof.NOT_HONOURED:
            if listed_well:
                return Refuse(reason=Reason.HELD_KEY_NOT_HONOURED, key_id=held_id, until=now + _settle(seen))
            return _dead(seen, policy, now)
        case Proof.UNAVAILABLE | Proof.OTHER_PRINCIPAL:
            if listed_well:
                return Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=held_id, until=now + _settle(seen))
            return Refuse(reason=Reason.HELD_KEY_DEAD, key_id=held_id, until=now + _settle(seen))


def _dead(seen: Observed, policy: Policy, now: datetime) -> Action | None:
    """Consumers are broken. None: a person asked for something else, which is tried first."""
    held_id, rotation = seen.held_id, seen.journal.rotation
    assert held_id is not None  # noqa: S101 - for the type checker; the caller checked
    refused = Refuse(reason=Reason.HELD_KEY_DEAD, key_id=held_id)
    if seen.asked is None and policy.repair is Repair.REFUSE and not _repairs(rotation):
        return refused
    if seen.asked is not None and (seen.asked.rollback or seen.asked.replace is not None):
        return None
    if seen.proof is None or seen.proof.refusals < REFUSALS_FOR_DEAD:
        return ProveHeld(reason=Reason.PROOF_NEEDED)
    dead_since = seen.journal.held_dead_since
    sure_at = (now if dead_since is None else dead_since) + _settle(seen)
    if now < sure_at:
        return Refuse(reason=Reason.HELD_KEY_DEAD, key_id=held_id, until=sure_at)
    publication = seen.journal.publication
    if seen.asked is None and (publication is None or publication.access_key_id != held_id):
        return refused
    if len(seen.keys) >= MAX_KEYS_PER_USER:
        return refused
    if rotation is not None:
        if _repairs(rotation):
            return _issue(seen, rotation)
        return Close(rotation_id=rotation.id, reason=Reason.REPAIR, completed=False)
    if seen.gate is not None and seen.gate.reason in (Reason.OBSERVE_MODE, Reason.BRAKED):
        return refused
    old = None if seen.held is None else held_id
    return OpenRotation(kind=RotationKind.REPAIR, reason=Reason.REPAIR, old_key_id=old)


def _repairs(rotation: Rotation | None) -> bool:
    return rotation is not None and rotation.kind is RotationKind.REPAIR and rotation.state is IssueState.OPENED


def _settle(seen: Observed) -> timedelta:
    return timedelta(seconds=seen.settle_seconds)


# --- 7: every other key ----------------------------------------------------------------------------------------------


def _other_keys(seen: Observed, policy: Policy, now: datetime) -> Action | None:
    """A step of any of them comes first, then a refusal, then the earliest wait. None: there is nothing about them."""
    actions = [action for key in seen.others if (action := _other_key(seen, policy, key, now)) is not None]
    for action in actions:
        if not isinstance(action, Rest):
            return action
    for action in actions:
        if isinstance(action, Refuse):
            return action
    waits = [action for action in actions if isinstance(action, Wait)]
    return min(waits, key=lambda wait: wait.until, default=None)


def _other_key(seen: Observed, policy: Policy, key: AccessKey, now: datetime) -> Action | None:
    facts = seen.journal.key(key.id)
    asked = seen.asked
    if facts.retirement is not None:
        return retire(seen, policy, key, facts.retirement, now)
    if asked is not None and asked.replace == key.id:
        return StartRetirement(key_id=key.id, why=RetireWhy.REPLACED, reason=Reason.REPLACE_ASKED)
    if facts.made_by is not None and not facts.published:
        return remove_unpublished(seen, key, facts.made_by, facts)
    if facts.made_by is not None:
        if isinstance(seen.vault, VaultAbsent):
            return None
        return StartRetirement(key_id=key.id, why=RetireWhy.SUPERSEDED, reason=Reason.SUPERSEDED)
    if key in unexplained(seen):
        return explain(seen, policy.orphans, key, now)
    if isinstance(seen.vault, VaultAbsent):
        return None  # nobody's old key yet: adoption decides
    if _is_open_old_key(seen, key):
        return StartRetirement(key_id=key.id, why=RetireWhy.OVERLAP, reason=Reason.FOUND_IN_VAULT)
    if _vault_shows_replaced(seen, key):
        return StartRetirement(key_id=key.id, why=RetireWhy.OVERLAP, reason=Reason.FOUND_IN_VAULT)
    return Refuse(reason=Reason.STRAY_KEY, key_id=key.id)


def _is_open_old_key(seen: Observed, key: AccessKey) -> bool:
    rotation = seen.journal.rotation
    return rotation is not None and rotation.state is IssueState.PUBLISHED and rotation.old_key_id == key.id


def _vault_shows_replaced(seen: Observed, key: AccessKey) -> bool:
    """Without a journal: an older version, or the note of the current one, names this older key."""
    held = seen.held
    if held is None or key.created_at >= held.created_at:
        return False
    note = seen.vault.note if isinstance(seen.vault, VaultHeld) else None
    if (
        note is not None
        and note.user_id == seen.principal.user_id
        and note.access_key_id == held.id
        and note.old_access_key_id == key.id
    ):
        return True
    return seen.history is not None and seen.history.latest_naming(key.id) is not None


# --- 8: rotations ----------------------------------------------------------------------------------------------------


def _rotate(seen: Observed, policy: Policy, now: datetime) -> Action:
    rotation = seen.journal.rotation
    if rotation is not None and rotation.state is IssueState.PUBLISHED:
        return Close(rotation_id=rotation.id, reason=Reason.ROTATION_COMPLETE, completed=True)
    if rotation is not None:
        return _issue(seen, rotation)
    if isinstance(seen.vault, VaultAbsent):
        return _adopt(seen, policy, now)
    if seen.held is None:
        return Refuse(reason=Reason.HELD_KEY_DEAD, key_id=seen.held_id)
    restored = seen.journal.restored_key_id
    if seen.asked is None and restored is not None and restored == seen.held_id:
        return Idle(reason=Reason.RESTORED_BY_ROLLBACK)
    return _open_when_due(seen, policy, seen.held, RotationKind.NORMAL, now)


def _issue(seen: Observed, rotation: Rotation) -> Action:
    if len(seen.keys) >= MAX_KEYS_PER_USER:
        return Refuse(reason=Reason.NO_FREE_SLOT)
    return IssueKey(rotation_id=rotation.id, reason=Reason.ROTATION_OPEN)


def _adopt(seen: Observed, policy: Policy, now: datetime) -> Action:
    match seen.others:
        case ():
            if not policy.create and seen.asked is None:
                return Idle(reason=Reason.NO_KEYS)
            return _open(seen, RotationKind.CREATE, Reason.FIRST_KEY, None, now)
        case (only,):
            if seen.asked is None and policy.adopt is Adopt.WHEN_ASKED:
                return Refuse(reason=Reason.UNMANAGED, key_id=only.id)
            if seen.asked is None and policy.adopt is Adopt.AT_ONCE:
                return _open(seen, RotationKind.ADOPT, Reason.ADOPT, only, now)
            return _open_when_due(seen, policy, only, RotationKind.ADOPT, now)
        case _:
            return _spare(seen, policy, now)


def _spare(seen: Observed, policy: Policy, now: datetime) -> Action:
    spares = [key for key in seen.others if _is_spare(key, policy.spare_key_silent_for, now)]
    refused = Refuse(reason=Reason.TWO_KEYS_UNMANAGED, key_id=spares[0].id if len(spares) == 1 else None)
    if policy.spare_key is SpareKey.REFUSE or len(spares) != 1:
        return refused
    if seen.asked is None:
        if policy.adopt is Adopt.WHEN_ASKED:
            return refused
        stays = next(key for key in seen.others if key is not spares[0])
        due = due_at(policy, seen.principal, stays.created_at)
        if policy.adopt is Adopt.WHEN_DUE and now < due:
            return Wait(until=due, reason=Reason.NOT_DUE)
    if refusal := _shut(seen):
        return refusal
    return StartRetirement(key_id=spares[0].id, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY)


def _is_spare(key: AccessKey, silent_for: timedelta, now: datetime) -> bool:
    if key.status is KeyStatus.INACTIVE:
        return True
    match key.last_use:
        case NeverUsed():
            return now >= key.created_at + silent_for
        case Used(at=at):
            return now >= at + silent_for
        case _:
            return False


def _open_when_due(seen: Observed, policy: Policy, old: AccessKey, kind: RotationKind, now: datetime) -> Action:
    if seen.asked is None:
        due = due_at(policy, seen.principal, old.created_at)
        if now < due:
            return Wait(until=due, reason=Reason.NOT_DUE)
    reason = Reason.ADOPT if kind is RotationKind.ADOPT else Reason.DUE
    return _open(seen, kind, reason, old, now)


def _open(seen: Observed, kind: RotationKind, reason: Reason, old: AccessKey | None, now: datetime) -> Action:
    asked = seen.asked
    if refusal := _shut(seen):
        return refusal
    if asked is None and seen.windows is not None:
        upcoming = next((w for w in seen.windows if now < w.end), None)
        if upcoming is None or now < upcoming.start:
            until = now + timedelta(days=1) if upcoming is None else upcoming.start
            return Wait(until=until, reason=Reason.OUTSIDE_WINDOW)
    if asked is not None and asked.emergency:
        kind, reason = RotationKind.EMERGENCY, Reason.EMERGENCY
    elif asked is not None:
        reason = Reason.ASKED
    return OpenRotation(kind=kind, reason=reason, old_key_id=None if old is None else old.id)


def _shut(seen: Observed) -> Refuse | None:
    """An emergency is bound by nothing but the observe mode; a named `rotate-now` by what says so."""
    gate, asked = seen.gate, seen.asked
    if gate is None:
        return None
    passes = asked is not None and (asked.emergency or not gate.binds_asked)
    if passes and gate.reason is not Reason.OBSERVE_MODE:
        return None
    return Refuse(reason=gate.reason, until=gate.until)
