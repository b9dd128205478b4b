"""The configuration in force, and what was put together from it; swapped between passes, never under one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rekeyd.app import App


@dataclass(slots=True)
class _Generation:
    app: App
    users: int = 0
    retired: bool = False


class Parts:
    """Whoever works takes the newest parts and keeps them to its end; those that nobody uses any more are closed."""

    def __init__(self, app: App) -> None:
        self._lock = threading.Lock()
        self._newest = _Generation(app)

    @property
    def newest(self) -> App:
        """To look at settings. To work, use `in_use`."""
        with self._lock:
            return self._newest.app

    @contextmanager
    def in_use(self) -> Iterator[App]:
        with self._lock:
            mine = self._newest
            mine.users += 1
        try:
            yield mine.app
        finally:
            with self._lock:
                mine.users -= 1
                unused = mine.retired and mine.users == 0
            if unused:
                mine.app.vault.close()

    def replace(self, app: App) -> None:
        """The journal and the clock must be the same ones: leases belong to them."""
        with self._lock:
            before, self._newest = self._newest, _Generation(app)
            before.retired = True
            unused = before.users == 0
        if unused:
            before.app.vault.close()
