"""How a command ends: exit codes, which other programs rely on, and what is said about an error."""

from enum import IntEnum
from typing import Any

from rekeyd.errors import BusyError, ConfigError, Error, JournalLockedError, LeaseLostError, StateError, UsageError

SCHEMA_VERSION = 1


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    """Something failed; nothing is lost."""
    USAGE = 2
    """The command or the configuration is wrong."""
    CRITICAL = 3
    """A critical finding is open (`audit`, `status`, `alarms`, `root audit`)."""
    REFUSED = 4
    """The state needs a person."""
    BUSY = 5
    """Another holder works on it and did not finish within `--lock-timeout`."""


# What counts when users of one command ended differently.
_PRECEDENCE = (ExitCode.USAGE, ExitCode.FAILED, ExitCode.REFUSED, ExitCode.BUSY, ExitCode.CRITICAL, ExitCode.DONE)


def worst(codes: "list[ExitCode]") -> ExitCode:
    """By precedence 2, 1, 4, 5, 0."""
    return min(codes, key=_PRECEDENCE.index, default=ExitCode.DONE)


def code_of(error: Error) -> ExitCode:
    match error:
        case ConfigError() | UsageError():
            return ExitCode.USAGE
        case StateError():
            return ExitCode.REFUSED
        case BusyError() | LeaseLostError() | JournalLockedError():
            return ExitCode.BUSY
        case _:
            return ExitCode.FAILED


def error_document(code: str, message: str, hint: str | None) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "error": {"code": code, "message": message, "hint": hint}}
