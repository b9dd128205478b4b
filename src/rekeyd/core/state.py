"""One word for where a principal stands, for `status` and metrics. Closed: other programs rely on it."""

from enum import StrEnum

from rekeyd.core.actions import Action, Idle, Refuse, Rest
from rekeyd.core.model import IssueState, Observed, Selection
from rekeyd.core.reasons import Reason


class State(StrEnum):
    FRESH = "fresh"
    DUE = "due"
    ROTATING = "rotating"
    OVERLAP = "overlap"
    QUARANTINE = "quarantine"
    ON_HOLD = "on_hold"
    FROZEN = "frozen"
    REFUSED = "refused"
    UNMANAGED = "unmanaged"


_BY_REASON = {
    Reason.NOT_DUE: State.FRESH,
    Reason.RESTORED_BY_ROLLBACK: State.FRESH,
    Reason.OUTSIDE_WINDOW: State.DUE,
    Reason.BRAKED: State.DUE,
    Reason.OBSERVE_MODE: State.DUE,
    Reason.RATE_LIMITED: State.DUE,
    Reason.FROZEN: State.FROZEN,
    Reason.LEFT_POLICY: State.FROZEN,
    Reason.IN_OVERLAP: State.OVERLAP,
    Reason.IN_QUARANTINE: State.QUARANTINE,
    Reason.STILL_USED: State.ON_HOLD,
    Reason.LAST_USE_UNKNOWN: State.ON_HOLD,
    Reason.USED_IN_QUARANTINE: State.ON_HOLD,
    Reason.REACTIVATED: State.ON_HOLD,
    Reason.UNMANAGED: State.UNMANAGED,
    Reason.TWO_KEYS_UNMANAGED: State.UNMANAGED,
    Reason.NO_KEYS: State.UNMANAGED,
}


def state_of(seen: Observed, action: Action) -> State:
    """Where the principal stands, given what was seen and what comes next."""
    if isinstance(action, Idle) and seen.selection is not Selection.MANAGED:
        return State.UNMANAGED
    if isinstance(action, Rest):
        known = _BY_REASON.get(action.reason)
        if known is not None:
            return known
        return State.REFUSED if isinstance(action, Refuse) else _while_settling(seen)
    return State.ROTATING


def _while_settling(seen: Observed) -> State:
    """SETTLING and the orphan waits: a step was just done, or a key is being explained."""
    rotation = seen.journal.rotation
    if rotation is None:
        return State.ROTATING if seen.journal.unresolved else State.FRESH
    if rotation.state is not IssueState.PUBLISHED:
        return State.ROTATING
    old = None if rotation.old_key_id is None else seen.journal.key(rotation.old_key_id).retirement
    return State.OVERLAP if old is None or old.deactivated_at is None else State.QUARANTINE
