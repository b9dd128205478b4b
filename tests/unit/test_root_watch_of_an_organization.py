"""Thirty accounts and most of a day: every root key is told on every channel, once for each reason to tell it.

The daemon's passes and outbox, on a virtual clock. The first channel is down for an hour, and in the middle of that
hour the process is killed with messages pending and started again. Of the calls to AWS, of announcements lost and
doubled, and of the time until people know, the figures are asserted; benchmarks/alarms.py prints those of a process.
"""

import io
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from rekeyd import logs
from rekeyd.core.findings import CHECKS_BEFORE_UNREADABLE
from rekeyd.core.model import AccountId
from rekeyd.errors import TemporaryError
from rekeyd.fleet.alarms import AlarmKeeper
from rekeyd.fleet.outbox import Postman, names_of
from rekeyd.ports import ChannelState
from tests.rig import Rig
from tests.unit.test_outbox import Sink, alarms_of
from tests.world import World
from tests.world.aws import RootKey

CHECK_EVERY = timedelta(minutes=15)
HOUR = timedelta(hours=1)
SCAN_EVERY = 4 * HOUR
SECOND = timedelta(seconds=1)
ACCOUNTS = [AccountId(f"{number:012d}") for number in range(100, 130)]
ACTIVE, INACTIVE, USED, SIGNED_IN, DENIED, HIDDEN, BEHIND, FLAPPING, SHORT, DELETED = ACCOUNTS[:10]
OLD_REPORT, BLIND_SUMMARY, BLIND_REPORT, AGAIN = ACCOUNTS[10:14]
KEY, UNREADABLE, ROOT_USED, REPORT_UNREADABLE = "root_access_key", "root_unreadable", "root_used", "report_unreadable"


class Watch:
    """A daemon's passes and outbox over all accounts, as its schedule runs them."""

    def __init__(self, world: World, *sinks: Sink) -> None:
        self.world = world
        self.rig = Rig(world=world)
        self.sinks = sinks
        self.appeared: dict[str, datetime] = {}
        self.checks = self.calls = 0
        self.pending: list[dict[str, int]] = []
        """By channel, what it was still to be told when a process was killed."""
        self._scans_at = world.clock.now()
        self.boot()

    def boot(self) -> None:
        rig, clock = self.rig, self.world.clock
        self.postman = Postman(journal=rig.port, clock=clock, channels=self.sinks, instance="test")
        keeper = AlarmKeeper(
            journal=rig.port,
            clock=clock,
            repeat_every=4 * HOUR,
            channels=names_of(self.sinks),
            unwritten=self.postman.send_unwritten,
        )
        self.fleet = rig.fleet(keeper)

    def restart(self) -> None:
        """kill -9, and another process on the same journal; it begins with a scan."""
        self.pending.append({state.name: state.waiting for state in self.states()})
        self.rig.restart()
        self.boot()
        self._scans_at = self.world.clock.now()

    def states(self) -> tuple[ChannelState, ...]:
        return self.postman.states()

    def run(self, span: timedelta, *, after_first: Callable[[], None] = lambda: None) -> None:
        """A check of every root user each quarter of an hour, and now and then a scan.

        `after_first`: what happens a second after the first check, and so has the longest time to wait for the next.
        """
        for number in range(int(span / CHECK_EVERY)):
            began = self.world.clock.now()
            if began >= self._scans_at:
                self._scans_at = began + SCAN_EVERY
                for account_id in self.fleet.accounts().watched:
                    self.fleet.scan_pass(account_id)
            self._check()
            if number == 0:
                self.world.clock.advance(SECOND)
                after_first()
            for seconds in (2, 4, 60, 300, 600):
                self.world.clock.advance_to(max(began + seconds * SECOND, self.world.clock.now()))
                self.fleet.watch.channels_looked_at(self.postman.findings())
                self.postman.deliver(wait=True)
            self.fleet.watch.repeat_alarms()
            self.world.clock.advance_to(began + CHECK_EVERY)

    def _check(self) -> None:
        before = self._iam_calls()
        for account_id in ACCOUNTS:
            self.fleet.watch.check_root(account_id)
        self.checks += len(ACCOUNTS)
        self.calls += self._iam_calls() - before

    def _iam_calls(self) -> int:
        return sum(count for name, count in self.world.counts.items() if name.startswith("iam."))

    def add_key(self, account_id: AccountId, *, active: bool = True, used: bool = False) -> None:
        now = self.world.clock.now()
        key = RootKey(created_at=now, active=active)
        if used:
            key.last_used_at = self.world.account(account_id).root_seen_used_at = now
        self.world.account(account_id).root_keys.append(key)
        self.appeared.setdefault(account_id, now)

    def remove_keys(self, account_id: AccountId) -> None:
        self.world.account(account_id).root_keys.clear()

    def deny(self, account_id: AccountId, *methods: str) -> None:
        self.world.account(account_id).denied |= set(methods)


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
    """From 00:00; who looks at the times of notices in a failure reads them by this."""
    watch.run(2 * HOUR)
    watch.world.clock.advance(timedelta(minutes=7))
    watch.run(HOUR / 2, after_first=lambda: _trouble(watch))
    watch.restart()
    watch.run(HOUR / 2)
    watch.sinks[0].down = None
    watch.remove_keys(SHORT)
    watch.remove_keys(AGAIN)
    watch.deny(HIDDEN, "account_summary", "credential_report")
    watch.world.account(FLAPPING).throttled = CHECKS_BEFORE_UNREADABLE - 1
    watch.run(HOUR)
    watch.restart()
    watch.run(8 * HOUR)
    for account_id in (DELETED, HIDDEN, BLIND_SUMMARY, BLIND_REPORT):
        watch.remove_keys(account_id)
    # A new key after the end of the first one is a new alarm.
    watch.add_key(AGAIN, active=False)
    for account_id in (DENIED, HIDDEN, BEHIND):
        watch.world.account(account_id).denied.clear()
    watch.run(4 * HOUR)


