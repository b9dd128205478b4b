"""Every announcement reaches every channel once: over retries, restarts, storms and a journal that is full."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.core.findings import Finding, FindingReason, found
from rekeyd.core.model import AccountId
from rekeyd.core.notice import AlarmState, Notice
from rekeyd.core.reasons import Severity
from rekeyd.errors import Error, JournalError, MessageRefusedError, RefusedError, TemporaryError
from rekeyd.fleet.alarms import AlarmKeeper, Scope
from rekeyd.fleet.outbox import FAILURES_BEFORE_ALARM, GATHER, LAST_RETRY, REFUSED_LIFE, Postman, names_of
from rekeyd.ports import Alarm, Announcement, Message
from tests.conftest import LogLines
from tests.world.clock import VirtualClock

ACCOUNT = AccountId("111122223333")
POSTURE = Scope.posture(ACCOUNT)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
REPEAT = 4 * HOUR
ROOT_KEY = found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT, detail="an active key")
OLD_KEY = found(FindingReason.KEY_OVER_MAX_AGE, account_id=ACCOUNT, principal="ci", detail="200 days old")
BATCH_OF_ONE = ("raised", "root_access_key")


class Sink:
    """A channel that remembers, and refuses while it is down."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[Message] = []
        self.down: BaseException | None = None
        self.tries = 0

    def send(self, message: Message) -> None:
        self.tries += 1
        if self.down is not None:
            raise self.down
        self.messages.append(message)

    @property
    def told(self) -> list[tuple[str, str]]:
        """(notice, reason) of everything that it took."""
        return [(each["notice"], each["reason"]) for message in self.messages for each in alarms_of(message)]


def alarms_of(message: Message) -> list[dict[str, str]]:
    alarms = message.document["alarms"]
    assert isinstance(alarms, list)
    return alarms


class Office:
    """A process: keeper, postman and channels on one journal."""

    def __init__(self, store: SqlJournal, clock: VirtualClock, *sinks: Sink) -> None:
        self.journal = store.another_holder()
        self.clock = clock
        self.sinks = sinks
        self.postman = Postman(
            journal=self.journal, clock=clock, channels=sinks, instance="test", names=lambda: {ACCOUNT: "shop"}
        )
        self.keeper = AlarmKeeper(
            journal=self.journal,
            clock=clock,
            repeat_every=REPEAT,
            channels=names_of(sinks),
            unwritten=self.postman.send_unwritten,
        )

    def look(self, *findings: Finding, scope: Scope = POSTURE) -> None:
        self.keeper.update(scope, findings)

    def deliver(self, *, after: timedelta = 2 * GATHER) -> None:
        self.clock.advance(after)
        self.postman.deliver(wait=True)

    def look_at_channels(self) -> None:
        self.keeper.update(Scope.channels(), self.postman.findings())


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def store(clock: VirtualClock) -> Iterator[SqlJournal]:
    journal = open_journal("sqlite://", instance="test", clock=clock)
    yield journal
    journal.close()


@pytest.fixture
def mail() -> Sink:
    return Sink("mail")


@pytest.fixture
def chat() -> Sink:
    return Sink("chat")


@pytest.fixture
def office(store: SqlJournal, clock: VirtualClock, mail: Sink, chat: Sink) -> Office:
    return Office(store, clock, mail, chat)


def test_each_channel_is_told_each_announcement_once(office: Office, mail: Sink, chat: Sink) -> None:
    office.look(ROOT_KEY)
    office.deliver()
    office.deliver()
    office.look()
    office.deliver()
    assert mail.told == chat.told == [("raised", "root_access_key"), ("resolved", "root_access_key")]


def test_a_message_says_what_where_since_when_and_what_to_do(office: Office, mail: Sink) -> None:
    office.look(ROOT_KEY)
    office.deliver()
    (message,) = mail.messages
    assert message.severity == "critical"
    assert message.title == (
        f"rekeyd test: CRITICAL: the account's root user has an access key (account {ACCOUNT} shop)"
    )
    for line in (
        "an active key",
        f"Where: account {ACCOUNT} shop",
        "Since: 20",
        "What to do: find who",
        "CIS v7.0 2.4",
    ):
        assert line in message.text


def test_nothing_is_sent_before_the_rest_of_the_pass_had_time_to_come(office: Office, mail: Sink) -> None:
    office.look(ROOT_KEY)
    office.deliver(after=GATHER - timedelta(microseconds=1))
    assert mail.messages == []
    office.deliver(after=timedelta(microseconds=1))
    assert len(mail.messages) == 1


