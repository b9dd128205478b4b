"""What `rekeyd doctor` says of one thing that rekeyd needs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from rekeyd.errors import AccessDeniedError, Error, NotFoundError

# AWS refuses signatures of clocks five minutes apart and more; a minute is already a sign that nobody sets this one.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
_CLOCK_FAILS, _CLOCK_WARNS = timedelta(minutes=4), timedelta(seconds=30)

AWS_POLICY = "`rekeyd policy aws` prints the policy that rekeyd needs"


class Verdict(StrEnum):
    OK = "ok"
    SKIPPED = "skipped"
    """Nothing is known to be wrong, and nothing was tried; the message says why."""
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    verdict: Verdict
    message: str
    hint: str | None = None

    def entry(self) -> dict[str, str | None]:
        return {"name": self.name, "verdict": self.verdict.value, "message": self.message, "hint": self.hint}


def ok(name: str, message: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, message=message)


def skipped(name: str, message: str, hint: str | None = None) -> Check:
    return Check(name=name, verdict=Verdict.SKIPPED, message=message, hint=hint)


def warning(name: str, message: str, hint: str | None = None) -> Check:
    return Check(name=name, verdict=Verdict.WARNING, message=message, hint=hint)


def failed(name: str, message: str, hint: str | None = None) -> Check:
    return Check(name=name, verdict=Verdict.FAILED, message=message, hint=hint)


def tried(
    name: str, attempt: Callable[[], object], *, denied: Callable[[str, str, str | None], Check] = failed
) -> Check:
    """By a real call to AWS. `denied`: how bad it is when it is not allowed."""
    try:
        attempt()
    except NotFoundError:
        pass  # allowed: AWS looks for the object only after the permission
    except AccessDeniedError as error:
        return denied(name, error.message, AWS_POLICY)
    except Error as error:
        return failed(name, error.message, error.hint)
    return ok(name, "allowed")


def clock_check(name: str, whose: str, ours: datetime, theirs: datetime | None) -> Check:
    if theirs is None:
        return warning(name, f"{whose} did not say what time it is")
    apart = abs(ours - theirs)
    said = f"{apart.total_seconds():.0f} s apart from {whose}'s"
    if apart > _CLOCK_FAILS:
        return failed(name, said, "set this machine's clock (NTP): AWS refuses signatures of another time")
    return warning(name, said, "set this machine's clock (NTP)") if apart > _CLOCK_WARNS else ok(name, said)
