"""What Prometheus scrapes: a closed list of metrics, most of them read from the journal at scrape time.

A restart therefore forgets nothing, and two scrapes never disagree with `rekeyd status`. Only the passes of this
process are counted in memory. When the journal cannot be read the rest is still served, with
`rekeyd_journal_readable` 0: a gap in one place must not hide the others.

The list becomes `docs/metrics.md` (`python -m rekeyd.adapters.metrics > docs/metrics.md`; a test keeps the two equal).
"""

import math
import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

import rekeyd
from rekeyd.core.findings import FindingReason
from rekeyd.core.model import AccountId
from rekeyd.core.reasons import Severity
from rekeyd.core.state import State
from rekeyd.errors import Error
from rekeyd.ports import AccountStatus, Alarm, Brake, Clock, PrincipalStatus, Request

MEANINGS = ("look", "known", "unconcerned", "malformed")
"""What a message of the event queue may have meant."""

ACCOUNT_STATES = ("ok", "failing", "braked", "unreachable", "root_unwatched")
"""As in `AccountStatus.state`."""

# From a scan that finds nothing due to a first run over a large account.
_PASS_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

# What the journal calls the steps that are counted.
_ROTATION_STEPS = {
    "rotation.opened": "opened",
    "rollback.opened": "opened",
    "key.published": "published",
    "rotation.closed": "closed",
    "rollback.closed": "closed",
}
_FAILURES = {"principal.failed": "step", "key.lost_answer": "lost_answer", "key.change_failed": "change"}


@dataclass(frozen=True, slots=True)
class Described:
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


BUILD_INFO = Described("rekeyd_build_info", "gauge", ("version",), "Always 1; the label tells the version.")
OBSERVING = Described("rekeyd_observing", "gauge", (), 'Whether fleet.mode is "observe": 1 means nothing is rotated.')
ROOT_KEYS = Described(
    "rekeyd_root_access_keys",
    "gauge",
    ("account_id",),
    "Whether the root user has an access key, active or not: 1, 0, or NaN for cannot tell.",
)
KEY_AGE = Described(
    "rekeyd_key_age_seconds",
    "gauge",
    ("account_id", "user_name"),
    "Age of the user's oldest Active access key, as of its last look.",
)
PRINCIPALS = Described(
    "rekeyd_principals", "gauge", ("account_id", "state"), "Users by the state that `rekeyd status` shows."
)
ACCOUNTS = Described("rekeyd_accounts", "gauge", ("state",), "Accounts by the state that `rekeyd status` shows.")
LAST_PASS = Described(
    "rekeyd_last_pass_success_timestamp_seconds",
    "gauge",
    ("account_id",),
    "When the last pass over the account that ended well ended; 0: none ever did.",
)
ALARMS = Described("rekeyd_alarms", "gauge", ("severity",), "Open alarms.")
BRAKE = Described("rekeyd_brake_engaged", "gauge", ("account_id",), "Whether the brake binds the account.")
FLEET_BRAKE = Described("rekeyd_fleet_brake_engaged", "gauge", (), "Whether the brake of the whole fleet is engaged.")
REQUESTS = Described("rekeyd_requests_open", "gauge", (), "Requests of people (rotate-now, rollback) not yet answered.")
ROTATIONS = Described(
    "rekeyd_rotations_total", "counter", ("step",), "Steps of rotations: opened, published, closed (the old key gone)."
)
FAILURES = Described(
    "rekeyd_failures_total",
    "counter",
    ("kind",),
    "Failures: step (tried again later), lost_answer (a key may have been made), change (a key was not changed).",
)
JOURNAL_EVENTS = Described("rekeyd_journal_events_total", "counter", (), "Events ever written to the journal.")
JOURNAL_READABLE = Described("rekeyd_journal_readable", "gauge", (), "Whether this scrape could read the journal.")
JOURNAL_WRITABLE = Described(
    "rekeyd_journal_writable", "gauge", (), "Whether the last heartbeat could be written; nothing changes without it."
)
TOKEN_GOOD = Described("rekeyd_vault_token_good", "gauge", (), "Whether the last look at the Vault token was good.")
TOKEN_EXPIRY = Described(
    "rekeyd_vault_token_expiry_timestamp_seconds",
    "gauge",
    (),
    "When the Vault token ends unless it is renewed; +Inf: it does not end, NaN: not known.",
)
RELOAD = Described(
    "rekeyd_config_last_reload_successful", "gauge", (), "Whether the last configuration that was read is in force."
)
HEARTBEAT = Described("rekeyd_scheduler_heartbeat_age_seconds", "gauge", (), "Time since the scheduler last ran a job.")
EVENTS_READABLE = Described(
    "rekeyd_events_queue_readable",
    "gauge",
    (),
    "Whether the last poll of the event queue was answered; NaN: none is configured, or none has ended yet.",
)
EVENT_MESSAGES = Described(
    "rekeyd_event_messages_total",
    "counter",
    ("meaning",),
    "Messages of the event queue to this process: look (it asked for one), known (a call of rekeyd's own), "
    "unconcerned (about nobody who is watched), malformed (no event).",
)
PASS_DURATION = Described(
    "rekeyd_pass_duration_seconds",
    "histogram",
    ("kind", "outcome"),
    "Duration of the passes of this process; kind: scan, due or root; outcome: well, failed, busy or stopped.",
)

