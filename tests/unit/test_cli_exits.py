"""Exit codes, and what the terminal is protected from."""

from datetime import UTC, datetime, timedelta

import pytest

from rekeyd.cli import output
from rekeyd.cli.exits import ExitCode, code_of, worst
from rekeyd.errors import (
    AccessDeniedError,
    BusyError,
    ConfigError,
    Error,
    JournalError,
    JournalLockedError,
    LeaseLostError,
    OutcomeUnknownError,
    StateError,
    TemporaryError,
    UsageError,
)

CODES = {
    "a wrong configuration is 2": (ConfigError("x"), 2),
    "a wrong call is 2": (UsageError("x"), 2),
    "a state that needs a person is 4": (StateError("x"), 4),
    "another holder is 5": (BusyError("x"), 5),
    "a lost lease is 5": (LeaseLostError("x"), 5),
    "no permission is 1": (AccessDeniedError("x"), 1),
    "a passing failure is 1": (TemporaryError("x"), 1),
    "an unknown outcome is 1": (OutcomeUnknownError("x"), 1),
    "a journal that fails is 1": (JournalError("x"), 1),
    "a journal in which another process writes is 5": (JournalLockedError("x"), 5),
}


@pytest.mark.parametrize(("error", "code"), CODES.values(), ids=CODES)
def test_each_error_has_its_exit_code(error: Error, code: int) -> None:
    assert code_of(error) == code


ENDS = {
    "nobody asked is 0": ([], 0),
    "all done is 0": ([0, 0], 0),
    "busy beats done": ([0, 5], 5),
    "refused beats busy": ([5, 4, 0], 4),
    "failed beats refused": ([4, 1, 5], 1),
    "usage beats everything": ([1, 2, 4], 2),
}


@pytest.mark.parametrize(("codes", "code"), ENDS.values(), ids=ENDS)
def test_several_users_end_by_precedence(codes: list[int], code: int) -> None:
    assert worst([ExitCode(each) for each in codes]) == code


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert output.printable("a\x1b[31mb\rc\nd") == "a\\x1b[31mb\\x0dc\nd"


SPANS = {
    "0s": timedelta(0),
    "119s": timedelta(seconds=119),
    "2m": timedelta(minutes=2),
    "119m": timedelta(minutes=119),
    "2h": timedelta(hours=2),
    "23h": timedelta(hours=23),
    "1d": timedelta(days=1),
    "86d": timedelta(days=86, hours=23),
}


@pytest.mark.parametrize(("text", "duration"), SPANS.items(), ids=SPANS)
def test_a_span_is_told_in_one_unit(text: str, duration: timedelta) -> None:
    assert output.span(duration) == text


def test_a_time_is_told_with_its_distance() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert output.when(now + timedelta(days=3), now) == "2026-11-26 12:00Z (in 3d)"
    assert output.when(now - timedelta(hours=5), now) == "2026-11-23 07:00Z (5h ago)"
    assert output.when(None, now) == ""
