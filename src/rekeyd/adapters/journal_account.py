"""The journal of one account in the hands of its holder: guard, and the parts put together."""

from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa

from rekeyd.adapters.journal_keys import KeySteps
from rekeyd.adapters.journal_known import KnownFacts
from rekeyd.adapters.journal_owners import HolderAlive
from rekeyd.adapters.journal_rotations import RotationSteps
from rekeyd.adapters.journal_sqlite import SqliteStore
from rekeyd.core.model import AccountId
from rekeyd.errors import LeaseLostError
from rekeyd.ports import Clock, Lease


class SqlAccountJournal(KnownFacts, RotationSteps, KeySteps):
    """Implements `rekeyd.ports.AccountJournal`."""

    def __init__(
        self,
        store: SqliteStore,
        clock: Clock,
        *,
        lease: Lease,
        actor: str,
        ttl: timedelta,
        beat_at: Callable[[], float],
        holder_alive: HolderAlive,
    ) -> None:
        super().__init__(store, clock, lease=lease, actor=actor, holder_alive=holder_alive)
        self._ttl = ttl
        self._beat_at = beat_at

    def guard(self) -> None:
        """Also JournalError, when the journal gives no answer: no answer means no change."""
        # The row first: its read can be slow, and the beat must be fresh after it.
        with self._owned_view():
            pass
        age = self._clock.monotonic() - self._beat_at()
        if age >= self._ttl.total_seconds() / 2:
            raise LeaseLostError(
                f"the lease of account {self.lease.account_id} is not certain: the last heartbeat is {age:.0f} s old",
                hint="the step is given up and looked at again at the next pass",
            )


class LookedUpFacts(KnownFacts):
    """`known` for somebody who only looks: no lease is asked for, and nothing but `known` may be called."""

    def __init__(self, store: SqliteStore, clock: Clock, *, account_id: AccountId, holder_alive: HolderAlive) -> None:
        nobody = Lease(account_id=account_id, holder="", epoch=0)
        super().__init__(store, clock, lease=nobody, actor="", holder_alive=holder_alive)

    def _check_lease(self, conn: sa.Connection) -> None:
        """Looking needs none."""
