"""What people are told of a Vault that cannot be used, and from which look of the daemon on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

import pytest

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import open_journal
from rekeyd.app import App
from rekeyd.config import Config, parse
from rekeyd.daemon.accounts import AccountWork
from rekeyd.daemon.chores import Chores
from rekeyd.daemon.parts import Parts
from rekeyd.daemon.schedule import Schedule
from rekeyd.errors import Error, InterceptedError, RefusedError, TemporaryError
from rekeyd.fleet.alarms import AlarmKeeper, Notice, Scope
from rekeyd.fleet.vault import look_of
from rekeyd.ports import Alarm
from tests.unit.test_daemon_accounts import CONFIG

SEALED = TemporaryError("the Vault token cannot be looked up (503: Vault is sealed)", hint="unseal it")
SILENT = TemporaryError("Vault at https://vault.invalid answered 500")
REFUSED = RefusedError("the login was refused", hint="put a new secret_id in its file, say {who}")
INTERCEPTED = InterceptedError("the wrapping token was opened already", hint="destroy its secret_id")


class Said(list[tuple[str, str]]):
    def send(self, alarm: Alarm, kind: Notice) -> None:
        self.append((kind.value, alarm.reason))

    def taken(self) -> list[tuple[str, str]]:
        said, self[:] = list(self), []
        return said


@dataclass
class Watch:
    """As `rekeyd.fleet.watch.Watch` does it, with nothing else to do."""

    alarms: AlarmKeeper

    def vault_looked_at(self, problem: Error | None) -> None:
        look = look_of(problem)
        self.alarms.update(Scope.vault(), look.findings, undecided=look.undecided)


@dataclass
class Fleet:
    watch: Watch


@dataclass
class Vault:
    token_problem: Error | None = None
    looks: int = 0

    def maintain(self) -> datetime:
        self.looks += 1
        return SystemClock().now() + timedelta(days=20)

    def token_ends_at(self) -> None:
        return None


@dataclass
class Assembled:
    config: Config
    clock: SystemClock
    fleet: Fleet
    vault: Vault = field(default_factory=Vault)


@dataclass
class Bench:
    said: Said
    watch: Watch
    vault: Vault
    chores: Chores

    def look(self, problem: Error | None) -> list[tuple[str, str]]:
        self.vault.token_problem = problem
        self.chores.keep_token()
        return self.said.taken()

    @property
    def open(self) -> dict[str, tuple[str, str]]:
        return {alarm.reason: (alarm.severity, alarm.remedy) for alarm in self.watch.alarms.open_alarms()}


@pytest.fixture
def bench() -> Iterator[Bench]:
    clock = SystemClock()
    journal = open_journal("sqlite://", instance="test", clock=clock)
    said = Said()
    watch = Watch(AlarmKeeper(journal=journal, clock=clock, repeat_every=timedelta(hours=4), notify=said))
    app = Assembled(parse(CONFIG, {}), clock, Fleet(watch))
    # Never started: each look is the test's own.
    schedule = Schedule(clock, max_parallel=1)
    chores = Chores(
        Parts(cast("App", app)),
        schedule,
        cast("AccountWork", None),
        on_forbidden=lambda error: pytest.fail(error.message),
    )
    yield Bench(said, watch, app.vault, chores)
    journal.close()


RAISED = [("raised", "vault_unreachable")]


def test_the_third_look_in_a_row_that_fails_is_told(bench: Bench) -> None:
    assert [bench.look(problem) for problem in (SEALED, SEALED, None, SILENT, SEALED)] == [[]] * 5
    assert bench.look(SEALED) == RAISED
    assert bench.open == {"vault_unreachable": ("high", "unseal it")}
    assert bench.chores.token[0] is False
    assert bench.chores.not_ready()
    assert bench.look(None) == [("resolved", "vault_unreachable")]
    assert bench.chores.token[0] is True


def test_the_alarm_says_what_mends_it_as_it_is_now(bench: Bench) -> None:
    for problem, remedy in ((SILENT, "check that Vault is up"), (SEALED, "unseal it"), (REFUSED, str(REFUSED.hint))):
        for _ in range(3):
            bench.look(problem)
        assert remedy in bench.open["vault_unreachable"][1]


def test_an_interception_is_told_at_once_and_not_taken_for_weather(bench: Bench) -> None:
    assert bench.look(INTERCEPTED) == [("raised", "secret_id_intercepted")]
    assert bench.open == {"secret_id_intercepted": ("critical", "destroy its secret_id")}


def test_an_outage_takes_no_interception_back(bench: Bench) -> None:
    bench.look(INTERCEPTED)
    for _ in range(3):
        bench.look(SEALED)
    assert set(bench.open) == {"secret_id_intercepted", "vault_unreachable"}
    assert bench.look(INTERCEPTED) == []
    assert set(bench.open) == {"secret_id_intercepted", "vault_unreachable"}, "Vault is no better"
    bench.look(None)
    assert bench.open == {}
