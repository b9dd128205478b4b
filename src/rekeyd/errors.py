"""Errors, sorted by what the caller can do about them.

Adapters wrap foreign exceptions into these (`raise … from error`) and never let a
response body through. A message says what, on which object, with which value;
`hint` says the next step. Lower case, no full stop.
"""

from datetime import datetime
from typing import ClassVar

from rekeyd.core.reasons import Reason


class Error(Exception):
    """Base of all errors that rekeyd raises on purpose."""

    code: ClassVar[str] = "failed"
    """Stable spelling in JSON."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class TemporaryError(Error):
    """It certainly did not happen, and may work later: throttled, not reachable, sealed."""

    code = "temporary"


class RefusedError(Error):
    """The other side understood and said no (denied, limit, invalid); repeating it changes nothing by itself."""

    code = "refused"


class MessageRefusedError(RefusedError):
    """A channel finds fault with the message itself; another one it may take."""

    code = "message_refused"


class AccessDeniedError(RefusedError):
    """No permission. The message names the action."""

    code = "access_denied"


class InterceptedError(RefusedError):
    """A credential for rekeyd seems to have been opened by somebody else on its way: a person must look."""

    code = "intercepted"


class NotFoundError(RefusedError):
    """The other side does not know the object (`NoSuchEntity`)."""

    code = "not_found"


class LimitExceededError(RefusedError):
    """`LimitExceeded`: the key quota is full."""

    code = "limit_exceeded"


class OutcomeUnknownError(Error):
    """Sent, and the answer was lost: it may have happened.

    The caller must observe again before acting; a retry could do it twice.
    """

    code = "outcome_unknown"


class ConflictError(RefusedError):
    """Check-and-set failed: somebody else wrote that Vault version."""

    code = "conflict"


class LeaseLostError(Error):
    """Another holder works on the account now, or it cannot be told: nothing outside may be changed."""

    code = "lease_lost"


class BusyError(Error):
    """Another holder works on it and did not finish in time."""

    code = "busy"


class JournalError(Error):
    """The journal cannot be read or written; without it nothing outside is changed."""

    code = "journal"


class JournalLockedError(JournalError):
    """Another process is in the middle of a write and did not end it in time: it works, or was stopped just there."""

    code = "busy"


class PreconditionError(Error):
    """Checked before the irreversible call, and not met; nothing was begun."""

    code = "precondition"


class StoppingError(Error):
    """The process was asked to stop; the step was ended at a safe place."""

    code = "stopping"


class ConfigError(Error):
    """The configuration is wrong; the message lists every mistake."""

    code = "configuration"


class UsageError(Error):
    """The command was called in a way that cannot work."""

    code = "usage"


class StateError(Error):
    """The state needs a person (exit 4)."""

    code = "needs_a_person"


class PostponedError(Error):
    """Nothing was begun: a gate closed between the decision and the act."""

    code = "postponed"

    def __init__(self, reason: Reason, until: datetime | None) -> None:
        super().__init__(reason.sentence)
        self.reason = reason
        self.until = until
        """When the gate may open; None: not by itself."""
