"""The journal's store on SQLite: everything that is SQLite's own stands here, and nothing else does.

* WAL and `synchronous=FULL`: with NORMAL a power cut forgets commits, and the intent that it forgets is exactly the one
  that explains an orphan key.
* A write is `BEGIN IMMEDIATE` under one lock of this process: SQLite's busy handler alone starves threads for seconds.
* Local disks only: over NFS and SMB neither `flock` nor WAL's shared memory can be trusted.
* The file is looked at again with every transaction: a journal that was deleted or replaced while open must not go on
  taking intents that nobody will ever read.
"""

import ctypes
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from rekeyd.adapters.journal_owners import FileOwners, MemoryOwners, Owners
from rekeyd.errors import JournalError, JournalLockedError

BUSY_TIMEOUT_S: Final = 30
"""Seconds to wait for another process's write. Single waits of more than 6 s were measured on a slow disk, so the
driver's default of 5 s would fail without need."""

# linux/magic.h, and fs/smb/client for the last: file systems whose locks live on another machine.
NETWORK_FILESYSTEMS: Final = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x5346414F: "AFS",
    0x00C36400: "Ceph",
    0x0BD00BD0: "Lustre",
}

_BUSY_PAUSE_S: Final = 0.01
_locks: dict[str, threading.RLock] = {}
_locks_lock = threading.Lock()


class SqliteStore:
    """Transactions on one SQLite file, or on a database in memory when `path` is None."""

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.users = 1
        """Journals that use it; the last one to leave ends it, and with it what was only in memory."""
        if path is None:
            self.owners: Owners = MemoryOwners()
            self._lock = threading.RLock()
        else:
            if not read_only:
                _prepare_file(path)
            elif not path.exists():
                raise JournalError(
                    f"there is no journal at {path}",
                    hint="the daemon makes it when it starts, and rotate-now when it is first used",
                )
            refuse_network_filesystem(path.parent)
            self.owners = FileOwners(path.with_name(f"{path.name}.owners"))
            with _locks_lock:
                self._lock = _locks.setdefault(str(path), threading.RLock())
        self._identity = self._look_at_file()
        self._engine = self._make_engine()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One durable transaction; nothing of it stays when the block raises. JournalError when it cannot be."""
        if self.read_only:
            raise JournalError("the journal was opened for reading only")
        with self._lock, self._wrapped():
            self._check_file()
            with self._engine.connect() as conn, conn.begin():
                _begin(conn, "BEGIN IMMEDIATE")
                yield conn
            # Between the look and the commit it may have gone: then the commit went into a file without a name.
            self._check_file()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view."""
        if self.path is None:
            with self._lock, self._wrapped(), self._engine.connect() as conn, conn.begin():
                _begin(conn, "BEGIN")
                yield conn
            return
        with self._wrapped():
            self._check_file()
            with self._engine.connect() as conn, conn.begin():
                _begin(conn, "BEGIN")
                yield conn

    def pragma(self, name: str) -> Any:
        """A setting as a connection of this store has it (for `doctor` and the tests)."""
        with self.read() as conn:
            return conn.exec_driver_sql(f"PRAGMA {name}").scalar()

    def release(self) -> None:
        self.users -= 1
        if self.users <= 0:
            self._engine.dispose()

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise _wrap(error, self.path) from error
        except sqlite3.Error as error:
            raise _explain(error, self.path) from error

    def _look_at_file(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except OSError as error:
            raise JournalError(
                f"the journal {self.path} is gone: {error.strerror}",
                hint="restart rekeyd; it starts a new journal, or continues the one that you restore",
            ) from error
        return found.st_dev, found.st_ino

    def _check_file(self) -> None:
        if self._look_at_file() != self._identity:
            raise JournalError(
                f"the journal {self.path} was replaced by another file while it was open",
                hint="restart rekeyd, so that it reads what is there now",
            )

    def _make_engine(self) -> sa.Engine:
        # Parameters stay out of the library's messages: ours name what a person needs.
        if self.path is None:
            engine = sa.create_engine(
                "sqlite://",
                poolclass=sa.StaticPool,
                connect_args={"check_same_thread": False, "isolation_level": None},
                hide_parameters=True,
            )
        else:
            engine = sa.create_engine(
                "sqlite://",
                creator=self._connect,
                poolclass=sa.QueuePool,
                pool_size=5,
                max_overflow=-1,
                hide_parameters=True,
            )
        sa.event.listen(engine, "connect", _set_pragmas if not self.read_only else _set_reading_pragmas)
        return engine

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self.read_only else "rw"
        uri = f"{Path(str(self.path)).as_uri()}?mode={mode}"
        if self.read_only and self._cannot_share():
            uri += "&immutable=1"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)

    def _cannot_share(self) -> bool:
        """Nobody writes (there is no WAL), and this user could not make WAL's shared memory."""
        path = Path(str(self.path))
        return not path.with_name(f"{path.name}-wal").exists() and not os.access(path.parent, os.W_OK)


