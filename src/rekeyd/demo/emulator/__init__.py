"""The outside world in one process: an AWS on loopback, and a faulty way to Vault.

Nothing here may be imported by the daemon; it exists for `rekeyd demo` and tests.
"""

from rekeyd.demo.emulator.clock import WorldClock
from rekeyd.demo.emulator.faults import (
    Answer,
    Call,
    Delay,
    Drop,
    ErrorCode,
    Hold,
    Http,
    Kill,
    Rule,
    SeenRequest,
    Throttle,
    Truncate,
)
from rekeyd.demo.emulator.seeding import KeyShown, SeededKey, SeededUser
from rekeyd.demo.emulator.server import HUB, EmulatedAws
from rekeyd.demo.emulator.world import Delays

__all__ = [
    "HUB",
    "Answer",
    "Call",
    "Delay",
    "Delays",
    "Drop",
    "EmulatedAws",
    "ErrorCode",
    "Hold",
    "Http",
    "Kill",
    "KeyShown",
    "Rule",
    "SeededKey",
    "SeededUser",
    "SeenRequest",
    "Throttle",
    "Truncate",
    "WorldClock",
]