def test_a_storm_is_one_message_with_the_worst_first(office: Office, mail: Sink) -> None:
    users = [found(FindingReason.UNMANAGED_KEY_OVER_MAX_AGE, account_id=ACCOUNT, principal=f"u{n}") for n in range(300)]
    office.look(*users, ROOT_KEY)
    office.deliver()
    (message,) = mail.messages
    assert message.title.startswith("rekeyd test: 1 CRITICAL, 300 MEDIUM; first: the account's root user")
    assert message.text.startswith("CRITICAL: the account's root user")
    assert message.text.endswith("and 281 more. All of them: rekeyd alarms list")
    assert len(alarms_of(message)) == 301


def test_a_channel_that_is_down_for_an_hour_misses_nothing_and_delays_nobody(
    office: Office, mail: Sink, chat: Sink
) -> None:
    mail.down = TemporaryError("the server does not answer")
    office.look(ROOT_KEY)
    office.deliver()
    assert chat.told == [BATCH_OF_ONE]
    for _ in range(60):
        office.deliver(after=timedelta(minutes=1))
    office.look()
    office.deliver()
    assert chat.told == [BATCH_OF_ONE, ("resolved", "root_access_key")]
    assert mail.messages == []
    mail.down = None
    office.deliver(after=LAST_RETRY)
    office.deliver()
    assert mail.told == chat.told


def test_retries_slow_down_and_never_end(office: Office, mail: Sink) -> None:
    mail.down = TemporaryError("the server does not answer")
    office.look(ROOT_KEY)
    for _ in range(360):
        office.deliver(after=10 * SECOND)
    # At 10, 20, 40, 80, 160 and 320 s, then every five minutes.
    assert mail.tries == 6 + 10
    office.deliver(after=LAST_RETRY)
    assert mail.tries == 17


def test_a_message_that_is_refused_for_what_it_is_goes_out_briefly_with_the_same_id(
    office: Office, mail: Sink, chat: Sink
) -> None:
    offered: list[Message] = []

    def refuse_what_is_long(message: Message) -> None:
        offered.append(message)
        if len(alarms_of(message)) > 1:
            raise MessageRefusedError("it answered 413")

    mail.send = refuse_what_is_long  # type: ignore[method-assign]
    office.look(*(found(FindingReason.KEY_UNUSED, account_id=ACCOUNT, principal=f"u{n}") for n in range(50)), ROOT_KEY)
    office.deliver()
    whole, brief = offered
    assert (whole.id, whole.title) == (brief.id, brief.title)
    assert [each["reason"] for each in alarms_of(brief)] == ["root_access_key"]
    assert brief.document["announcements"] == 51
    assert brief.text.endswith("and 50 more. All of them: rekeyd alarms list")
    assert len(alarms_of(chat.messages[0])) == 51
    office.deliver(after=LAST_RETRY)
    assert len(offered) == 2
    assert office.postman.findings() == ()


def test_a_message_that_is_refused_for_a_day_makes_room_for_what_waits_behind_it(office: Office, mail: Sink) -> None:
    office.look(ROOT_KEY)
    mail.down = MessageRefusedError("it answered 400")
    office.deliver()
    office.look(ROOT_KEY, OLD_KEY)
    office.deliver(after=REFUSED_LIFE - SECOND)
    assert "notification.dropped" not in events_of(office)
    office.deliver(after=LAST_RETRY)
    assert events_of(office).count("notification.dropped") == 1
    (state,) = office.postman.states()[1:]
    assert (state.name, state.failures, state.waiting) == ("mail", 3, 1)
    mail.down = None
    office.deliver(after=LAST_RETRY)
    assert mail.told == [("raised", "key_over_max_age")]


def test_a_channel_that_is_down_for_a_week_loses_nothing_to_an_earlier_refusal(office: Office, mail: Sink) -> None:
    office.look(ROOT_KEY)
    for down in (MessageRefusedError("it answered 400"), TemporaryError("no answer"), MessageRefusedError("400")):
        mail.down = down
        office.deliver(after=7 * DAY)
    mail.down = None
    office.deliver(after=LAST_RETRY)
    assert mail.told == [BATCH_OF_ONE]


def events_of(office: Office) -> list[str]:
    return [event.event for event in office.journal.history()]


def test_a_message_keeps_its_id_until_it_was_taken(office: Office, mail: Sink) -> None:
    ids: list[str] = []

    def note(message: Message) -> None:
        ids.append(message.id)
        if len(ids) < 3:
            raise TemporaryError("the server does not answer")

    mail.send = note  # type: ignore[method-assign]
    office.look(ROOT_KEY)
    for _ in range(4):
        office.deliver(after=timedelta(minutes=1))
    assert len(ids) == 3
    assert len(set(ids)) == 1


