"""Metrics: read from the journal, complete, and named as Prometheus wants them."""

import math
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.metrics import CATALOGUE, Condition, Metrics, as_markdown
from rekeyd.core.model import AccessKeyId, AccountId, Asked, UserId
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.errors import JournalError
from rekeyd.fleet.documents import status_document
from rekeyd.ports import AccountStatus, Alarm, Brake, PrincipalStatus
from tests.world.clock import VirtualClock

ACCOUNT, OTHER = AccountId("111122223333"), AccountId("444455556666")
DAY = timedelta(days=1)

CONDITION = Condition(
    observing=False,
    root_states={},
    journal_writable=True,
    token_good=True,
    token_ends_at=None,
    token_known=True,
    reload_good=True,
    heartbeat_age=timedelta(seconds=0.5),
)


class Bench:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.journal: SqlJournal = open_journal("sqlite://", instance="test", clock=self.clock)
        self.condition = CONDITION
        self.metrics = Metrics(self.journal, self.clock, lambda: self.condition)

    def series(self) -> dict[str, float]:
        lines = self.metrics.exposition().decode().splitlines()
        pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def account(self, account_id: AccountId = ACCOUNT, state: str = "ok") -> None:
        self.journal.save_account(
            AccountStatus(
                account_id=account_id,
                alias=None,
                state=state,
                message="",
                last_pass_at=self.clock.now(),
                last_drift_at=None,
                principals=1,
                due=0,
            )
        )

    def principal(self, name: str, state: State, *, age: timedelta | None = DAY) -> PrincipalStatus:
        born_at = None if age is None else self.clock.now() - age
        status = PrincipalStatus(
            account_id=ACCOUNT,
            user_name=name,
            user_id=UserId(f"AIDA{name.upper()}"),
            policy="default",
            state=state,
            reason=Reason.NOT_DUE,
            message="the held key is young enough",
            held_access_key_id=AccessKeyId("AKIAHELD"),
            old_access_key_id=None,
            held_created_at=born_at,
            oldest_active_at=born_at,
            next_at=self.clock.now() + DAY,
            looked_at=self.clock.now(),
        )
        self.journal.save_status(status)
        return status

    def alarm(self, reason: str, severity: str) -> None:
        now = self.clock.now()
        self.journal.save_alarm(
            Alarm(
                fingerprint=f"{reason}-{severity}",
                severity=severity,
                reason=reason,
                account_id=ACCOUNT,
                principal=None,
                message="m",
                remedy="r",
                cis=("1.4",),
                first_seen_at=now,
                last_seen_at=now,
                notified_at=None,
            )
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_users_are_counted_in_every_state_also_where_there_are_none(bench: Bench) -> None:
    bench.account()
    bench.principal("a", State.FRESH)
    bench.principal("b", State.FRESH)
    bench.principal("c", State.ON_HOLD)
    series = bench.series()
    counted = {state: series[f'rekeyd_principals{{account_id="{ACCOUNT}",state="{state.value}"}}'] for state in State}
    assert counted == {**dict.fromkeys(State, 0.0), State.FRESH: 2.0, State.ON_HOLD: 1.0}


def test_a_key_has_the_age_that_the_clock_gives_it_and_a_user_without_keys_has_none(bench: Bench) -> None:
    bench.principal("a", State.FRESH, age=3 * DAY)
    bench.principal("b", State.UNMANAGED, age=None)
    series = bench.series()
    assert series[f'rekeyd_key_age_seconds{{account_id="{ACCOUNT}",user_name="a"}}'] == 3 * 86400
    assert f'rekeyd_key_age_seconds{{account_id="{ACCOUNT}",user_name="b"}}' not in series


def test_before_the_first_look_a_root_user_is_what_the_open_alarm_says_else_unknown(bench: Bench) -> None:
    bench.account(ACCOUNT)
    bench.account(OTHER)
    bench.alarm("root_access_key", "critical")
    series = bench.series()
    assert series[f'rekeyd_root_access_keys{{account_id="{ACCOUNT}"}}'] == 1.0
    assert math.isnan(series[f'rekeyd_root_access_keys{{account_id="{OTHER}"}}'])


def test_a_look_at_a_root_user_overrules_the_alarm(bench: Bench) -> None:
    bench.alarm("root_access_key", "critical")
    bench.condition = replace(CONDITION, root_states={ACCOUNT: 0.0})
    assert bench.series()[f'rekeyd_root_access_keys{{account_id="{ACCOUNT}"}}'] == 0.0


def test_alarms_are_counted_by_severity_also_where_there_are_none(bench: Bench) -> None:
    bench.alarm("root_access_key", "critical")
    series = bench.series()
    counted = [series[f'rekeyd_alarms{{severity="{s}"}}'] for s in ("critical", "high", "medium", "low")]
    assert counted == [1.0, 0.0, 0.0, 0.0]


def test_the_brake_of_the_fleet_binds_every_account(bench: Bench) -> None:
    bench.account(ACCOUNT)
    bench.account(OTHER)
    now = bench.clock.now()
    assert bench.series()[f'rekeyd_brake_engaged{{account_id="{OTHER}"}}'] == 0.0
    bench.journal.engage_brake(
        Brake(account_id=None, engaged_at=now, retry_at=now + DAY, failures=5, detail=""), at=now
    )
    series = bench.series()
    assert series[f'rekeyd_brake_engaged{{account_id="{OTHER}"}}'] == 1.0
    assert series["rekeyd_fleet_brake_engaged"] == 1.0


def test_counts_come_from_the_journal_so_that_another_process_goes_on_counting(bench: Bench) -> None:
    for _ in range(2):
        bench.journal.append("rotation.closed", at=bench.clock.now(), actor="daemon")
    assert bench.series()['rekeyd_rotations_total{step="closed"}'] == 2.0
    bench.journal.append("rotation.closed", at=bench.clock.now(), actor="daemon")
    assert bench.series()['rekeyd_rotations_total{step="closed"}'] == 3.0
    restarted = Metrics(bench.journal, bench.clock, lambda: CONDITION)
    assert b'rekeyd_rotations_total{step="closed"} 3.0' in restarted.exposition()


def test_open_requests_are_counted_until_they_are_answered(bench: Bench) -> None:
    number = bench.journal.ask(ACCOUNT, "a", Asked(by="user:me", at=bench.clock.now()))
    assert bench.series()["rekeyd_requests_open"] == 1.0
    bench.journal.answer(number, "refused", reason=None, at=bench.clock.now())
    assert bench.series()["rekeyd_requests_open"] == 0.0


def test_an_unreadable_journal_hides_only_what_comes_from_it(bench: Bench) -> None:
    class Broken(SqlJournal):
        def alarms(self, *, open_only: bool = True) -> tuple[Alarm, ...]:  # noqa: ARG002
            raise JournalError("the disk is gone")

    bench.journal.__class__ = Broken
    series = bench.series()
    assert series["rekeyd_journal_readable"] == 0.0
    assert series["rekeyd_vault_token_good"] == 1.0
    assert not [name for name in series if name.startswith("rekeyd_alarms")]


@pytest.mark.parametrize(
    ("known", "days", "expected"), [(True, None, math.inf), (False, None, math.nan), (True, 1, 86400.0)]
)
def test_the_end_of_the_token_is_a_time_never_or_unknown(
    bench: Bench, known: bool, days: int | None, expected: float
) -> None:
    ends_at = None if days is None else bench.clock.now() + days * DAY
    bench.condition = replace(CONDITION, token_known=known, token_ends_at=ends_at)
    shown = bench.series()["rekeyd_vault_token_expiry_timestamp_seconds"]
    if days is not None:
        shown -= bench.clock.now().timestamp()
    assert shown == pytest.approx(expected, nan_ok=True)


def test_every_metric_is_in_the_catalogue_and_every_entry_is_served(bench: Bench) -> None:
    bench.account()
    bench.principal("a", State.FRESH)
    bench.metrics.pass_ended("scan", "well", timedelta(seconds=1))
    text = bench.metrics.exposition().decode()
    served = set(re.findall(r"^# TYPE (rekeyd_\w+) \w+$", text, re.MULTILINE)) - {
        "rekeyd_pass_duration_seconds_created"
    }
    assert served == {metric.name for metric in CATALOGUE}
    for metric in CATALOGUE:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        assert metric.kind != "counter" or metric.name.endswith("_total")


def test_the_page_about_metrics_is_the_one_that_the_code_prints() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text() == as_markdown(), "python -m rekeyd.adapters.metrics > docs/metrics.md"


def test_the_status_document_is_what_the_journal_holds(bench: Bench) -> None:
    bench.account(state="failing")
    bench.principal("a", State.FRESH, age=3 * DAY)
    bench.alarm("root_access_key", "critical")
    document = status_document(bench.journal, bench.clock)
    assert document["schema_version"] == 1
    assert [entry["age_days"] for entry in document["principals"]] == [3]
    assert document["accounts"][0]["state"] == "failing"
    (finding,) = document["findings"]
    assert (finding["severity"], finding["reason"], finding["cis"]) == ("critical", "root_access_key", ["1.4"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", finding["first_seen_at"])
