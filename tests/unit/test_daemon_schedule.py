"""The schedule: jobs that fail, hang, are late or replaced; nothing here waits longer than for its own event."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.adapters.clock import SystemClock
from rekeyd.daemon.schedule import Pool, Schedule
from rekeyd.errors import TemporaryError
from tests.conftest import LogLines

LIMIT = 20.0
SOON = timedelta(seconds=0.02)
LONG = timedelta(hours=1)


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def schedule(clock: SystemClock) -> Iterator[Schedule]:
    made = Schedule(clock, max_parallel=2)
    made.start()
    yield made
    made.stop()


class Counter:
    """Counts its runs and can be waited for."""

    def __init__(self, wanted: int = 1) -> None:
        self.runs = 0
        self._wanted = wanted
        self._reached = threading.Event()

    def __call__(self) -> None:
        self.runs += 1
        if self.runs >= self._wanted:
            self._reached.set()

    def wait(self) -> bool:
        return self._reached.wait(LIMIT)


def test_a_job_runs_at_once_and_then_every_interval(schedule: Schedule) -> None:
    job = Counter(3)
    schedule.every("job", SOON, job)
    assert job.wait()


def test_a_job_that_raises_is_logged_and_runs_again(schedule: Schedule, log_lines: LogLines) -> None:
    runs = Counter(4)

    def job() -> None:
        runs()
        if runs.runs % 2:
            raise TemporaryError("not now", hint="later")
        raise ZeroDivisionError

    schedule.every("job", SOON, job)
    assert runs.wait()
    schedule.stop()
    failed = [line for line in log_lines() if line["event"] == "job.failed"]
    assert {line["job"] for line in failed} == {"job"}
    assert any(line.get("error") == "not now" and line.get("hint") == "later" for line in failed)
    assert any("ZeroDivisionError" in line.get("exception", "") for line in failed)


def test_a_time_that_is_past_means_now(schedule: Schedule, clock: SystemClock) -> None:
    job = Counter()
    schedule.once("job", clock.now() - LONG, job)
    assert job.wait()


def test_a_job_of_the_same_name_takes_the_place_of_the_other(schedule: Schedule, clock: SystemClock) -> None:
    late, early = Counter(), Counter()
    schedule.once("job", clock.now() + LONG, late)
    schedule.once("job", clock.now(), early)
    assert early.wait()
    assert late.runs == 0


def test_a_job_may_schedule_its_own_next_run(schedule: Schedule, clock: SystemClock) -> None:
    runs = Counter(3)

    def job() -> None:
        runs()
        schedule.once("job", clock.now(), job)

    schedule.once("job", clock.now(), job)
    assert runs.wait()


def test_a_forgotten_job_never_runs_and_may_be_forgotten_twice(schedule: Schedule, clock: SystemClock) -> None:
    schedule.once("job", clock.now() + LONG, Counter())
    assert schedule.due_at("job") is not None
    schedule.forget("job")
    schedule.forget("job")
    assert schedule.due_at("job") is None


def test_a_job_never_runs_twice_at_the_same_time(schedule: Schedule) -> None:
    together, most = 0, 0
    guard, runs = threading.Lock(), Counter(5)

    def job() -> None:
        nonlocal together, most
        with guard:
            together += 1
            most = max(most, together)
        # Longer than the interval.
        threading.Event().wait(0.05)
        with guard:
            together -= 1
        runs()

    schedule.every("job", SOON, job)
    assert runs.wait()
    assert most == 1


def test_hanging_passes_hold_up_neither_looks_nor_chores_nor_the_heart(schedule: Schedule, clock: SystemClock) -> None:
    release, looks, chores = threading.Event(), Counter(), Counter()
    hanging = threading.Barrier(3)

    def hang() -> None:
        hanging.wait(LIMIT)
        release.wait(LIMIT)

    for number in range(2):
        schedule.once(f"pass-{number}", clock.now(), hang, pool=Pool.PASSES)
    hanging.wait(LIMIT)
    schedule.every("look", SOON, looks, pool=Pool.LOOKS)
    schedule.every("chore", SOON, chores)
    assert looks.wait()
    assert chores.wait()
    assert schedule.heartbeat_age < timedelta(seconds=10)
    assert sorted(schedule.wait_idle(timedelta(0))) == ["pass-0", "pass-1"]
    release.set()
    assert schedule.wait_idle(timedelta(seconds=LIMIT)) == []


def test_after_stop_nothing_begins_not_even_what_waits_for_a_thread(schedule: Schedule, clock: SystemClock) -> None:
    release, begun, queued = threading.Event(), threading.Barrier(3), Counter()

    def hang() -> None:
        begun.wait(LIMIT)
        release.wait(LIMIT)

    for number in range(2):
        schedule.once(f"pass-{number}", clock.now(), hang, pool=Pool.PASSES)
    begun.wait(LIMIT)
    schedule.once("queued", clock.now(), queued, pool=Pool.PASSES)
    told = Counter()
    schedule.once("after", clock.now(), told)
    assert told.wait()  # the queued one was handed to its pool before this one ran
    schedule.stop()
    release.set()
    assert schedule.wait_idle(timedelta(seconds=LIMIT)) == []
    assert queued.runs == 0
