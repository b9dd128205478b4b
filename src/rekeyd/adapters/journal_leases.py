"""Who may act on an account: one row an account with `(holder, epoch)`.

* A holder that is dead loses its rows (its `replica` row goes, and the foreign key clears the accounts'). On SQLite
  the kernel says who is dead (`journal_owners`); no clock is asked, so neither a jump nor a freeze robs anybody.
* Every taking raises the epoch: what a former holder still sends to the journal names an old epoch and is refused.
* Two threads of one process exclude each other too: an account that this process holds is taken.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_account import SqlAccountJournal
from rekeyd.adapters.journal_chain import JournalPart, Recorded, append_event
from rekeyd.adapters.journal_known import known_of
from rekeyd.adapters.journal_owners import HolderAlive
from rekeyd.adapters.journal_sqlite import SqliteStore
from rekeyd.core.model import AccountId, Principal
from rekeyd.errors import Error
from rekeyd.ports import Clock, Known, Lease

BEATS_PER_TTL = 6
"""A guard wants a beat younger than ttl/2, so two of these may fail before anything stops."""


_ROW = (
    sa.select(t.account.c.holder, t.account.c.epoch)
    .where(t.account.c.account_id == sa.bindparam("account"))
    .with_for_update()
)


class LeasePart(JournalPart):
    """Heartbeat, and the leases of this process."""

    def __init__(
        self,
        store: SqliteStore,
        clock: Clock,
        *,
        instance: str,
        holder: str,
        lease_ttl: timedelta,
        holder_alive: HolderAlive | None,
    ) -> None:
        super().__init__(store, clock, instance=instance, holder=holder)
        self._ttl = lease_ttl
        self._holder_alive = holder_alive or store.owners.alive
        self._held: dict[AccountId, int] = {}
        self._lock = threading.Lock()
        self._beat_at = float("-inf")

    def beat(self) -> None:
        began = self._clock.monotonic()
        with self._store.write() as conn:
            self._sign_in(conn)
            others = (
                conn.execute(sa.select(t.replica.c.holder).where(t.replica.c.holder != self.holder)).scalars().all()
            )
            dead = [holder for holder in others if not self._holder_alive(holder)]
            for holder in dead:
                self._bury(conn, holder)
        self._beat_at = began
        self._store.owners.sweep(frozenset(others).difference(dead))

    def acquire(self, account_id: AccountId, *, actor: str) -> SqlAccountJournal | None:
        with self._lock:
            began = self._clock.monotonic()
            with self._store.write() as conn:
                self._sign_in(conn)
                epoch = self._take(conn, account_id)
            self._beat_at = began
            if epoch is None:
                return None
            self._held[account_id] = epoch
        return SqlAccountJournal(
            self._store,
            self._clock,
            lease=Lease(account_id=account_id, holder=self.holder, epoch=epoch),
            actor=actor,
            ttl=self._ttl,
            beat_at=lambda: self._beat_at,
            holder_alive=self._holder_alive,
        )

    def known(self, principal: Principal) -> Known:
        """Without a lease: to look, not to act."""
        with self._store.read() as conn:
            return known_of(conn, principal, now=self._clock.now(), alive=self._alive)

    def release(self, lease: Lease) -> None:
        """Nothing happens when it is somebody else's by now."""
        with self._lock:
            # Forgotten even if the row cannot be cleared now: the next `acquire` of this process then takes it over.
            if self._held.get(lease.account_id) == lease.epoch:
                del self._held[lease.account_id]
            with self._store.write() as conn:
                ours = {"account_id": lease.account_id, "holder": lease.holder, "epoch": lease.epoch}
                conn.execute(t.update_of(t.account, *ours), {**t.key_values(ours), "holder": None})

    def holder_of(self, account_id: AccountId) -> str | None:
        """None: nobody alive."""
        with self._store.read() as conn:
            holder: str | None = conn.execute(
                sa.select(t.account.c.holder).where(t.account.c.account_id == account_id)
            ).scalar()
        return holder if holder is not None and self._alive(holder) else None

    @contextmanager
    def beating(self, on_error: Callable[[Error], None] | None = None) -> Iterator[None]:
        """Beat in a thread of its own while the block runs, in real time; for programs without a scheduler."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(self._ttl.total_seconds() / BEATS_PER_TTL):
                try:
                    self.beat()
                except Error as error:  # the guards notice by themselves that the beat is old
                    if on_error is not None:
                        on_error(error)

        self.beat()
        thread = threading.Thread(target=run, name="rekeyd-heart", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _alive(self, holder: str) -> bool:
        return holder == self.holder or self._holder_alive(holder)

    def _sign_in(self, conn: sa.Connection) -> None:
        now = self._clock.now()
        seen = t.update_of(t.replica, "holder")
        if conn.execute(seen, {**t.key_values({"holder": self.holder}), "seen_at": now}).rowcount:
            return
        # First beat, or somebody declared us dead: then our accounts are free, and their guards will say so.
        self._held.clear()
        conn.execute(sa.insert(t.replica).values(holder=self.holder, started_at=now, seen_at=now))

    def _take(self, conn: sa.Connection, account_id: AccountId) -> int | None:
        row = conn.execute(_ROW, {"account": account_id}).first()
        if row is None:
            conn.execute(sa.insert(t.account).values(account_id=account_id, holder=self.holder, epoch=1))
            return 1
        # A row of ours that is not in `_held`: the answer to a commit was lost, or a release failed. It may be taken.
        if row.holder == self.holder and account_id in self._held:
            return None
        if row.holder is not None and row.holder != self.holder:
            if self._holder_alive(row.holder):
                return None
            self._bury(conn, row.holder)
        epoch: int = row.epoch + 1
        taken = {"holder": self.holder, "epoch": epoch}
        conn.execute(t.update_of(t.account, "account_id"), {**t.key_values({"account_id": account_id}), **taken})
        return epoch

    def _bury(self, conn: sa.Connection, holder: str) -> None:
        freed = conn.execute(
            sa.select(sa.func.count()).select_from(t.account).where(t.account.c.holder == holder)
        ).scalar_one()
        conn.execute(sa.delete(t.replica).where(t.replica.c.holder == holder))
        append_event(
            conn,
            Recorded.HOLDER_DIED,
            at=self._clock.now(),
            actor="daemon",
            detail={"holder": holder, "accounts": freed},
        )