def _trouble(watch: Watch) -> None:
    now = watch.world.clock.now()
    watch.sinks[0].down = TemporaryError("the server does not answer")
    watch.add_key(ACTIVE)
    watch.add_key(INACTIVE, active=False)
    watch.add_key(USED, used=True)
    watch.add_key(SHORT)
    watch.add_key(DELETED)
    watch.add_key(AGAIN)
    watch.add_key(HIDDEN)
    # A use is told for seven days; six hours of them are left.
    watch.world.account(SIGNED_IN).root_seen_used_at = now - timedelta(days=7) + 6 * HOUR
    watch.deny(DENIED, "account_summary")
    watch.deny(BEHIND, "account_summary", "credential_report")
    watch.world.account(BEHIND).root_keys.append(RootKey(created_at=now))
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
    assert len(first) > 40
    assert {state.waiting for state in watch.states()} == {0}


def test_the_process_was_killed_while_the_first_channel_was_still_to_be_told(watch: Watch) -> None:
    in_the_outage, later = watch.pending
    # What the first check with trouble in it found.
    assert in_the_outage["first"] > 10
    assert later == {"first": 0, "second": 0}


def test_each_key_is_raised_once_and_repeated_every_four_hours_until_its_end(watch: Watch) -> None:
    for sink in watch.sinks:
        # Almost 14 hours from the first check that saw it.
        for account_id in (ACTIVE, INACTIVE, USED):
            assert notices(sink, account_id, KEY) == ["raised", *["repeated"] * 3]
        assert notices(sink, SHORT, KEY) == ["raised", "resolved"]
        assert notices(sink, DELETED, KEY) == ["raised", *["repeated"] * 2, "resolved"]
        # A new key after the end of the first one is a new alarm.
        assert notices(sink, AGAIN, KEY) == ["raised", "resolved", "raised"]


def test_a_use_of_the_root_user_is_told_until_it_is_seven_days_old(watch: Watch) -> None:
    for sink in watch.sinks:
        assert notices(sink, USED, ROOT_USED) == ["raised", *["repeated"] * 3]
        assert notices(sink, SIGNED_IN, ROOT_USED) == ["raised", "repeated", "resolved"]
        assert notices(sink, SIGNED_IN, KEY) == [], "a sign-in is no key"
        assert notices(sink, ACTIVE, ROOT_USED) == [], "a key that was never used is no use"


def test_an_account_that_cannot_be_read_is_raised_repeated_and_ended_too(watch: Watch) -> None:
    for sink in watch.sinks:
        assert notices(sink, DENIED, UNREADABLE) == ["raised", *["repeated"] * 2, "resolved"]
        assert notices(sink, DENIED, KEY) == []


def test_a_key_of_an_account_that_cannot_be_read_is_not_forgotten_and_not_missed(watch: Watch) -> None:
    for sink in watch.sinks:
        # Seen, then hidden by a denial of everything, and a restart: its alarm goes on until it is seen to be gone.
        assert notices(sink, HIDDEN, KEY) == ["raised", *["repeated"] * 2, "resolved"]
        assert notices(sink, HIDDEN, UNREADABLE) == ["raised", *["repeated"] * 2, "resolved"]
        # Made behind a denial of everything: only that is known until it can be read, and then the key is.
        for reason in (UNREADABLE, REPORT_UNREADABLE):
            assert notices(sink, BEHIND, reason) == ["raised", *["repeated"] * 2, "resolved"]
        assert notices(sink, BEHIND, KEY) == ["raised"]


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


def test_accounts_with_nothing_to_tell_are_not_spoken_of(watch: Watch) -> None:
    spoken_of = {account for (account, *_) in told(watch.sinks[0])}
    keys = {ACTIVE, INACTIVE, USED, SHORT, DELETED, AGAIN, HIDDEN, BLIND_SUMMARY, BLIND_REPORT}
    assert spoken_of == keys | {SIGNED_IN, DENIED, BEHIND}


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
    assert watch.checks == 16 * 4 * len(ACCOUNTS)
    # A summary for each check; every four hours a report and an alias; every hour what changes seldom.
    assert 1 <= watch.calls / watch.checks < 2


def test_what_one_check_found_came_as_one_message(watch: Watch) -> None:
    second = watch.sinks[1]
    storm = next(m for m in second.messages if any(each["account_id"] == ACTIVE for each in alarms_of(m)))
    raised = {each["account_id"] for each in alarms_of(storm) if each["notice"] == "raised"}
    keys = {ACTIVE, INACTIVE, USED, SHORT, DELETED, AGAIN, HIDDEN, BLIND_REPORT}
    assert raised == keys | {SIGNED_IN, DENIED, BEHIND}