def refuse_network_filesystem(directory: Path, *, magic_of: Callable[[Path], int | None] | None = None) -> None:
    """JournalError when `directory` is on another machine's disk."""
    name = NETWORK_FILESYSTEMS.get((magic_of or _filesystem_magic)(directory) or 0)
    if name is not None:
        raise JournalError(
            f"{directory} is on {name}, where file locks cannot be trusted, so two daemons could hold one account",
            hint="put the journal on a local disk",
        )


def _filesystem_magic(directory: Path) -> int | None:
    """`f_type` of statfs(2); None: could not be asked. Python's statvfs leaves it out."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(512)  # struct statfs has 120 bytes on 64-bit Linux
    if not hasattr(libc, "statfs") or libc.statfs(os.fsencode(directory), answer) != 0:
        return None
    return ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF


def _prepare_file(path: Path) -> None:
    """The directory, and an empty file that only this user can read; SQLite gives its WAL the same mode.

    Their names are synced like what will be in the file: SQLite does so for its own files only.

    A file that exists is never opened here: closing any descriptor of it would drop the POSIX locks that SQLite holds
    on it elsewhere in this process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:
            _sync_directory(folder.parent)
        with _locks_lock, suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            _sync_directory(path.parent)
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o600)
    except OSError as error:
        raise JournalError(
            f"the journal {path} cannot be opened for writing: {error.strerror}",
            hint="journal.url must name a file that this user can write",
        ) from error


def _sync_directory(path: Path) -> None:
    # A file system that cannot sync a directory keeps its names by other means.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    # WAL first: the other settings are this connection's own, this one is written into the file.
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA trusted_schema=OFF")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not ask its busy handler here, so two programs that start at once on a new file would fail.
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > give_up_at:
                raise
            time.sleep(_BUSY_PAUSE_S)
    if mode not in ("wal", "memory"):
        raise JournalError(
            f"the journal cannot use write-ahead logging here (it stays with {mode!r})",
            hint="put the journal on a local disk",
        )


def _set_reading_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")


def _begin(conn: sa.Connection, how: str) -> None:
    """`BEGIN` is deferred: two of them that both go on to write would deadlock into SQLITE_BUSY at once."""
    # Past the library, and no listener of its event: that costs every statement something, and its own way to this
    # statement costs more than SQLite does. A look makes three dozen statements in a dozen transactions.
    conn.connection.cursor().execute(how)


def _wrap(error: sa.exc.SQLAlchemyError, path: Path | None) -> JournalError:
    if isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, sqlite3.Error):
        return _explain(error.orig, path)
    return JournalError(f"the journal cannot be used: {type(error).__name__}")


def _explain(error: sqlite3.Error, path: Path | None) -> JournalError:
    name: str = getattr(error, "sqlite_errorname", "") or type(error).__name__
    where = "in memory" if path is None else str(path)
    for prefix, what, hint in _EXPLANATIONS:
        if name.startswith(prefix):
            kind = JournalLockedError if prefix in _LOCKED else JournalError
            return kind(f"the journal {where} {what} ({name})", hint=hint)
    return JournalError(f"the journal {where} cannot be used ({name}: {error})")


_LOCKED: Final = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED"})
_EXPLANATIONS: Final = (
    ("SQLITE_FULL", "cannot grow: the disk is full", "free space on its disk; nothing is changed outside until then"),
    ("SQLITE_READONLY", "is read-only", "the file and its directory must be writable for this user"),
    ("SQLITE_BUSY", f"stayed locked by another process for {BUSY_TIMEOUT_S} s", "find who holds it: fuser -v FILE"),
    ("SQLITE_LOCKED", "is locked by another transaction", "try again"),
    ("SQLITE_CORRUPT", "is corrupt", "restore it from a backup, or move it away and start with a new one"),
    ("SQLITE_NOTADB", "is not an SQLite database, or is corrupt", "set journal.url to the journal, or restore it"),
    ("SQLITE_CANTOPEN", "cannot be opened", "the file and its directory must exist and be writable for this user"),
    ("SQLITE_IOERR", "cannot be read or written: the disk reports an error", "look at the kernel's log"),
    ("SQLITE_CONSTRAINT", "refused a change that contradicts what it holds", "this is a bug; please report it"),
)
