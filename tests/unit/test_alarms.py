"""Alarms are raised, repeated and ended once each, over restarts, broken channels and a broken journal."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.adapters.journal import open_journal
from rekeyd.core.findings import POSTURE_REASONS, Finding, FindingReason, found, refused
from rekeyd.core.model import AccountId
from rekeyd.core.reasons import Reason, Severity
from rekeyd.errors import JournalError, StoppingError, TemporaryError
from rekeyd.fleet.alarms import AlarmKeeper, LogNotifier, Notice, Notifier, Scope
from rekeyd.ports import Alarm, Journal
from tests.conftest import LogLines
from tests.world.clock import VirtualClock

ACCOUNT = AccountId("111122223333")
OTHER = AccountId("999988887777")
POSTURE = Scope.posture(ACCOUNT)
PASS = Scope.account_pass(ACCOUNT)
FLEET = Scope.fleet()
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
REPEAT = 4 * HOUR

ROOT_KEY = found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT)
ROOT_USED = found(FindingReason.ROOT_USED, account_id=ACCOUNT)
UNREADABLE = found(FindingReason.ROOT_UNREADABLE, account_id=ACCOUNT)
LOW = found(FindingReason.TWO_ACTIVE_KEYS, account_id=ACCOUNT, principal="ci")
VAULT = found(FindingReason.VAULT_UNREACHABLE)


def stray(*, severity: Severity | None = None, name: str = "ci") -> Finding:
    finding = refused(Reason.STRAY_KEY, account_id=ACCOUNT, principal=name, severity=severity)
    assert finding is not None
    return finding


class Channel:
    """Remembers what it took; refuses what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        self.failing: BaseException | None = None
        self.only: str | None = None

    def send(self, alarm: Alarm, kind: Notice) -> None:
        if self.failing is not None and self.only in (None, alarm.reason):
            raise self.failing
        self.got.append((kind.value, alarm.reason))

    def take(self) -> list[tuple[str, str]]:
        got, self.got = self.got, []
        return got


