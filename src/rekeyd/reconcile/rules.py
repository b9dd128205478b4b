"""What a reconciler is told about the fleet: policies, places, and who it is itself."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rekeyd.core.model import AccountId, Gate, Interval, Place, Principal
from rekeyd.core.policy import Policy
from rekeyd.core.reasons import Reason

PlaceOf = Callable[[Principal], Place]
"""Where the principal's pair lives; RefusedError when its name or path makes no valid place."""

SharersOf = Callable[[Principal, Callable[[], Collection[AccountId]]], frozenset[AccountId]]
"""Other accounts whose users could have the principal's place; all watched ones are asked for only if it matters."""

WindowsOf = Callable[[Policy, datetime], tuple[Interval, ...] | None]
"""The policy's next open intervals from that time on; None: always open."""


def never_collides(_principal: Principal, _place: Place) -> bool:
    return False


def always_listed(_principal: Principal) -> bool:
    return False


def nobody_shares(_principal: Principal, _watched: Callable[[], Collection[AccountId]]) -> frozenset[AccountId]:
    return frozenset()


def no_extra(_policy: Policy) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    policies: Sequence[Policy]
    place_of: PlaceOf
    windows_of: WindowsOf
    settle: timedelta
    """IAM's lists lag: nothing is concluded from them this soon after our own change."""
    region: str
    """`aws.region`: where a pair is proven at least."""
    extra_of: Callable[[Policy], Mapping[str, str]] = no_extra
    """Static fields beside the pair."""
    sharers_of: SharersOf = nobody_shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is true around the principal during one pass."""

    gate: Gate | None = None
    own_arns: frozenset[str] = frozenset()
    """ARNs of the identities that rekeyd itself runs as."""
    collides: Callable[[Principal, Place], bool] = never_collides
    unlisted: Callable[[Principal], bool] = always_listed
    """Whether users of other accounts could have its place and could not be listed. Lists them; asked before a place
    is used for the first time."""
    mark_problem: Reason | None = None
    """Set when the high-water mark says that this journal must not be acted on."""
    observing: bool = False
    """Nothing outside may be changed: a step that would is told instead of done."""
    holder: str | None = None
    """This process's name in the journal: a call of its own that got no answer has ended."""
    lease_since: datetime | None = None
    """Since when this process has held the account with nobody else in between."""
