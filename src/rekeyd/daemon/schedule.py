"""The clock of the daemon: APScheduler in memory, which says when; nothing in it is state.

* A job that raises is logged and runs again at its next time.
* A machine that slept runs each job once, not once for each time missed.
* Account work, looks at root users and small chores have threads of their own, so that none waits behind another kind.
* A job of the name `HEART` runs every second; a heart that does not beat means that no job runs.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from rekeyd.core.events import Event
from rekeyd.errors import Error, StoppingError
from rekeyd.logs import get_logger
from rekeyd.ports import Clock

log = get_logger()

HEART_EVERY = timedelta(seconds=1)
_HEART = "heart"
_CHORE_THREADS = 6
_SHORTEST = timedelta(seconds=0.1)


class Pool(StrEnum):
    """Which threads run a job."""

    PASSES = "passes"
    LOOKS = "looks"
    CHORES = "chores"
    QUEUE = "queue"
    """A long poll, which would keep a thread from the chores."""
    HEART = "heart"


class _Scheduler(BackgroundScheduler):  # type: ignore[misc]  # published without types
    def remove_job(self, job_id: str, jobstore: str | None = None) -> None:
        """A job that is gone already is as good: its last run may have just begun. APScheduler 3.11 itself raises
        that in its own thread when it is shut down while it hands out a last run."""
        with contextlib.suppress(JobLookupError):
            super().remove_job(job_id, jobstore)


class Schedule:
    """Named jobs; adding one of the same name replaces it. May be used by many threads, also by its own jobs."""

    def __init__(self, clock: Clock, *, max_parallel: int) -> None:
        """`max_parallel`: accounts worked on, and looked at, at the same time."""
        self._clock = clock
        self._running: dict[tuple[str, int], Pool] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._beat_at = clock.monotonic()
        # Skipped runs are no news: a pass that takes longer than its interval does so on purpose.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler = _Scheduler(
            timezone=UTC,
            daemon=True,
            executors={
                Pool.PASSES.value: ThreadPoolExecutor(max_parallel),
                Pool.LOOKS.value: ThreadPoolExecutor(max_parallel),
                Pool.CHORES.value: ThreadPoolExecutor(_CHORE_THREADS),
                Pool.QUEUE.value: ThreadPoolExecutor(1),
                Pool.HEART.value: ThreadPoolExecutor(1),
            },
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        self.every(_HEART, HEART_EVERY, self._beat, pool=Pool.HEART)
        self._scheduler.start()

    def every(
        self,
        name: str,
        interval: timedelta,
        work: Callable[[], None],
        *,
        pool: Pool = Pool.CHORES,
        first_in: timedelta = timedelta(0),
    ) -> None:
        """Never two runs of it at the same time."""
        seconds = max(interval, _SHORTEST).total_seconds()
        begin = self._clock.now() + first_in
        self._scheduler.add_job(
            self._guarded(name, work, pool),
            IntervalTrigger(seconds=seconds, start_date=begin, timezone=UTC),
            id=name,
            executor=pool.value,
            replace_existing=True,
            next_run_time=begin,
        )

    def once(self, name: str, at: datetime, work: Callable[[], None], *, pool: Pool = Pool.CHORES) -> None:
        """At `at`, or now if that is past. A run that is going on is not affected."""
        self._scheduler.add_job(
            self._guarded(name, work, pool),
            DateTrigger(max(at, self._clock.now()), timezone=UTC),
            id=name,
            executor=pool.value,
            replace_existing=True,
            # A job may schedule its own next run before it has ended.
            max_instances=2,
        )

    def due_at(self, name: str) -> datetime | None:
        """When it runs next; None: it is not scheduled."""
        job = self._scheduler.get_job(name)
        at: datetime | None = None if job is None else job.next_run_time
        return at

    def forget(self, name: str) -> None:
        self._scheduler.remove_job(name)

    def wind_heart(self) -> None:
        """After the machine's clock was set back the times of all jobs lie too far ahead; this puts the heart right."""
        self.every(_HEART, HEART_EVERY, self._beat, pool=Pool.HEART)

    @property
    def heartbeat_age(self) -> timedelta:
        return timedelta(seconds=self._clock.monotonic() - self._beat_at)

    def stop(self) -> None:
        """No job begins from here on; those that run go on."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def wait_idle(self, limit: timedelta) -> list[str]:
        """Wait for the passes that run; returns the names of those that still do after `limit`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in(Pool.PASSES), timeout=max(limit.total_seconds(), 0))
            return self._in(Pool.PASSES)

    def running(self) -> list[str]:
        with self._changed:
            return [name for name, _ in self._running]

    def _in(self, pool: Pool) -> list[str]:
        return [name for (name, _), where in self._running.items() if where is pool]

    def _beat(self) -> None:
        self._beat_at = self._clock.monotonic()

    def _guarded(self, name: str, work: Callable[[], None], pool: Pool) -> Callable[[], None]:
        def run() -> None:
            mark = (name, threading.get_ident())
            with self._changed:
                if self._stopping:
                    return
                self._running[mark] = pool
            try:
                work()
            except StoppingError:
                return
            except Error as error:
                log.error(Event.JOB_FAILED, job=name, error=error.message, hint=error.hint)
            except Exception:
                log.exception(Event.JOB_FAILED, job=name)
            finally:
                with self._changed:
                    del self._running[mark]
                    self._changed.notify_all()

        return run
