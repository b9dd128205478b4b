"""The journal of one account in the hands of its holder: guard, and the parts put together."""

from collections.abc import Callable
from datetime import timedelta

from rekeyd.adapters.journal_keys import KeySteps
from rekeyd.adapters.journal_moves import MoveSteps
from rekeyd.adapters.journal_owners import HolderAlive
from rekeyd.adapters.journal_rotations import RotationSteps
from rekeyd.adapters.journal_sqlite import SqliteStore
from rekeyd.errors import LeaseLostError
from rekeyd.ports import Clock, Lease


class SqlAccountJournal(RotationSteps, KeySteps, MoveSteps):
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
