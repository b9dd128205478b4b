"""Which looks are to be taken for messages of the event queue, and how soon.

Messages cost nothing to send, looks cost calls that a whole account shares. So looks are collected: a root user is
looked at at once, and again no sooner than `ROOT_GAP` after; of the users of an account `USERS_AT_ONCE` at a time,
no sooner than `USERS_GAP` after the last of them, and the same one no sooner than `SAME_USER_GAP` after. What was
wanted meanwhile is wanted once, and comes then: the look comes after the message, and sees what that was about.

Use of a root user is another thing: its message is there in seconds, and CloudTrail's own answer minutes later. So
CloudTrail is asked every `TRAIL_GAP` until the last message is `TRAIL_FOR` old. Likewise for credentials that AWS says
are exposed, which are looked at at once too.
"""

import math
import threading
from dataclasses import dataclass, field
from datetime import timedelta

from rekeyd.core.model import AccountId
from rekeyd.fleet.posture import Part

# With these, a root key that is made right after a look is still known within ten seconds.
ROOT_GAP = timedelta(seconds=5)
USERS_GAP = timedelta(seconds=5)
SAME_USER_GAP = timedelta(seconds=30)
# Ten users in five seconds are some six calls a second, far from what makes IAM throttle an account.
USERS_AT_ONCE = 10
# Event history has an event after about five minutes, which AWS does not promise; a quarter of an hour is not rare.
# https://docs.aws.amazon.com/awscloudtrail/latest/userguide/how-cloudtrail-works.html
TRAIL_GAP = timedelta(minutes=3)
TRAIL_FOR = timedelta(minutes=20)
# Whether AWS tells by event sooner than by its API is not known.
EXPOSURE_SOONEST = timedelta(seconds=30)
EXPOSURE_GAP = timedelta(minutes=5)
EXPOSURE_FOR = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueLook:
    """At the root user, if `root`, and at these users, named as the journal has them."""

    account_id: AccountId
    root: bool
    anew: frozenset[Part] = frozenset()
    """What the look at the root user asks for again, however young."""
    user_names: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Series:
    """Looks for what AWS itself shows only after a while: again and again until that is over."""

    gap: timedelta
    lasts: timedelta
    soonest: timedelta
    """How long after another one the first may come, or one that is wanted meanwhile."""
    at: float = -math.inf
    """When the last one was handed out, or the series began."""
    until: float = -math.inf
    wanted: bool = False
    """Since the last one."""

    def want(self, now: float) -> None:
        """Also the longer for one that goes on."""
        if self.soonest == self.gap and self.at >= self.until:
            self.at = now
        self.until = now + self.lasts.total_seconds()
        self.wanted = True

    def take(self, now: float) -> bool:
        gap = self.soonest if self.wanted else self.gap
        due = (self.wanted or self.at < self.until) and now - self.at >= gap.total_seconds()
        if due:
            self.at, self.wanted = now, False
        return due


@dataclass(slots=True)
class _Wanted:
    root: bool = False
    root_at: float = -math.inf
    """When the last look at the root user was handed out."""
    trail: _Series = field(default_factory=lambda: _Series(gap=TRAIL_GAP, lasts=TRAIL_FOR, soonest=TRAIL_GAP))
    exposure: _Series = field(
        default_factory=lambda: _Series(gap=EXPOSURE_GAP, lasts=EXPOSURE_FOR, soonest=EXPOSURE_SOONEST)
    )
    users: dict[str, None] = field(default_factory=dict)
    """In the order in which they were wanted."""
    users_at: float = -math.inf
    user_at: dict[str, float] = field(default_factory=dict)


class Looks:
    """Thread-safe. Times are the monotonic clock's, in seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[AccountId, _Wanted] = {}

    def want_root(self, account_id: AccountId) -> None:
        with self._lock:
            self._accounts.setdefault(account_id, _Wanted()).root = True

    def want_trail(self, account_id: AccountId, now: float) -> None:
        """The root user was used just before `now`."""
        with self._lock:
            self._accounts.setdefault(account_id, _Wanted()).trail.want(now)

    def want_exposure(self, account_id: AccountId, now: float) -> None:
        """AWS told just before `now` that credentials of the account are exposed."""
        with self._lock:
            self._accounts.setdefault(account_id, _Wanted()).exposure.want(now)

    def want_user(self, account_id: AccountId, user_name: str) -> None:
        """Only users that are known: what is wanted is kept until it is looked at."""
        with self._lock:
            self._accounts.setdefault(account_id, _Wanted()).users[user_name] = None

    def take(self, now: float) -> tuple[DueLook, ...]:
        """Those whose time has come; they count as looked at from here on."""
        with self._lock:
            taken = [_take(account_id, wanted, now) for account_id, wanted in self._accounts.items()]
        return tuple(look for look in taken if look.root or look.user_names)


def _take(account_id: AccountId, wanted: _Wanted, now: float) -> DueLook:
    series = {Part.TRAIL: wanted.trail, Part.EXPOSURE: wanted.exposure}
    anew = frozenset(part for part, each in series.items() if each.take(now))
    root = bool(anew) or (wanted.root and now - wanted.root_at >= ROOT_GAP.total_seconds())
    if root:
        wanted.root, wanted.root_at = False, now
    return DueLook(account_id=account_id, root=root, anew=anew, user_names=_users(wanted, now))


def _users(wanted: _Wanted, now: float) -> tuple[str, ...]:
    if not wanted.users or now - wanted.users_at < USERS_GAP.total_seconds():
        return ()
    again = SAME_USER_GAP.total_seconds()
    wanted.user_at = {name: at for name, at in wanted.user_at.items() if now - at < again}
    names = tuple(name for name in wanted.users if name not in wanted.user_at)[:USERS_AT_ONCE]
    for name in names:
        del wanted.users[name]
        wanted.user_at[name] = now
    if names:
        wanted.users_at = now
    return names
