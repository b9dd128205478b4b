"""Since when this process has held an account with nobody else in between.

A predecessor that still lives may be frozen with a signed request in hand, and what it sends is refused some minutes
after the account was taken from it. That time must not start again with each of our own passes.
"""

import threading
from dataclasses import dataclass, field
from datetime import datetime

from rekeyd.core.model import AccountId
from rekeyd.ports import Lease


@dataclass(slots=True)
class Tenures:
    _held: dict[AccountId, tuple[int, datetime]] = field(default_factory=dict)
    """(epoch of the last taking, since when)."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def since(self, lease: Lease, now: datetime) -> datetime:
        """`now` at the first taking, and after somebody else took the account: every taking raises the epoch by one."""
        with self._lock:
            last = self._held.get(lease.account_id)
            kept = last is not None and lease.epoch - last[0] in (0, 1)
            since = last[1] if last is not None and kept else now
            self._held[lease.account_id] = (lease.epoch, since)
            return since
