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
    HoldBack,
    Http,
    Kill,
    LateDuplicate,
    Rule,
    SeenRequest,
    Throttle,
    Truncate,
)
from rekeyd.demo.emulator.seeding import KeyShown, SeededKey, SeededUser
from rekeyd.demo.emulator.server import HUB, EmulatedAws
from rekeyd.demo.emulator.vault_proxy import Redirect, Sealed, StaleRead, VaultError, VaultProxy
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
    "HoldBack",
    "Http",
    "KeyShown",
    "Kill",
    "LateDuplicate",
    "Redirect",
    "Rule",
    "Sealed",
    "SeededKey",
    "SeededUser",
    "SeenRequest",
    "StaleRead",
    "Throttle",
    "Truncate",
    "VaultError",
    "VaultProxy",
    "WorldClock",
]