CATALOGUE = (
    BUILD_INFO,
    OBSERVING,
    ROOT_KEYS,
    KEY_AGE,
    PRINCIPALS,
    ACCOUNTS,
    LAST_PASS,
    ALARMS,
    BRAKE,
    FLEET_BRAKE,
    REQUESTS,
    ROTATIONS,
    FAILURES,
    JOURNAL_EVENTS,
    JOURNAL_READABLE,
    JOURNAL_WRITABLE,
    TOKEN_GOOD,
    TOKEN_EXPIRY,
    RELOAD,
    HEARTBEAT,
    EVENTS_READABLE,
    EVENT_MESSAGES,
    PASS_DURATION,
)


class Records(Protocol):
    """The part of the journal that is read at a scrape."""

    def statuses(self) -> tuple[PrincipalStatus, ...]: ...
    def account_statuses(self) -> tuple[AccountStatus, ...]: ...
    def alarms(self) -> tuple[Alarm, ...]: ...
    def brakes(self) -> tuple[Brake, ...]: ...
    def requests(self) -> tuple[Request, ...]: ...
    def event_counts(self, *, after: int = 0) -> tuple[int, Mapping[str, int]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What only the running process knows."""

    observing: bool
    root_states: Mapping[AccountId, float]
    """1.0, 0.0 or NaN; an account without a look yet is missing."""
    journal_writable: bool
    token_good: bool
    token_ends_at: datetime | None
    """None: it does not end, or it is not known."""
    token_known: bool
    reload_good: bool
    heartbeat_age: timedelta
    events_readable: bool | None = None
    """None: no event queue, or no poll of it has ended yet."""
    event_messages: Mapping[str, int] = field(default_factory=dict)
    """By what they meant: MEANINGS."""


class Metrics:
    """One registry of its own, so that several daemons can live in one process (tests)."""

    def __init__(self, records: Records, clock: Clock, condition: Callable[[], Condition]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_FromJournal(records, clock, condition))
        ProcessCollector(registry=self._registry)
        self._passes = Histogram(
            PASS_DURATION.name,
            PASS_DURATION.text,
            PASS_DURATION.labels,
            buckets=_PASS_BUCKETS,
            registry=self._registry,
        )

    def pass_ended(self, kind: str, outcome: str, duration: timedelta) -> None:
        """`kind`: scan | due | root. `outcome`: well | failed | busy | stopped."""
        self._passes.labels(kind, outcome).observe(duration.total_seconds())

    def exposition(self) -> bytes:
        """In Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)


class _FromJournal(Collector):
    def __init__(self, records: Records, clock: Clock, condition: Callable[[], Condition]) -> None:
        self._records = records
        self._clock = clock
        self._condition = condition
        # Counted on from scrape to scrape: the chain is long, its end is short.
        self._counted_to = 0
        self._events: Tally[str] = Tally()

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        condition = self._condition()
        yield _gauge(BUILD_INFO, [((rekeyd.__version__,), 1)])
        yield from _of_process(condition)
        try:
            found = list(self._of_journal(condition))
        except Error:
            # The heartbeat logs what is wrong with it.
            yield _gauge(JOURNAL_READABLE, [((), 0)])
            return
        yield _gauge(JOURNAL_READABLE, [((), 1)])
        yield from found

    def _of_journal(self, condition: Condition) -> Iterator[Metric]:
        accounts, alarms = self._records.account_statuses(), self._records.alarms()
        yield _root_keys(accounts, alarms, condition.root_states)
        statuses = self._records.statuses()
        yield _gauge(KEY_AGE, _ages(statuses, self._clock.now()))
        yield _gauge(PRINCIPALS, _principals(accounts, statuses))
        states = Tally(account.state for account in accounts)
        yield _gauge(ACCOUNTS, [((state,), states[state]) for state in ACCOUNT_STATES])
        yield _gauge(
            LAST_PASS,
            [((a.account_id,), 0 if a.last_pass_at is None else a.last_pass_at.timestamp()) for a in accounts],
        )
        severities = Tally(str(alarm.severity) for alarm in alarms)
        yield _gauge(ALARMS, [((severity.value,), severities[severity.value]) for severity in Severity])
        braked = {brake.account_id for brake in self._records.brakes()}
        yield _gauge(BRAKE, [((a.account_id,), a.account_id in braked or None in braked) for a in accounts])
        yield _gauge(FLEET_BRAKE, [((), None in braked)])
        yield _gauge(REQUESTS, [((), len(self._records.requests()))])
        self._counted_to, news = self._records.event_counts(after=self._counted_to)
        self._events.update(news)
        yield _counter(ROTATIONS, _summed(self._events, _ROTATION_STEPS))
        yield _counter(FAILURES, _summed(self._events, _FAILURES))
        yield _counter(JOURNAL_EVENTS, [((), self._counted_to)])


