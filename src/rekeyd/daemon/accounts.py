"""Which account is worked on when.

* Every account: a scan at once and then every `scan.every`, spread by the account's number; a root check every
  `root.check_every`; a due pass at the earliest time at which one of its users can go on.
* One pass an account at a time in this process; the journal's lease does the same among processes.
* About once a second the journal is asked for requests of people and for the next times, since another process
  (`rotate-now`) may have changed both. IAM is never polled.
* An account that cannot be worked on is left alone for longer and longer; the others do not notice.
"""

import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rekeyd.adapters.metrics import Metrics
from rekeyd.app import App
from rekeyd.core.events import Event
from rekeyd.core.model import AccountId
from rekeyd.core.reasons import Reason
from rekeyd.daemon.parts import Parts
from rekeyd.daemon.schedule import Pool, Schedule
from rekeyd.errors import BusyError, Error, LeaseLostError, StoppingError
from rekeyd.fleet.passes import Fleet, PassResult
from rekeyd.fleet.posture import Part
from rekeyd.logs import bound, get_logger
from rekeyd.ports import Request

log = get_logger()

POLL_EVERY = timedelta(seconds=1)
# Another holder works on the account: usually a command, for seconds.
_BUSY_FIRST, _BUSY_LAST = timedelta(seconds=1), timedelta(seconds=15)
_SHORTEST_BACKOFF = timedelta(seconds=1)

# What keeps rekeyd from its work, as opposed to what a person must settle.
_NOT_WELL = frozenset({Reason.STEP_FAILED, Reason.VAULT_UNREADABLE})

_Work = Callable[[Fleet], PassResult]


@dataclass(slots=True)
class _Desk:
    """What this process knows about its work on one account."""

    account_id: AccountId
    lock: threading.Lock = field(default_factory=threading.Lock)
    kind: str | None = None
    """Of the pass that runs: scan or due."""
    scan_wanted: bool = False
    passes: int = 0
    """Passes that ended, well or not."""
    broken: str | None = None
    """Why the last pass could not work on the account at all."""
    failures: int = 0
    """Passes in a row that could not, or that brought nothing forward."""
    refusals: int = 0
    """Times in a row that another holder had the account."""
    not_before: datetime | None = None
    asked: bool = False
    """A request waits for a pass: `not_before` does not bind it."""
    wanted: set[str] = field(default_factory=set)
    """Users that something happened to: the next pass looks at them, whatever they wait for."""


@dataclass(slots=True)
class _Tried:
    times: int
    again_at: datetime


