"""Why an alarm is announced, and what state it is in."""

from datetime import datetime
from enum import StrEnum


class Notice(StrEnum):
    """Why an alarm is announced."""

    RAISED = "raised"
    REPEATED = "repeated"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    OWNER = "owner"
    """No alarm for all to see: the owner of a user is told what concerns it, once."""


class AlarmState(StrEnum):
    """Where an alarm stands between its first sight and its end. Acknowledged is not over: it stays open and red."""

    FIRING = "firing"
    REPEATED = "repeated"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


def state_of(
    *, resolved_at: datetime | None, acknowledged_until: datetime | None, repeats: int, now: datetime
) -> AlarmState:
    if resolved_at is not None:
        return AlarmState.RESOLVED
    if acknowledged_until is not None and now < acknowledged_until:
        return AlarmState.ACKNOWLEDGED
    return AlarmState.REPEATED if repeats else AlarmState.FIRING
