"""Which looks are to be taken for messages of the event queue, and how soon.

Messages cost nothing to send, looks cost calls that a whole account shares. So looks are collected: a root user is
looked at at once, and again no sooner than `ROOT_GAP` after; of the users of an account `USERS_AT_ONCE` at a time,
no sooner than `USERS_GAP` after the last of them, and the same one no sooner than `SAME_USER_GAP` after. What was
wanted meanwhile is wanted once, and comes then: the look comes after the message, and sees what that was about.
"""

import math
import threading
from dataclasses import dataclass, field
from datetime import timedelta

from rekeyd.core.model import AccountId

# With these, a root key that is made right after a look is still known within ten seconds.
ROOT_GAP = timedelta(seconds=5)
USERS_GAP = timedelta(seconds=5)
SAME_USER_GAP = timedelta(seconds=30)
# Ten users in five seconds are some six calls a second, far from what makes IAM throttle an account.
USERS_AT_ONCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DueLook:
    """At the root user, if `root`, and at these users, named as the journal has them."""

    account_id: AccountId
    root: bool
    user_names: tuple[str, ...]


@dataclass(slots=True)
class _Wanted:
    root: bool = False
    root_at: float = -math.inf
    """When the last look at the root user was handed out."""
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
    root = wanted.root and now - wanted.root_at >= ROOT_GAP.total_seconds()
    if root:
        wanted.root, wanted.root_at = False, now
    names: list[str] = []
    if wanted.users and now - wanted.users_at >= USERS_GAP.total_seconds():
        again = SAME_USER_GAP.total_seconds()
        wanted.user_at = {name: at for name, at in wanted.user_at.items() if now - at < again}
        names = [name for name in wanted.users if name not in wanted.user_at][:USERS_AT_ONCE]
        for name in names:
            del wanted.users[name]
            wanted.user_at[name] = now
        if names:
            wanted.users_at = now
    return DueLook(account_id=account_id, root=root, user_names=tuple(names))