class AccountWork:
    """The jobs of all watched accounts."""

    def __init__(self, parts: Parts, schedule: Schedule, metrics: Metrics, *, on_pass: Callable[[], None]) -> None:
        """`on_pass` is called after each pass, however it ended."""
        self._parts = parts
        self._schedule = schedule
        self._metrics = metrics
        self._on_pass = on_pass
        self._clock = parts.newest.clock
        self._journal = parts.newest.journal
        self._lock = threading.Lock()
        self._desks: dict[AccountId, _Desk] = {}
        self._tried: dict[int, _Tried] = {}
        self._root_looks: dict[AccountId, frozenset[Part]] = {}
        """Accounts whose root users are to be looked at now, and what is asked for again."""

    @property
    def watched(self) -> tuple[AccountId, ...]:
        with self._lock:
            return tuple(self._desks)

    def watch(self, account_ids: Iterable[AccountId], *, anew: bool = False) -> None:
        """Exactly these from now on. `anew`: plan those watched already again too, with the intervals of now."""
        wanted = tuple(dict.fromkeys(account_ids))
        with self._lock:
            gone = [account_id for account_id in self._desks if account_id not in wanted]
            fresh = [account_id for account_id in wanted if anew or account_id not in self._desks]
            for account_id in gone:
                del self._desks[account_id]
            for account_id in wanted:
                self._desks.setdefault(account_id, _Desk(account_id))
        for account_id in gone:
            for name in (_scan, _first_scan, _due, _root, _root_now):
                self._schedule.forget(name(account_id))
        for account_id in fresh:
            self._plan(account_id)

    def look_at_root(self, account_id: AccountId, *, anew: Collection[Part] = ()) -> None:
        """Now, beside the looks that its interval brings; `anew`: what is asked for again, however young."""
        with self._lock:
            self._root_looks[account_id] = self._root_looks.get(account_id, frozenset()).union(anew)
        job = _root_now(account_id)
        self._schedule.once(job, self._clock.now(), lambda: self._look_at_root_now(account_id), pool=Pool.LOOKS)

    def look_at_users(self, account_id: AccountId, user_names: Iterable[str]) -> None:
        """As soon as the account may be worked on, named as in their statuses. An account not watched is let be."""
        with self._lock:
            desk = self._desks.get(account_id)
            if desk is None:
                return
            desk.wanted.update(user_names)
        self._arm(desk, {})

    def not_ready(self) -> list[str]:
        """Accounts whose last pass did not end well, in words. Raises JournalError."""
        failing: dict[str, list[str]] = {}
        for status in self._journal.statuses():
            if status.reason in _NOT_WELL:
                failing.setdefault(status.account_id, []).append(status.user_name)
        problems = []
        with self._lock:
            desks = list(self._desks.values())
        for desk in desks:
            users = failing.get(desk.account_id, [])
            if desk.broken is not None:
                problems.append(f"account {desk.account_id}: {desk.broken}")
            elif users:
                problems.append(f"account {desk.account_id}: {_some(users)} could not be worked on; tried again later")
            elif desk.passes == 0:
                problems.append(f"account {desk.account_id}: no pass has ended yet")
        return problems

    # --- when --------------------------------------------------------------------------------------------------------

    def _plan(self, account_id: AccountId) -> None:
        config = self._parts.newest.config
        now = self._clock.now()
        every = config.scan.every
        self._schedule.once(_first_scan(account_id), now, lambda: self._scan(account_id), pool=Pool.PASSES)
        # The same account always at the same point of the interval; never right after the first scan.
        spread = every * (0.5 + zlib.crc32(account_id.encode()) / 2**33)
        self._schedule.every(
            _scan(account_id), every, lambda: self._scan(account_id), pool=Pool.PASSES, first_in=spread
        )
        self._schedule.every(
            _root(account_id), config.root.check_every, lambda: self._check_root(account_id), pool=Pool.LOOKS
        )

    def poll(self) -> None:
        """Requests of people first, then whoever's wait is over."""
        now = self._clock.now()
        requests = self._journal.requests()
        asked = self._news(requests, now)
        looks = self._journal.next_looks()
        with self._lock:
            desks = list(self._desks.values())
        for desk in desks:
            if desk.account_id in asked and desk.kind is None:
                desk.asked = True
                self._once_due(desk, now)
            else:
                self._arm(desk, looks)

    def _news(self, requests: Iterable[Request], now: datetime) -> set[AccountId]:
        """Accounts with a request that no pass has tried yet, or that it is time to try again."""
        open_ids = {request.id for request in requests}
        with self._lock:
            for request_id in [known for known in self._tried if known not in open_ids]:
                del self._tried[request_id]
            tried = dict(self._tried)
        return {
            request.account_id for request in requests if request.id not in tried or now >= tried[request.id].again_at
        }

    def _arm(self, desk: _Desk, looks: Mapping[AccountId, datetime]) -> None:
        """Schedule the account's next due pass; the job that is there stands if it comes at the right time."""
        at = self._clock.now() if desk.wanted else looks.get(desk.account_id)
        if at is None or desk.kind is not None:
            return
        if desk.not_before is not None:
            at = max(at, desk.not_before)
        planned = self._schedule.due_at(_due(desk.account_id))
        if planned is None or abs(planned - at) > timedelta(milliseconds=50):
            # A job whose time has come is about to run; pushing it on would only delay it.
            if planned is not None and planned <= self._clock.now():
                return
            self._once_due(desk, at)

    def _once_due(self, desk: _Desk, at: datetime) -> None:
        self._schedule.once(_due(desk.account_id), at, lambda: self._go_on(desk.account_id), pool=Pool.PASSES)

    # --- what --------------------------------------------------------------------------------------------------------

    def _scan(self, account_id: AccountId) -> None:
        self._pass(account_id, "scan", lambda fleet: fleet.scan_pass(account_id))

    def _go_on(self, account_id: AccountId) -> None:
        with self._lock:
            desk = self._desks.get(account_id)
            if desk is None:
                return
            asked, desk.asked = desk.asked, False
        if not asked and desk.not_before is not None and self._clock.now() < desk.not_before:
            return  # scheduled before the last pass came to nothing
        self._pass(account_id, "due", lambda fleet: self._due(desk, fleet))

    def _due(self, desk: _Desk, fleet: Fleet) -> PassResult:
        with self._lock:
            also, desk.wanted = desk.wanted, set()
        try:
            return fleet.due_pass(desk.account_id, also=also)
        except BaseException:
            with self._lock:
                desk.wanted |= also
            raise

    def _look_at_root_now(self, account_id: AccountId) -> None:
        """Until nothing is wanted: while a look takes long, another one may be wanted, and no job be free for it."""
        while (anew := self._taken_root_look(account_id)) is not None:
            self._check_root(account_id, anew)

    def _taken_root_look(self, account_id: AccountId) -> Collection[Part] | None:
        with self._lock:
            return self._root_looks.pop(account_id, None)

    def _check_root(self, account_id: AccountId, anew: Collection[Part] = ()) -> None:
        began = self._clock.monotonic()
        outcome = "failed"
        try:
            with self._parts.in_use() as app:
                app.fleet.watch.check_root(account_id, anew=anew)
            outcome = "well"
        except StoppingError:
            outcome = "stopped"
            raise
        finally:
            self._metrics.pass_ended("root", outcome, self._since(began))

    def _pass(self, account_id: AccountId, kind: str, work: _Work) -> None:
        with self._lock:
            desk = self._desks.get(account_id)
        if desk is None:
            return
        if not desk.lock.acquire(blocking=False):
            desk.scan_wanted = desk.scan_wanted or (kind == "scan" and desk.kind != "scan")
            return
        try:
            try:
                desk.kind = kind
                with self._parts.in_use() as app:
                    self._measured(app, desk, kind, work)
            finally:
                desk.kind = None
                desk.lock.release()
            self._plan_next(desk)
        finally:
            self._on_pass()

    def _plan_next(self, desk: _Desk) -> None:
        if not desk.scan_wanted:
            self._arm(desk, self._journal.next_looks())
            return
        at = self._clock.now() if desk.not_before is None else desk.not_before
        self._schedule.once(_first_scan(desk.account_id), at, lambda: self._scan(desk.account_id), pool=Pool.PASSES)

    def _measured(self, app: App, desk: _Desk, kind: str, work: _Work) -> None:
        began_at, began = self._clock.now(), self._clock.monotonic()
        requests = self._received(desk.account_id)
        outcome = "failed"
        try:
            result = work(app.fleet)
            outcome = "well" if result.ok else "failed"
            self._ended(app, desk, kind, result, began_at)
            self._served(requests, app)
        except BusyError as error:
            outcome = "busy"
            self._refused(desk, kind, error)
        except StoppingError:
            outcome = "stopped"
            raise
        except LeaseLostError as error:
            log.error(Event.LEASE_LOST, account_id=desk.account_id, error=error.message)
            self._broke(app, desk, error.message)
        except Error as error:
            log.error(Event.PASS_FAILED, account_id=desk.account_id, error=error.message, hint=error.hint)
            self._broke(app, desk, error.message)
        except Exception as error:
            log.exception(Event.PASS_FAILED, account_id=desk.account_id)
            self._broke(app, desk, f"{type(error).__name__} was not foreseen; see the log")
        finally:
            self._metrics.pass_ended(kind, outcome, self._since(began))

    def _ended(self, app: App, desk: _Desk, kind: str, result: PassResult, began_at: datetime) -> None:
        desk.passes += 1
        desk.refusals = 0
        if kind == "scan":
            desk.scan_wanted = False
        if not result.ok and result.failed == 0:
            self._broke(app, desk, "it could not be worked on; the log says why", counted=True)
            return
        desk.broken = None
        if result.next_at is not None and result.next_at <= began_at:
            # It was due before the pass and still is: whatever the reason, once a second helps nobody.
            self._back_off(app, desk)
            return
        desk.failures = 0
        desk.not_before = None

    def _refused(self, desk: _Desk, kind: str, error: BusyError) -> None:
        if desk.refusals == 0:
            log.info(Event.LEASE_REFUSED, account_id=desk.account_id, holder=error.message)
        delay = min(_BUSY_FIRST * 2 ** min(desk.refusals, 10), _BUSY_LAST)
        desk.refusals += 1
        desk.scan_wanted = desk.scan_wanted or kind == "scan"
        desk.not_before = self._clock.now() + delay
        self._put_off(desk.account_id, desk.not_before)

    def _broke(self, app: App, desk: _Desk, why: str, *, counted: bool = False) -> None:
        desk.passes += 0 if counted else 1
        desk.broken = why
        self._back_off(app, desk)

    def _back_off(self, app: App, desk: _Desk) -> None:
        desk.failures += 1
        delay = max(app.fleet.settings.backoff(desk.failures), _SHORTEST_BACKOFF)
        desk.not_before = self._clock.now() + delay

    # --- requests of people ------------------------------------------------------------------------------------------

    def _received(self, account_id: AccountId) -> tuple[Request, ...]:
        requests = self._journal.requests(account_id)
        with self._lock:
            new = [request for request in requests if request.id not in self._tried]
        for request in new:
            with bound(account_id=account_id, principal=request.user_name):
                log.info(
                    Event.REQUEST_RECEIVED,
                    request=request.id,
                    asked_by=request.asked.by,
                    emergency=request.asked.emergency,
                )
        return requests

    def _served(self, requests: Iterable[Request], app: App) -> None:
        for request in requests:
            now = self._journal.request(request.id)
            if now.answer is None:
                self._tried_now(request.id, app)
                continue
            with bound(account_id=request.account_id, principal=request.user_name):
                log.info(Event.REQUEST_SERVED, request=request.id, answer=now.answer, reason=now.reason)

    def _tried_now(self, request_id: int, app: App) -> None:
        """A request that stays open goes on at its user's own time; this is for one that has none."""
        with self._lock:
            times = 1 + (self._tried[request_id].times if request_id in self._tried else 0)
            delay = max(app.fleet.settings.backoff(times), _SHORTEST_BACKOFF)
            self._tried[request_id] = _Tried(times, self._clock.now() + delay)

    def _put_off(self, account_id: AccountId, until: datetime) -> None:
        """The holder of the account may be serving them."""
        with self._lock:
            for request in self._journal.requests(account_id):
                times = self._tried[request.id].times if request.id in self._tried else 0
                self._tried[request.id] = _Tried(times, until)

    def _since(self, began: float) -> timedelta:
        return timedelta(seconds=self._clock.monotonic() - began)


def _first_scan(account_id: AccountId) -> str:
    return f"first-scan:{account_id}"


def _scan(account_id: AccountId) -> str:
    return f"scan:{account_id}"


def _due(account_id: AccountId) -> str:
    return f"due:{account_id}"


def _root(account_id: AccountId) -> str:
    return f"root:{account_id}"


def _root_now(account_id: AccountId) -> str:
    return f"root-now:{account_id}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
