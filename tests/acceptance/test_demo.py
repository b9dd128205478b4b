"""`rekeyd demo` as a process without a terminal: it tells its story, judges it, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rekeyd.demo.cast import AWAY, CAST, COPIED, End
from tests.acceptance.stand import eventually

# The demo itself gives up after 140 s.
_LIMIT_SECONDS = 200.0
pytestmark = pytest.mark.timeout(240)

# The same as `rekeyd demo --json`, with its secrets made known to the suite, which searches all output for them.
_DEMO = """
import sys
from rekeyd.demo.main import run
from tests.secret_registry import remember
sys.exit(run(as_json=True, on_secret=remember, **eval(sys.argv[1])))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    code: int
    out: str
    err: str
    left: list[Path]
    """Files that are still there."""
    running: list[int]
    """Processes that are still there."""

    @property
    def summary(self) -> Any:
        return json.loads(self.out)

    def check(self, name: str) -> Any:
        return next(check for check in self.summary["checks"] if check["name"] == name)


@contextmanager
def demo(tmp: Path, **arguments: object) -> Iterator["subprocess.Popen[str]"]:
    tmp.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _DEMO, repr(arguments)],
        env={**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def told(process: "subprocess.Popen[str]", tmp: Path) -> Told:
    out, err = process.communicate(timeout=_LIMIT_SECONDS)
    sys.stdout.write(out)
    sys.stderr.write(err)
    return Told(code=process.returncode, out=out, err=err, left=list(tmp.iterdir()), running=running_below(tmp))


def running_below(tmp: Path) -> list[int]:
    """Every process of the demo has its HOME below the demo's own folders."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"HOME={tmp}/".encode() in environment:
            found.append(int(folder.name))
    return found


def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """One test for all that is told of one demo: it takes a minute, and tests on several workers would each run it."""
    tmp = tmp_path / "tmp"
    with demo(tmp) as process:
        whole = told(process, tmp)
    _the_demo_ends_as_it_must(whole)
    _every_user_that_must_rotate_has_another_key(whole)
    _every_consumer_made_calls_and_none_failed(whole)
    _whoever_is_refused_is_told_why(whole)
    _the_story_is_told_in_lines_without_a_terminal(whole)
    _nothing_is_left_when_it_has_ended(whole)


def _the_demo_ends_as_it_must(whole: Told) -> None:
    wrong = [check for check in whole.summary["checks"] if not check["ok"]]

    assert not wrong, whole.err[-6000:]
    assert whole.code == 0
    assert whole.summary["ok"] is True


def _every_user_that_must_rotate_has_another_key(whole: Told) -> None:
    rotations = {each["user_name"]: each for each in whole.summary["rotations"]}

    assert set(rotations) == {actor.name for actor in CAST if actor.end is not End.UNTOUCHED}
    for name, rotation in rotations.items():
        assert rotation["old_access_key_id"] != rotation["new_access_key_id"]
        assert rotation["old_key"] == ("active" if name == COPIED.name else "deleted")


def _every_consumer_made_calls_and_none_failed(whole: Told) -> None:
    consumers = whole.summary["consumers"]

    assert len(consumers) == sum(actor.consumed for actor in CAST) + 1  # and the one with a copy
    assert all(consumer["calls"] > 0 for consumer in consumers)
    assert sum(consumer["failures"] for consumer in consumers) == 0


def _whoever_is_refused_is_told_why(whole: Told) -> None:
    said = {each["user_name"]: each["message"] for each in whole.summary["refused"]}

    assert "neither Vault nor the journal explains" in said["partner-api"]
    assert "400 days old" in said["partner-api"]
    assert "still used" in said[COPIED.name]
    assert "consumers are broken" in said["image-resize"]
    assert "deleted in Vault" in said["chat-bot"]


def _the_story_is_told_in_lines_without_a_terminal(whole: Told) -> None:
    assert "\x1b" not in whole.err
    for line in ("rotate-now backup", "orphan found", f"account {AWAY}", "everybody is at rest"):
        assert line in whole.err


def _nothing_is_left_when_it_has_ended(whole: Told) -> None:
    assert whole.left == []
    assert whole.running == []


def test_a_story_that_does_not_end_in_time_exits_1_and_says_what_did_not_happen(tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    with demo(tmp, limit_seconds=4.0) as process:
        cut = told(process, tmp)

    assert cut.code == 1
    assert cut.summary["ok"] is False
    assert "still not" in cut.check("the story is told to its end")["detail"]
    assert cut.left == []
    assert cut.running == []


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_process_and_removes_every_file(tmp_path: Path, sent: signal.Signals) -> None:
    tmp = tmp_path / "tmp"
    with demo(tmp) as process:
        # OpenBao, a dozen consumers and the daemon or a command.
        eventually(lambda: len(running_below(tmp)) > len([a for a in CAST if a.consumed]) + 1, "the processes run")
        process.send_signal(sent)
        ended = told(process, tmp)

    assert ended.code == 1
    assert "interrupted" in ended.err
    assert ended.left == []
    assert ended.running == []