def test_a_restart_loses_nothing_and_doubles_nothing(
    store: SqlJournal, clock: VirtualClock, mail: Sink, chat: Sink
) -> None:
    mail.down = TemporaryError("the server does not answer")
    before = Office(store, clock, mail, chat)
    before.look(ROOT_KEY)
    before.deliver()
    before.journal.die()
    after = Office(store, clock, mail, chat)
    mail.down = None
    after.look(ROOT_KEY)
    after.deliver(after=LAST_RETRY)
    assert mail.told == chat.told == [BATCH_OF_ONE]


def test_a_message_on_its_way_when_the_process_was_killed_comes_again_with_the_same_id(
    store: SqlJournal, clock: VirtualClock, mail: Sink
) -> None:
    killed = Office(store, clock, mail)
    killed.look(ROOT_KEY)
    clock.advance(2 * GATHER)
    on_its_way = killed.journal.take_batch("mail", at=clock.now(), ready_before=clock.now())
    assert on_its_way is not None
    other = Office(store, clock, mail)
    other.deliver()
    assert mail.messages == [], "the first one may still be sending"
    killed.journal.die()
    other.journal.beat()
    other.deliver()
    assert [message.id for message in mail.messages] == [on_its_way.id]


def test_two_processes_never_send_the_same_message(store: SqlJournal, clock: VirtualClock, mail: Sink) -> None:
    one, two = Office(store, clock, mail), Office(store, clock, mail)
    one.look(ROOT_KEY)
    clock.advance(2 * GATHER)
    one.postman.deliver()
    two.postman.deliver()
    one.postman.deliver(wait=True)
    two.postman.deliver(wait=True)
    assert mail.told == [BATCH_OF_ONE]


def test_a_dead_channel_is_an_alarm_on_the_others_until_it_works(office: Office, mail: Sink, chat: Sink) -> None:
    mail.down = RefusedError("the server does not know us")
    office.look(ROOT_KEY)
    for attempt in range(FAILURES_BEFORE_ALARM):
        office.look_at_channels()
        assert chat.told == ([BATCH_OF_ONE] if attempt else [])
        office.deliver(after=timedelta(minutes=1))
    office.look_at_channels()
    office.deliver()
    assert chat.told == [BATCH_OF_ONE, ("raised", "channel_failing")]
    assert "mail, 3 failures in a row, the last: the server does not know us" in chat.messages[-1].text
    mail.down = None
    office.deliver(after=LAST_RETRY)
    office.look_at_channels()
    office.deliver()
    assert chat.told[-1] == ("resolved", "channel_failing")
    assert mail.told == [BATCH_OF_ONE]


def test_an_unforeseen_error_of_a_channel_shows_only_its_type(office: Office, mail: Sink, log_lines: LogLines) -> None:
    mail.down = ValueError("https://hooks.example/T0KEN")
    office.look(ROOT_KEY)
    office.deliver()
    (state,) = [state for state in office.postman.states() if state.name == "mail"]
    assert state.error == "the channel failed in an unforeseen way (ValueError)"
    assert "T0KEN" not in str(log_lines())


def test_a_journal_that_cannot_be_written_does_not_silence_a_root_key(office: Office, mail: Sink) -> None:
    journal = office.journal

    class Full:
        def __getattr__(self, name: str) -> object:
            if name in ("save_alarm", "announce"):
                return self.refuse
            return getattr(journal, name)

        def refuse(self, *_: object, **__: object) -> None:
            raise JournalError("the journal cannot grow: the disk is full")

    direct: list[tuple[Announcement, ...]] = []
    office.keeper.journal = Full()  # type: ignore[assignment]
    office.keeper.unwritten = direct.append
    for _ in range(2):
        with pytest.raises(JournalError, match="the disk is full"):
            office.look(ROOT_KEY)
    assert [[each.kind for each in told] for told in direct] == [[Notice.RAISED]]
    office.keeper.journal = journal
    office.look(ROOT_KEY)
    office.deliver()
    assert mail.messages == [], "it was told past the journal"
    office.clock.advance(REPEAT)
    office.look(ROOT_KEY)
    office.deliver()
    assert mail.told == [("repeated", "root_access_key")]


def test_a_channel_that_is_not_configured_any_more_is_forgotten(
    office: Office, store: SqlJournal, mail: Sink, chat: Sink
) -> None:
    mail.down = TemporaryError("the server does not answer")
    office.look(ROOT_KEY)
    office.deliver()
    assert office.journal.drop_channels(["chat"], at=office.clock.now()) == 1
    assert [state.name for state in office.journal.channel_states()] == ["chat"]
    assert office.journal.drop_channels(["chat"], at=office.clock.now()) == 0


