"""Thirty accounts and most of a day: every root key is told on every channel, once for each reason to tell it.

The first channel is down for an hour, and the process is killed and started again in the middle. Of the calls to AWS,
of announcements lost and doubled, and of the time until people know, the figures are asserted, not printed.
"""

import io
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from rekeyd import logs
from rekeyd.adapters.journal import open_journal
from rekeyd.core.findings import CHECKS_BEFORE_UNREADABLE, AccountSeen, check, undecided
from rekeyd.core.model import AccountId
from rekeyd.errors import TemporaryError
from rekeyd.fleet.alarms import Scope
from rekeyd.fleet.posture import gather
from tests.unit.test_outbox import Office, Sink, alarms_of
from tests.world import World
from tests.world.aws import RootKey

CHECK_EVERY = timedelta(minutes=15)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
ACCOUNTS = [AccountId(f"{number:012d}") for number in range(100, 130)]
ACTIVE, INACTIVE, USED, DENIED, FLAPPING, SHORT, DELETED, OLD_REPORT, BLIND_SUMMARY, BLIND_REPORT, AGAIN = ACCOUNTS[:11]
KEY, UNREADABLE = "root_access_key", "root_unreadable"


class Watch:
    """The root checks of a daemon, as it runs them, on a virtual clock."""

    def __init__(self, world: World, *sinks: Sink) -> None:
        self.world = world
        self.store = open_journal("sqlite://", instance="test", clock=world.clock)
        self.sinks = sinks
        self.office = Office(self.store, world.clock, *sinks)
        self.seen: dict[AccountId, AccountSeen] = {}
        self.appeared: dict[str, datetime] = {}

    def restart(self) -> None:
        """kill -9, and another process on the same journal."""
        self.office.journal.die()
        self.office = Office(self.store, self.world.clock, *self.sinks)
        self.seen = {}

    def run(self, span: timedelta, *, after_first: Callable[[], None] = lambda: None) -> None:
        """A check of every account every quarter of an hour; the outbox is looked at after it, and every minute.

        `after_first`: what happens a second after the first check, and so has the longest time to wait for the next.
        """
        for number in range(int(span / CHECK_EVERY)):
            for account_id in ACCOUNTS:
                seen = gather(
                    self.world.cloud.iam(account_id), self.world.clock, previous=self.seen.get(account_id), managed={}
                )
                self.seen[account_id] = seen
                self.office.keeper.update(
                    Scope.posture(account_id), check(seen, self.world.clock.now()), undecided=undecided(seen)
                )
            self.office.look_at_channels()
            began = self.world.clock.now()
            if number == 0:
                self.world.clock.advance(SECOND)
                after_first()
            for seconds in (2, 4, 60, 300, 600):
                self.world.clock.advance_to(max(began + seconds * SECOND, self.world.clock.now()))
                self.office.deliver(after=timedelta(0))
            self.world.clock.advance_to(began + CHECK_EVERY)

    def add_key(self, account_id: AccountId, *, active: bool = True, used: bool = False) -> None:
        now = self.world.clock.now()
        key = RootKey(created_at=now, active=active)
        if used:
            key.last_used_at = now
        self.world.account(account_id).root_keys.append(key)
        self.appeared.setdefault(account_id, now)

    def remove_keys(self, account_id: AccountId) -> None:
        self.world.account(account_id).root_keys.clear()


def told(sink: Sink) -> Counter[tuple[str, str, str, str]]:
    """(account, reason, notice, when it was announced) of all that the sink took."""
    return Counter(
        (each["account_id"], each["reason"], each["notice"], each["announced_at"])
        for message in sink.messages
        for each in alarms_of(message)
        if each["reason"] != "channel_failing"
    )


def notices(sink: Sink, account_id: str, reason: str) -> list[str]:
    found = [(at, notice) for (account, why, notice, at) in told(sink) if (account, why) == (account_id, reason)]
    return [notice for _, notice in sorted(found)]


def most_of_a_day(watch: Watch) -> None:
    first = watch.sinks[0]
    watch.run(2 * HOUR)
    watch.world.clock.advance(timedelta(minutes=7))
    watch.run(HOUR, after_first=lambda: _trouble(watch))
    first.down = None
    watch.remove_keys(SHORT)
    watch.remove_keys(AGAIN)
    watch.world.account(FLAPPING).throttled = CHECKS_BEFORE_UNREADABLE - 1
    watch.run(HOUR)
    watch.restart()
    watch.run(8 * HOUR)
    watch.remove_keys(DELETED)
    watch.remove_keys(BLIND_SUMMARY)
    watch.remove_keys(BLIND_REPORT)
    # A new key after the end of the first one is a new alarm.
    watch.add_key(AGAIN, active=False)
    watch.world.account(DENIED).denied.clear()
    watch.run(4 * HOUR)


def _trouble(watch: Watch) -> None:
    watch.sinks[0].down = TemporaryError("the server does not answer")
    watch.add_key(ACTIVE)
    watch.add_key(INACTIVE, active=False)
    watch.add_key(USED, used=True)
    watch.add_key(SHORT)
    watch.add_key(DELETED)
    watch.add_key(AGAIN)
    watch.world.account(DENIED).denied.add("account_summary")
    # The summary sees no key, and each report, whenever one is made, shows one; and the other way round.
    watch.world.account(BLIND_SUMMARY).summary_blind = True
    watch.add_key(BLIND_SUMMARY)
    watch.world.account(BLIND_REPORT).report_blind = True
    watch.add_key(BLIND_REPORT)


