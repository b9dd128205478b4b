"""How often a refused login is tried again, so that Vault never locks the role that rekeyd logs in as.

Vault and OpenBao count the refused logins of a role_id. The fifth in a row locks it for 15 minutes, in which a good
secret_id is refused, too. The count starts anew only at a success, or when the last refusal is more than 15 minutes
old: trying seldom is not enough, only a rest is. Both are defaults, which a mount's `user_lockout_config` may change.
https://developer.hashicorp.com/vault/docs/concepts/user-lockout
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from rekeyd.core.secret import Secret

Credential = tuple[Secret, ...]
"""All that is shown to Vault and may be replaced on disk; empty: nothing of the kind."""

# A minute more than the servers' 15, which they count by a clock of their own.
_REST = timedelta(minutes=16)
_AGAIN = timedelta(minutes=4)
# Two replicas with one role_id must stay below five together.
_MOST_WITH_ONE = 2
_MOST = 4
_WITHOUT_LOCKOUT = timedelta(seconds=5)


class Tries:
    """The refused logins of one role. Not safe to share between threads: whoever logs in holds a lock."""

    def __init__(self, *, lockout: bool) -> None:
        self._lockout = lockout
        self._refused_at: list[datetime] = []
        """In a row: the server counts them together."""
        self._credential: Credential = ()
        """Of the last one."""

    def refused(self, credential: Credential, now: datetime) -> None:
        self._refused_at = [*self._row(now), now][-_MOST:]
        self._credential = credential

    def succeeded(self) -> None:
        self._refused_at, self._credential = [], ()

    def allowed_at(self, now: datetime) -> datetime:
        """When the credential that was refused last may be shown again."""
        row = self._row(now)
        if not row:
            return now
        if not self._lockout:
            return row[-1] + _WITHOUT_LOCKOUT
        return row[-1] + (_AGAIN if len(row) < _MOST_WITH_ONE else _REST)

    def allows(self, credential: Credential, now: datetime) -> bool:
        """A credential that somebody put in the place of the refused one is shown at once, while there is room."""
        return now >= self.allowed_at(now) or (credential != self._credential and self.has_room(now))

    def has_room(self, now: datetime) -> bool:
        return len(self._row(now)) < _MOST

    def _row(self, now: datetime) -> Sequence[datetime]:
        over = not self._refused_at or now - self._refused_at[-1] >= _REST
        return () if over else self._refused_at