def test_a_repetition_that_was_missed_several_times_is_said_once(office: Office, mail: Sink) -> None:
    office.look(ROOT_KEY)
    office.deliver()
    mail.down = TemporaryError("the server does not answer")
    for _ in range(5):
        office.clock.advance(REPEAT)
        office.look(ROOT_KEY)
    mail.down = None
    office.deliver()
    assert mail.told == [BATCH_OF_ONE, ("repeated", "root_access_key")]


# --- acknowledgement -------------------------------------------------------------------------------------------------


def acknowledge(office: Office, until: timedelta) -> Alarm:
    alarm = office.keeper.acknowledge(
        ROOT_KEY.fingerprint, until=office.clock.now() + until, by="user:alice", because="the vendor needs it today"
    )
    assert alarm is not None
    return alarm


def test_an_acknowledged_alarm_is_not_repeated_stays_open_and_rings_again_afterwards(
    office: Office, mail: Sink
) -> None:
    office.look(ROOT_KEY)
    office.deliver()
    acknowledge(office, timedelta(days=1))
    office.deliver()
    for _ in range(23):
        office.clock.advance(HOUR)
        office.look(ROOT_KEY)
        office.deliver()
    assert mail.told == [BATCH_OF_ONE, ("acknowledged", "root_access_key")]
    (alarm,) = office.journal.alarms()
    assert alarm.state(office.clock.now()) is AlarmState.ACKNOWLEDGED
    assert alarm.severity == "critical"
    assert "Because: the vendor needs it today" in mail.messages[-1].text
    office.clock.advance(HOUR)
    office.look(ROOT_KEY)
    office.deliver()
    assert mail.told[-1] == ("repeated", "root_access_key")
    (alarm,) = office.journal.alarms()
    assert alarm.state(office.clock.now()) is AlarmState.REPEATED


def test_the_end_of_an_acknowledged_alarm_is_told_and_a_new_one_is_new(office: Office, mail: Sink) -> None:
    office.look(ROOT_KEY)
    acknowledge(office, timedelta(days=7))
    office.look()
    office.look(ROOT_KEY)
    office.deliver()
    assert sorted(mail.told) == [
        ("acknowledged", "root_access_key"),
        ("raised", "root_access_key"),
        ("raised", "root_access_key"),
        ("resolved", "root_access_key"),
    ]
    (alarm,) = office.journal.alarms()
    assert alarm.acknowledged_until is None


def test_an_acknowledgement_does_not_cover_what_grew_worse(office: Office, mail: Sink) -> None:
    medium = found(FindingReason.KEY_UNUSED, account_id=ACCOUNT, principal="ci")
    office.look(medium)
    office.keeper.acknowledge(medium.fingerprint, until=office.clock.now() + 9 * HOUR, by="user:alice", because="known")
    worse = Finding(
        severity=Severity.HIGH,
        reason=medium.reason,
        account_id=ACCOUNT,
        principal="ci",
        message=medium.message,
        remedy=medium.remedy,
    )
    office.look(worse)
    office.deliver()
    assert [notice for notice, _ in mail.told].count("raised") == 2
    (alarm,) = office.journal.alarms()
    assert alarm.acknowledged_until is None


def test_only_an_open_alarm_can_be_acknowledged(office: Office) -> None:
    until = office.clock.now() + HOUR
    assert office.keeper.acknowledge("0" * 16, until=until, by="user:alice", because="?") is None
    office.look(ROOT_KEY)
    office.look()
    assert office.keeper.acknowledge(ROOT_KEY.fingerprint, until=until, by="user:alice", because="?") is None


def test_acknowledging_and_telling_are_in_the_audit_trail(office: Office) -> None:
    office.look(ROOT_KEY)
    acknowledge(office, HOUR)
    office.deliver()
    events = {event.event: event for event in office.journal.history()}
    assert events["alarm.acknowledged"].actor == "user:alice"
    assert events["alarm.acknowledged"].detail["because"] == "the vendor needs it today"
    assert events["notification.sent"].detail["announcements"] == 2
    assert office.journal.verify().broken_at is None


def test_a_test_message_goes_past_the_outbox_and_says_who_failed(office: Office, mail: Sink, chat: Sink) -> None:
    chat.down = TemporaryError("the server does not answer")
    results: dict[str, Error | None] = office.postman.test()
    assert results["mail"] is None
    assert isinstance(results["chat"], TemporaryError)
    assert "This is a test" in mail.messages[0].text
