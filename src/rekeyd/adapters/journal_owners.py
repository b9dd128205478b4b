"""Which holders are alive: the kernel says so, no clock does.

Every process that opens the journal holds `flock` on a file of its own beside the database
(`<db>.owners/<holder>.lock`). The kernel drops the lock when the process ends, however it ends, and keeps it while the
process is merely frozen: so a frozen holder is never robbed.

`flock` rather than POSIX `lockf`: a POSIX lock is lost as soon as any descriptor of the file is closed. A child that
is forked without exec would keep the lock, so the descriptor is closed on exec and after a fork.
"""

import fcntl
import os
import re
import secrets
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rekeyd.errors import JournalError

HolderAlive = Callable[[str], bool]


class Owners(Protocol):
    """The register of living holders."""

    def enter(self) -> str:
        """A new holder, alive from now on."""

    def leave(self, holder: str) -> None:
        """That holder of this process is dead from now on."""

    def alive(self, holder: str) -> bool: ...

    def sweep(self, known: frozenset[str]) -> None:
        """Remove what dead holders outside `known` left behind."""


def new_holder() -> str:
    """`host:pid:random`."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64] or "host"
    return f"{host}:{os.getpid()}:{secrets.token_hex(6)}"


class FileOwners:
    """One locked file a holder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}
        _forked.add(self)

    def enter(self) -> str:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            # A sweeper may take the file between its making and its locking; then it is gone, and we try again.
            while True:
                holder = new_holder()
                descriptor = self._lock_new(self._path(holder))
                if descriptor is not None:
                    self._held[holder] = descriptor
                    return holder
        except OSError as error:
            raise JournalError(
                f"the owner file in {self._directory} cannot be made: {error.strerror}",
                hint="the directory of the journal must be writable for this user",
            ) from error

    def leave(self, holder: str) -> None:
        descriptor = self._held.pop(holder, None)
        if descriptor is None:
            return
        with suppress(OSError):
            self._path(holder).unlink()
        os.close(descriptor)

    def alive(self, holder: str) -> bool:
        return self._probe(self._path(holder), remove=False)

    def sweep(self, known: frozenset[str]) -> None:
        with suppress(OSError):
            for path in self._directory.glob("*.lock"):
                holder = path.name.removesuffix(".lock")
                if holder not in known and holder not in self._held:
                    self._probe(path, remove=True)

    def close_after_fork(self) -> None:
        for descriptor in self._held.values():
            with suppress(OSError):
                os.close(descriptor)
        self._held.clear()

    def _probe(self, path: Path, *, remove: bool) -> bool:
        """Whether the owner lives; a dead one's file can go."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # cannot tell, and only a certainly dead holder may be robbed
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if remove:
                # While the lock is ours: a new owner that waits for it then sees that its file is gone.
                path.unlink(missing_ok=True)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _path(self, holder: str) -> Path:
        return self._directory / f"{holder}.lock"

    def _lock_new(self, path: Path) -> int | None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None


class MemoryOwners:
    """For a journal in memory: holders live until they leave."""

    def __init__(self) -> None:
        self._living: set[str] = set()

    def enter(self) -> str:
        holder = new_holder()
        self._living.add(holder)
        return holder

    def leave(self, holder: str) -> None:
        self._living.discard(holder)

    def alive(self, holder: str) -> bool:
        return holder in self._living

    def sweep(self, known: frozenset[str]) -> None:
        """Nothing is left behind in memory."""


_forked: "weakref.WeakSet[FileOwners]" = weakref.WeakSet()


def _close_all_after_fork() -> None:
    for owners in _forked:
        owners.close_after_fork()


os.register_at_fork(after_in_child=_close_all_after_fork)