_Samples = Iterable[tuple[Sequence[str], float]]


def _of_process(condition: Condition) -> Iterator[Metric]:
    yield _gauge(OBSERVING, [((), condition.observing)])
    yield _gauge(JOURNAL_WRITABLE, [((), condition.journal_writable)])
    yield _gauge(TOKEN_GOOD, [((), condition.token_good)])
    ends_at = math.nan if not condition.token_known else math.inf
    if condition.token_ends_at is not None:
        ends_at = condition.token_ends_at.timestamp()
    yield _gauge(TOKEN_EXPIRY, [((), ends_at)])
    yield _gauge(RELOAD, [((), condition.reload_good)])
    readable = condition.events_readable
    yield _gauge(EVENTS_READABLE, [((), math.nan if readable is None else readable)])
    yield _counter(EVENT_MESSAGES, [((each,), condition.event_messages.get(each, 0)) for each in MEANINGS])
    yield _gauge(HEARTBEAT, [((), condition.heartbeat_age.total_seconds())])


def _root_keys(accounts: Iterable[AccountStatus], alarms: Iterable[Alarm], states: Mapping[AccountId, float]) -> Metric:
    """An open alarm stands until a look clears it, also over a restart."""
    alarmed = {alarm.account_id for alarm in alarms if alarm.reason == FindingReason.ROOT_ACCESS_KEY}
    known = {account.account_id for account in accounts} | set(states)
    return _gauge(
        ROOT_KEYS,
        [
            ((account_id,), states.get(account_id, 1.0 if account_id in alarmed else math.nan))
            for account_id in sorted(known)
        ],
    )


def _ages(statuses: Iterable[PrincipalStatus], now: datetime) -> _Samples:
    # Names are unique in an account, but a user made anew may leave its forerunner's row until the next scan.
    oldest: dict[tuple[str, str], datetime] = {}
    for status in statuses:
        if status.oldest_active_at is not None:
            name = (status.account_id, status.user_name)
            oldest[name] = min(oldest.get(name, status.oldest_active_at), status.oldest_active_at)
    return [(name, (now - born_at).total_seconds()) for name, born_at in oldest.items()]


def _principals(accounts: Iterable[AccountStatus], statuses: Iterable[PrincipalStatus]) -> _Samples:
    counted = Tally((status.account_id, str(status.state)) for status in statuses)
    known = {account.account_id for account in accounts} | {account_id for account_id, _ in counted}
    return [
        ((account_id, state.value), counted[account_id, state.value]) for account_id in sorted(known) for state in State
    ]


def _summed(events: Mapping[str, int], words: Mapping[str, str]) -> _Samples:
    sums: Tally[str] = Tally(dict.fromkeys(words.values(), 0))
    for event, word in words.items():
        sums[word] += events.get(event, 0)
    return [((word,), count) for word, count in sums.items()]


def _gauge(described: Described, samples: _Samples) -> Metric:
    family = GaugeMetricFamily(described.name, described.text, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family


def _counter(described: Described, samples: _Samples) -> Metric:
    family = CounterMetricFamily(described.name, described.text, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family


def as_markdown() -> str:
    """The text of `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Served at `/metrics` of `http.listen`, in Prometheus's text format. Values come from the journal at the time",
        "of the scrape, so that a restart forgets nothing; the passes alone are counted by the process. With them come",
        "`process_*` (memory, CPU, open files) of the client library.",
        "",
        "Generated from `src/rekeyd/adapters/metrics.py` by `python -m rekeyd.adapters.metrics > docs/metrics.md`.",
        "",
        "| metric | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