@pytest.fixture(scope="module")
def watch() -> Watch:
    # Made before the first test has a stream of its own; the one of an earlier module's test may be closed.
    logs.configure(style="json", level="critical", stream=io.StringIO(), strict=True)
    world = World(seed=30)
    for account_id in ACCOUNTS:
        world.account(account_id)
    # A key that is gone, and that a report made before still shows for hours.
    world.account(OLD_REPORT).root_keys.append(RootKey(created_at=world.clock.now() - 90 * HOUR, active=True))
    world.cloud.iam(OLD_REPORT).credential_report(max_wait=HOUR)
    world.account(OLD_REPORT).root_keys.clear()
    world.clock.advance(timedelta(minutes=1))
    watch = Watch(world, Sink("first"), Sink("second"))
    most_of_a_day(watch)
    return watch


def test_nothing_is_lost_and_nothing_is_doubled(watch: Watch) -> None:
    first, second = (told(sink) for sink in watch.sinks)
    assert first == second
    assert set(first.values()) == {1}
    assert len(first) > 20
    assert {state.waiting for state in watch.office.postman.states()} == {0}


def test_each_key_is_raised_once_and_repeated_every_four_hours_until_its_end(watch: Watch) -> None:
    for sink in watch.sinks:
        # Almost 13 hours from the first check that saw it.
        for account_id in (ACTIVE, INACTIVE, USED):
            assert notices(sink, account_id, KEY) == ["raised", *["repeated"] * 3]
        assert notices(sink, SHORT, KEY) == ["raised", "resolved"]
        assert notices(sink, DELETED, KEY) == ["raised", *["repeated"] * 2, "resolved"]
        # A new key after the end of the first one is a new alarm.
        assert notices(sink, AGAIN, KEY) == ["raised", "resolved", "raised"]
        assert notices(sink, DENIED, UNREADABLE) == ["raised", *["repeated"] * 2, "resolved"]


def test_where_summary_and_report_disagree_either_one_raises(watch: Watch) -> None:
    for sink in watch.sinks:
        # The report never lists it: the summary alone raises, repeats and ends.
        assert notices(sink, BLIND_REPORT, KEY) == ["raised", *["repeated"] * 2, "resolved"]
        # The summary never shows it: each report made after the last summary raises, until a later summary is clear.
        assert notices(sink, BLIND_SUMMARY, KEY) == ["raised", "resolved"] * 2


def test_answers_that_fail_less_often_than_the_limit_say_nothing(watch: Watch) -> None:
    assert watch.world.account(FLAPPING).throttled == 0, "they were met"
    assert notices(watch.sinks[0], FLAPPING, UNREADABLE) == []


def test_an_old_report_raises_nothing_against_a_clear_summary(watch: Watch) -> None:
    assert notices(watch.sinks[0], OLD_REPORT, KEY) == []


def test_accounts_without_a_key_are_not_spoken_of(watch: Watch) -> None:
    spoken_of = {account for (account, *_) in told(watch.sinks[0])}
    assert spoken_of == {ACTIVE, INACTIVE, USED, SHORT, DELETED, DENIED, BLIND_SUMMARY, BLIND_REPORT, AGAIN}


def test_the_dead_channel_was_told_on_the_other_one_only(watch: Watch) -> None:
    first, second = watch.sinks
    failing = [each["notice"] for m in second.messages for each in alarms_of(m) if each["reason"] == "channel_failing"]
    assert failing == ["raised", "resolved"]
    assert not [each for m in first.messages for each in alarms_of(m) if each["reason"] == "channel_failing"]


def test_people_know_within_one_check_interval_and_five_seconds(watch: Watch) -> None:
    limit = CHECK_EVERY + timedelta(seconds=5)
    waited = []
    for account_id, at in watch.appeared.items():
        if account_id == BLIND_SUMMARY:
            continue  # AWS makes a report every four hours at most
        received = next(
            message.at
            for message in watch.sinks[1].messages
            for each in alarms_of(message)
            if (each["account_id"], each["reason"], each["notice"]) == (account_id, KEY, "raised")
        )
        assert received - at <= limit, account_id
        waited.append(received - at)
    assert max(waited) >= CHECK_EVERY, "somebody had to wait for a whole interval"


def test_one_check_of_one_account_is_little_more_than_one_call(watch: Watch) -> None:
    checks = watch.world.counts["iam.account_summary"]
    assert checks == 16 * 4 * len(ACCOUNTS)
    calls = sum(count for name, count in watch.world.counts.items() if name.startswith("iam."))
    # A summary for each check; every four hours a report and an alias; every hour what changes seldom.
    assert calls / checks < 2


def test_what_one_check_found_came_as_one_message(watch: Watch) -> None:
    second = watch.sinks[1]
    storm = next(m for m in second.messages if any(each["account_id"] == ACTIVE for each in alarms_of(m)))
    raised = {each["account_id"] for each in alarms_of(storm) if each["notice"] == "raised"}
    assert raised == {ACTIVE, INACTIVE, USED, SHORT, DELETED, DENIED, BLIND_REPORT, AGAIN}
