"""A deterministic sample of `make crash`: real processes are killed, and every call of theirs fails.

The whole: `python -m tests.crash.process_matrix`, `process_faults` and `process_signals`.
"""

import random
from pathlib import Path

from rekeyd.demo.emulator import Delay, Hold
from rekeyd.demo.openbao import OpenBaoServer
from tests.crash import process_faults, process_signals
from tests.crash.process_lives import Call, Moment
from tests.crash.process_runs import Killed, Result, run

_WORKERS = 3
_SEED = 20261123
_PUBLISH = Call("vault", "POST {mount}/data/{user}", "user")
_MARK = Call("vault", "POST {mount}/data/{mark}", "mark")
_CREATE, _UPDATE, _DELETE = (Call("iam", f"{verb}AccessKey", "user") for verb in ("Create", "Update", "Delete"))

_KILLS = (
    Killed("rotate", (Moment(_CREATE, 1, "after"),)),
    Killed("rotate", (Moment(_PUBLISH, 1, "after"),)),
    Killed("adopt", (Moment(_PUBLISH, 1, "after"), Moment(_PUBLISH, 1, "before"))),
    Killed("emergency", (Moment(_PUBLISH, 1, "answered"),)),
    Killed("rollback", (Moment(_PUBLISH, 1, "before"),)),
)


_SIGNALS = (
    process_signals.Signalled(_PUBLISH, process_signals.LOST),
    process_signals.Signalled(_PUBLISH, "SIGHUP, fields"),
    process_signals.Signalled(_CREATE, "SIGHUP, path"),
    process_signals.Signalled(_PUBLISH, process_signals.SIGTERM, "rollback"),
)


def _said(
    results: list[Result[Killed]] | list[Result[process_faults.Failing]] | list[Result[process_signals.Signalled]],
) -> str:
    return "\n".join(f"{result.case}: {text}" for result in results for text in result.wrongs)


def test_a_process_killed_at_a_change_loses_nothing(openbao: OpenBaoServer, tmp_path: Path) -> None:
    results = list(run(_KILLS, openbao, tmp_path, workers=_WORKERS, batch=2))
    assert _said(results) == ""
    assert len(results) == len(_KILLS)
    assert all(result.struck >= 1 for result in results)
    assert all(result.polls > 0 for result in results)


def test_a_call_that_fails_in_a_sampled_way_breaks_no_promise(openbao: OpenBaoServer, tmp_path: Path) -> None:
    draw = random.Random(_SEED)  # noqa: S311 - repeatable, not secret
    known = list(process_faults.cases((_CREATE, _PUBLISH, _UPDATE, _DELETE, _MARK)))
    # The others wait for time-outs, and are in `make crash`.
    quick = [
        case for case in known if case.how in ("once", "until mended") and not isinstance(case.effect, Hold | Delay)
    ]
    chosen = draw.sample(quick, 4)
    results = list(run(chosen, openbao, tmp_path, workers=_WORKERS, batch=2))
    assert _said(results) == ""
    assert len(results) == len(chosen)
    assert sum(result.struck for result in results) >= len(chosen)


def test_a_signal_in_the_middle_of_a_step_loses_nothing(openbao: OpenBaoServer, tmp_path: Path) -> None:
    results = list(run(_SIGNALS, openbao, tmp_path, workers=_WORKERS, batch=2))
    assert _said(results) == ""
    assert len(results) == len(_SIGNALS)
    assert all(result.struck >= 1 for result in results)
