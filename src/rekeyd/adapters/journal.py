"""The journal: intents and outcomes, clocks, leases, audit, alarms, in SQL.

It never authorises a delete: IAM and Vault decide, and what stands here counts only where they agree. Every write is
one durable transaction; whoever may not write may not change anything outside either.

SQLite is the only database yet. The statements are written for PostgreSQL as well; what is SQLite's own stands in
`journal_sqlite` and `journal_owners`.
"""

import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from rekeyd.adapters.journal_alarms import AlarmPart
from rekeyd.adapters.journal_chain import ChainPart, Recorded, append_event, meta_value, set_meta
from rekeyd.adapters.journal_leases import LeasePart
from rekeyd.adapters.journal_migration import migrate, revision_of
from rekeyd.adapters.journal_moves import LeftPlacesPart
from rekeyd.adapters.journal_outbox import OutboxPart
from rekeyd.adapters.journal_people import PeoplePart
from rekeyd.adapters.journal_schema import REVISIONS, replica
from rekeyd.adapters.journal_sqlite import SqliteStore
from rekeyd.errors import ConfigError, JournalError
from rekeyd.ports import Clock

LEASE_TTL = timedelta(seconds=30)
"""A guard wants a heartbeat younger than half of it, which is longer than the longest single call outside."""


class SqlJournal(ChainPart, PeoplePart, AlarmPart, OutboxPart, LeftPlacesPart, LeasePart):
    """Implements `rekeyd.ports.Journal`. Made by `open_journal`; may be used by many threads."""

    def __init__(
        self,
        store: SqliteStore,
        clock: Clock,
        *,
        instance: str,
        lease_ttl: timedelta,
        holder_alive: Callable[[str], bool] | None,
    ) -> None:
        holder = "" if store.read_only else store.owners.enter()
        super().__init__(store, clock, instance=instance, holder=holder, lease_ttl=lease_ttl, holder_alive=holder_alive)
        self._given_hook = holder_alive
        self._dead = False
        self._closed = False

    @property
    def path(self) -> Path | None:
        """None: in memory."""
        return self._store.path

    @property
    def read_only(self) -> bool:
        return self._store.read_only

    @property
    def schema_revision(self) -> str:
        with self._store.read() as conn:
            return revision_of(conn) or ""

    def another_holder(self) -> "SqlJournal":
        """A second holder on the same store, as another process would be one (tests, simulations)."""
        other = SqlJournal(
            self._store,
            self._clock,
            instance=self.instance,
            lease_ttl=self._ttl,
            holder_alive=self._given_hook,
        )
        self._store.users += 1
        other.beat()
        return other

    def die(self) -> None:
        """What kill -9 leaves behind: the rows stay, the owner is dead. For simulations; `close` frees the rest."""
        if self._dead:
            return
        self._dead = True
        self._held.clear()
        self._beat_at = float("-inf")
        if not self._store.read_only:
            self._store.owners.leave(self.holder)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if not self._store.read_only and not self._dead:
                with self._store.write() as conn:
                    conn.execute(sa.delete(replica).where(replica.c.holder == self.holder))
        finally:
            self.die()
            self._store.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_journal(
    url: str,
    *,
    instance: str,
    clock: Clock,
    password_file: Path | None = None,
    lease_ttl: timedelta = LEASE_TTL,
    read_only: bool = False,
    holder_alive: Callable[[str], bool] | None = None,
) -> SqlJournal:
    """Open, and make or migrate where needed.

    `url`: `sqlite:////absolute/path` or `sqlite://` (in memory). `password_file` is for databases that have one.
    `read_only`: nothing is made, migrated or held; works beside a running daemon. `holder_alive` replaces the kernel's
    answer to who lives. JournalError: it cannot be used; ConfigError: `url` or `instance` is wrong.
    """
    store = SqliteStore(_path_of(url, password_file), read_only=read_only)
    try:
        if read_only:
            _check_current(store, instance)
        else:
            _make_current(store, instance, clock)
        journal = SqlJournal(store, clock, instance=instance, lease_ttl=lease_ttl, holder_alive=holder_alive)
    except BaseException:
        store.release()
        raise
    if read_only:
        return journal
    try:
        journal.beat()
    except BaseException:
        journal.die()
        store.release()
        raise
    return journal


def _path_of(url: str, password_file: Path | None) -> Path | None:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        # The text itself is left out: somebody may have put a password into it.
        raise ConfigError(
            "journal.url is no database URL", hint='for example "sqlite:////var/lib/rekeyd/journal.db"'
        ) from None
    if parsed.get_backend_name() != "sqlite" or parsed.host is not None:
        raise ConfigError(
            f"journal.url: {parsed.get_backend_name()} is not supported by this version",
            hint='for example "sqlite:////var/lib/rekeyd/journal.db", with four slashes before an absolute path',
        )
    if parsed.query or password_file is not None:
        raise ConfigError("journal: SQLite takes neither parameters in its url nor a password_file")
    if parsed.database in (None, "", ":memory:"):
        return None
    return Path(str(parsed.database)).expanduser().absolute()


def _make_current(store: SqliteStore, instance: str, clock: Clock) -> None:
    with store.read() as conn:
        revision = revision_of(conn)
    if revision != REVISIONS[-1]:
        with store.write() as conn:
            # Another process may have been faster.
            if revision_of(conn) != REVISIONS[-1]:
                migrate(conn)
            if meta_value(conn, "incarnation") is None:
                set_meta(conn, "incarnation", secrets.token_hex(16))
                set_meta(conn, "instance", instance)
                append_event(
                    conn, Recorded.JOURNAL_CREATED, at=clock.now(), actor="daemon", detail={"instance": instance}
                )
    _check_instance(store, instance)


def _check_current(store: SqliteStore, instance: str) -> None:
    with store.read() as conn:
        revision = revision_of(conn)
    if revision != REVISIONS[-1]:
        raise JournalError(
            f"the journal {store.path} has schema {revision or 'none'}, and this program needs {REVISIONS[-1]}",
            hint="start the daemon, or any command that changes something: it migrates the journal",
        )
    _check_instance(store, instance)


def _check_instance(store: SqliteStore, instance: str) -> None:
    with store.read() as conn:
        stored = meta_value(conn, "instance")
    if stored != instance:
        raise JournalError(
            f'the journal {store.path or "in memory"} is of instance "{stored}", and journal.instance is "{instance}"',
            hint="give each deployment a journal and an instance name of its own",
        )
