"""The journal's calls as call points of the world, so that a test can crash at them or make them fail.

`journal.published` "before" is a crash, or an error, before the commit; "after" is one after it.
The guard is no point of its own: it is asked inside the calls that change something outside.
"""

from collections.abc import Callable
from typing import Any, cast

from rekeyd.ports import AccountJournal, Journal
from tests.world.points import CallPoints

# They only look; a crash before or after them leaves the same world behind.
READS = frozenset(
    {
        "account_statuses",
        "alarms",
        "brakes",
        "channel_states",
        "exposed_keys",
        "failures",
        "has_mail",
        "clock_event_since_mark",
        "contains",
        "head",
        "history",
        "holder_of",
        "known",
        "last_mark",
        "open_users",
        "owner_notices",
        "publications",
        "ready_channels",
        "request",
        "requests",
        "rotations_opened_since",
        "statuses",
        "verify",
    }
)
# The simulation's own hand on the journal, not rekeyd's; and `release`, which forgets the lease before it writes.
_NOT_POINTS = frozenset({"guard", "release", "die", "close", "another_holder", "beat", "history", "verify"})


class _Pointed:
    def __init__(self, inner: object, points: CallPoints) -> None:
        self._inner = inner
        self._points = points

    def __getattr__(self, name: str) -> object:
        value = getattr(self._inner, name)
        if name.startswith("_") or name in _NOT_POINTS or not callable(value):
            return value
        method = cast("Callable[..., Any]", value)

        def call(*args: object, **kwargs: object) -> object:
            answer = self._points.call(f"journal.{name}", lambda: method(*args, **kwargs), {})
            if name == "acquire" and answer is not None:
                return pointed_lease(answer, self._points)
            return answer

        return call


def pointed_journal(inner: Journal, points: CallPoints) -> Journal:
    return cast("Journal", _Pointed(inner, points))


def pointed_lease(inner: AccountJournal, points: CallPoints) -> AccountJournal:
    return cast("AccountJournal", _Pointed(inner, points))


def is_read(point: str) -> bool:
    """Whether a call of this name changes nothing anywhere."""
    side, _, name = point.partition(".")
    if side == "journal":
        return name in READS or name == "acquire"
    return name not in (
        "create_access_key",
        "update_access_key",
        "delete_access_key",
        "publish",
        "burn",
        "write_note",
        "destroy",
        "write_mark",
    )