class FragileJournal:
    """The alarms of a journal that can be made to refuse its reads or writes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.readable = self.writable = True

    def alarms(self, *, open_only: bool = True) -> tuple[Alarm, ...]:
        if not self.readable:
            raise JournalError("the journal cannot be read")
        return self._journal.alarms(open_only=open_only)

    def save_alarm(self, alarm: Alarm) -> None:
        if not self.writable:
            raise JournalError("the journal cannot grow: the disk is full")
        self._journal.save_alarm(alarm)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def journal(clock: VirtualClock) -> Iterator[Journal]:
    journal = open_journal("sqlite://", instance="test", clock=clock)
    yield journal
    journal.close()


@pytest.fixture
def channel() -> Channel:
    return Channel()


def keeper_on(journal: Journal | FragileJournal, clock: VirtualClock, notify: Notifier) -> AlarmKeeper:
    return AlarmKeeper(journal=journal, clock=clock, repeat_every=REPEAT, notify=notify)  # type: ignore[arg-type]


@pytest.fixture
def keeper(journal: Journal, clock: VirtualClock, channel: Channel) -> AlarmKeeper:
    return keeper_on(journal, clock, channel)


# --- the life of an alarm --------------------------------------------------------------------------------------------


def test_a_finding_is_raised_once_and_written_down(keeper: AlarmKeeper, channel: Channel, clock: VirtualClock) -> None:
    announced = keeper.update(POSTURE, [ROOT_KEY])
    keeper.update(POSTURE, [ROOT_KEY])
    assert channel.take() == [("raised", "root_access_key")]
    (alarm,) = keeper.open_alarms()
    assert announced == ((Notice.RAISED, alarm),)
    assert (alarm.fingerprint, alarm.severity, alarm.cis) == (ROOT_KEY.fingerprint, "critical", ROOT_KEY.cis)
    assert (alarm.first_seen_at, alarm.notified_at, alarm.resolved_at) == (clock.now(), clock.now(), None)


def test_an_open_alarm_is_repeated_exactly_every_interval(
    keeper: AlarmKeeper, channel: Channel, clock: VirtualClock
) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    channel.take()
    clock.advance(REPEAT - SECOND)
    keeper.update(POSTURE, [ROOT_KEY])
    assert channel.take() == []
    clock.advance(SECOND)
    keeper.update(POSTURE, [ROOT_KEY])
    keeper.update(POSTURE, [ROOT_KEY])
    assert channel.take() == [("repeated", "root_access_key")]


def test_an_alarm_ends_once_and_begins_anew_when_it_comes_back(
    keeper: AlarmKeeper, channel: Channel, clock: VirtualClock
) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    clock.advance(HOUR)
    keeper.update(POSTURE, [])
    keeper.update(POSTURE, [])
    assert keeper.open_alarms() == ()
    clock.advance(HOUR)
    keeper.update(POSTURE, [ROOT_KEY])
    assert channel.take() == [(kind, "root_access_key") for kind in ("raised", "resolved", "raised")]
    (alarm,) = keeper.open_alarms()
    assert alarm.first_seen_at == clock.now()


def test_an_alarm_may_begin_and_end_in_the_same_instant(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    keeper.update(POSTURE, [])
    assert channel.take() == [("raised", "root_access_key"), ("resolved", "root_access_key")]


def test_low_findings_are_not_alarms(keeper: AlarmKeeper, channel: Channel) -> None:
    assert keeper.update(POSTURE, [LOW]) == ()
    assert (channel.take(), keeper.open_alarms()) == ([], ())


def test_one_fingerprint_is_one_alarm_at_its_worst_severity(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(PASS, [stray(), stray(severity=Severity.HIGH), stray()])
    assert channel.take() == [("raised", "stray_key")]
    assert [alarm.severity for alarm in keeper.open_alarms()] == ["high"]


def test_an_alarm_that_grows_worse_is_raised_again_at_once(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(PASS, [stray()])
    keeper.update(PASS, [stray(severity=Severity.HIGH)])
    keeper.update(PASS, [stray(severity=Severity.HIGH)])
    keeper.update(PASS, [stray()])
    assert channel.take() == [("raised", "stray_key"), ("raised", "stray_key")]


def test_an_alarm_that_shrinks_to_low_ends(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(PASS, [stray()])
    keeper.update(PASS, [stray(severity=Severity.LOW)])
    assert channel.take() == [("raised", "stray_key"), ("resolved", "stray_key")]


def test_a_clock_set_back_silences_no_alarm(keeper: AlarmKeeper, channel: Channel, clock: VirtualClock) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    clock.jump(timedelta(days=-30))
    keeper.update(POSTURE, [ROOT_KEY])
    keeper.update(POSTURE, [ROOT_KEY])
    keeper.update(POSTURE, [])
    assert [kind for kind, _ in channel.take()] == ["raised", "repeated", "resolved"]


def test_the_worst_and_oldest_alarm_comes_first(keeper: AlarmKeeper, clock: VirtualClock) -> None:
    keeper.update(PASS, [stray()])
    clock.advance(SECOND)
    keeper.update(POSTURE, [ROOT_USED, ROOT_KEY])
    keeper.update(FLEET, [VAULT])
    assert [a.severity for a in keeper.open_alarms()] == ["critical", "high", "high", "medium"]


# --- what ends an alarm, and what does not -------------------------------------------------------------------------


def test_a_scope_ends_only_its_own_alarms(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    keeper.update(PASS, [stray()])
    keeper.update(Scope.vault(), [VAULT])
    keeper.update(FLEET, [])
    channel.take()
    for scope in (Scope.posture(OTHER), Scope.account_pass(OTHER)):
        keeper.update(scope, [])
    assert channel.take() == []
    keeper.update(PASS, [])
    assert channel.take() == [("resolved", "stray_key")]
    keeper.update(Scope.vault(), [])
    assert channel.take() == [("resolved", "vault_unreachable")]
    assert [alarm.reason for alarm in keeper.open_alarms()] == ["root_access_key"]


def test_every_finding_belongs_to_exactly_one_scope() -> None:
    of_account = [found(reason, account_id=ACCOUNT) for reason in FindingReason] + [stray()]
    of_fleet = [found(reason) for reason in FindingReason]
    scopes = (POSTURE, PASS, FLEET, Scope.vault(), Scope.channels(), Scope.events())
    for finding in of_account + of_fleet:
        assert [scope.covers(finding) for scope in scopes].count(True) == 1
    assert {f.reason for f in of_account if POSTURE.covers(f)} == POSTURE_REASONS


def test_a_scope_that_could_not_be_looked_at_keeps_and_repeats_its_alarms(
    keeper: AlarmKeeper, channel: Channel, clock: VirtualClock
) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    keeper.hold(POSTURE)
    clock.advance(REPEAT)
    keeper.hold(POSTURE)
    assert channel.take() == [("raised", "root_access_key"), ("repeated", "root_access_key")]


def test_a_look_that_was_broken_off_raises_and_ends_nothing(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(PASS, [stray(name="a")])
    keeper.update(PASS, [stray(name="b")], complete=False)
    assert channel.take() == [("raised", "stray_key"), ("raised", "stray_key")]
    assert {alarm.principal for alarm in keeper.open_alarms()} == {"a", "b"}


def test_a_reason_that_was_not_decided_keeps_its_alarm(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(POSTURE, [ROOT_KEY, ROOT_USED])
    channel.take()
    keeper.update(POSTURE, [UNREADABLE], undecided=frozenset({FindingReason.ROOT_ACCESS_KEY}))
    assert channel.take() == [("raised", "root_unreadable"), ("resolved", "root_used")]
    assert {alarm.reason for alarm in keeper.open_alarms()} == {"root_access_key", "root_unreadable"}


# --- restarts and failures -------------------------------------------------------------------------------------------


def test_a_restart_neither_forgets_nor_repeats(
    keeper: AlarmKeeper, journal: Journal, channel: Channel, clock: VirtualClock
) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    first_seen_at = clock.now()
    clock.advance(HOUR)
    keeper = keeper_on(journal, clock, channel)
    keeper.update(POSTURE, [ROOT_KEY])
    assert channel.take() == [("raised", "root_access_key")]
    clock.advance(REPEAT - HOUR)
    keeper = keeper_on(journal, clock, channel)
    keeper.update(POSTURE, [ROOT_KEY])
    assert [a.first_seen_at for a in keeper.open_alarms()] == [first_seen_at]
    keeper = keeper_on(journal, clock, channel)
    keeper.update(POSTURE, [])
    keeper_on(journal, clock, channel).update(POSTURE, [])
    assert channel.take() == [("repeated", "root_access_key"), ("resolved", "root_access_key")]


@pytest.mark.parametrize("error", [TemporaryError("the channel is down"), ValueError("a bug in a channel")], ids=type)
def test_what_a_channel_did_not_take_is_announced_later_even_after_a_restart(
    error: Exception, keeper: AlarmKeeper, journal: Journal, channel: Channel, clock: VirtualClock
) -> None:
    channel.failing = error
    assert keeper.update(POSTURE, [ROOT_KEY]) == ()
    assert [alarm.notified_at for alarm in keeper.open_alarms()] == [None]
    channel.failing = None
    keeper = keeper_on(journal, clock, channel)
    keeper.update(POSTURE, [ROOT_KEY])
    assert channel.take() == [("raised", "root_access_key")]
    channel.failing = error
    keeper.update(POSTURE, [])
    keeper.update(POSTURE, [])
    channel.failing = None
    keeper = keeper_on(journal, clock, channel)
    keeper.update(FLEET, [])
    keeper.update(FLEET, [])
    assert channel.take() == [("resolved", "root_access_key")]


def test_an_end_that_was_not_announced_is_announced_by_the_same_process(keeper: AlarmKeeper, channel: Channel) -> None:
    keeper.update(POSTURE, [ROOT_KEY])
    channel.failing = TemporaryError("the channel is down")
    keeper.update(POSTURE, [])
    channel.failing = None
    channel.take()
    keeper.update(POSTURE, [])
    keeper.update(POSTURE, [])
    assert channel.take() == [("resolved", "root_access_key")]


def test_one_alarm_that_a_channel_chokes_on_does_not_stop_the_next(
    keeper: AlarmKeeper, channel: Channel, log_lines: LogLines
) -> None:
    channel.failing, channel.only = ValueError("cannot be rendered"), "root_access_key"
    keeper.update(POSTURE, [ROOT_KEY, ROOT_USED])
    assert channel.take() == [("raised", "root_used")]
    assert [line["event"] for line in log_lines()] == ["notification.failed"]


def test_an_alarm_interrupted_by_the_end_of_the_process_is_announced_after_the_restart(
    keeper: AlarmKeeper, journal: Journal, channel: Channel, clock: VirtualClock
) -> None:
    channel.failing = StoppingError("the process was asked to stop")
    with pytest.raises(StoppingError, match="asked to stop"):
        keeper.update(POSTURE, [ROOT_KEY, ROOT_USED])
    channel.failing = None
    keeper_on(journal, clock, channel).update(POSTURE, [ROOT_KEY, ROOT_USED])
    assert channel.take() == [("raised", "root_access_key"), ("raised", "root_used")]


@pytest.mark.parametrize("readable", [True, False], ids=["the disk is full", "nothing can be read either"])
def test_without_a_journal_alarms_are_announced_all_the_same_and_not_at_every_look(
    readable: bool, journal: Journal, channel: Channel, clock: VirtualClock
) -> None:
    fragile = FragileJournal(journal)
    keeper = keeper_on(fragile, clock, channel)
    fragile.writable, fragile.readable = False, readable
    for _ in range(3):
        with pytest.raises(JournalError, match="the journal cannot"):
            keeper.update(POSTURE, [ROOT_KEY])
        clock.advance(HOUR)
    assert channel.take() == [("raised", "root_access_key")]
    fragile.writable = fragile.readable = True
    keeper.update(POSTURE, [ROOT_KEY])
    assert channel.take() == []
    assert [alarm.reason for alarm in journal.alarms()] == ["root_access_key"]


def test_an_end_that_the_journal_did_not_take_is_written_later(
    journal: Journal, channel: Channel, clock: VirtualClock
) -> None:
    fragile = FragileJournal(journal)
    keeper = keeper_on(fragile, clock, channel)
    keeper.update(POSTURE, [ROOT_KEY])
    fragile.writable = False
    with pytest.raises(JournalError, match="the disk is full"):
        keeper.update(POSTURE, [])
    fragile.writable = True
    keeper.update(POSTURE, [])
    assert channel.take() == [("raised", "root_access_key"), ("resolved", "root_access_key")]
    assert journal.alarms() == ()


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def logging_keeper(journal: Journal, clock: VirtualClock) -> AlarmKeeper:
    return keeper_on(journal, clock, LogNotifier())


def test_a_root_access_key_has_events_of_its_own(
    logging_keeper: AlarmKeeper, clock: VirtualClock, log_lines: LogLines
) -> None:
    logging_keeper.update(POSTURE, [ROOT_KEY])
    clock.advance(REPEAT)
    logging_keeper.update(POSTURE, [ROOT_KEY])
    logging_keeper.update(POSTURE, [])
    lines = log_lines()
    assert [(line["event"], line["level"], line["notice"]) for line in lines] == [
        ("root_key.present", "critical", "raised"),
        ("root_key.present", "critical", "repeated"),
        ("root_key.cleared", "warning", "resolved"),
    ]
    assert {(line["account_id"], line["reason"], line["alarm_id"]) for line in lines} == {
        (ACCOUNT, "root_access_key", ROOT_KEY.fingerprint)
    }
    assert all("principal" not in line for line in lines)


def test_an_unreadable_root_user_has_an_event_of_its_own(logging_keeper: AlarmKeeper, log_lines: LogLines) -> None:
    logging_keeper.update(POSTURE, [UNREADABLE])
    logging_keeper.update(POSTURE, [])
    assert [(line["event"], line["level"]) for line in log_lines()] == [
        ("root_key.unreadable", "critical"),
        ("alarm.resolved", "info"),
    ]


@pytest.mark.parametrize(
    ("severity", "level"),
    [(Severity.CRITICAL, "critical"), (Severity.HIGH, "error"), (Severity.MEDIUM, "warning")],
)
def test_other_alarms_are_logged_at_the_level_of_their_severity(
    severity: Severity, level: str, logging_keeper: AlarmKeeper, clock: VirtualClock, log_lines: LogLines
) -> None:
    logging_keeper.update(PASS, [stray(severity=severity)])
    clock.advance(REPEAT)
    logging_keeper.update(PASS, [stray(severity=severity)])
    logging_keeper.update(PASS, [])
    lines = log_lines()
    assert [(line["event"], line["level"]) for line in lines] == [
        ("alarm.raised", level),
        ("alarm.repeated", level),
        ("alarm.resolved", "info"),
    ]
    assert {(line["principal"], line["severity"]) for line in lines} == {("ci", severity.value)}
