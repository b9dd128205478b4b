"""The watch over the event queue: what is made of polls that fail, and when people are told."""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rekeyd.adapters.aws_events import QueueMessage
from rekeyd.adapters.journal import open_journal
from rekeyd.app import App
from rekeyd.config import Config
from rekeyd.core.model import AccountId, UserId
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.daemon.accounts import AccountWork
from rekeyd.daemon.events import EventWatch
from rekeyd.daemon.parts import Parts
from rekeyd.daemon.schedule import Schedule
from rekeyd.errors import AccessDeniedError, Error, JournalError, TemporaryError
from rekeyd.fleet.alarms import AlarmKeeper
from rekeyd.fleet.posture import Part
from rekeyd.ports import PrincipalStatus
from tests.rig import Rig
from tests.unit.test_cloudtrail import KEY, ROOT, event, made
from tests.world.clock import VirtualClock

ACCOUNT = AccountId("111122223333")
SECOND = timedelta(seconds=1)
DENIED = AccessDeniedError("sqs:DeleteMessage for 111122223333 was refused: AccessDenied")


@dataclass
class Queue:
    """Polls and deletions come out as planned, in order; what is not planned goes well, with nothing in it."""

    polls: list[Sequence[str] | Error] = field(default_factory=list)
    deletions: list[int | Error] = field(default_factory=list)

    def receive(self) -> tuple[QueueMessage, ...]:
        bodies = _outcome(self.polls, ())
        return tuple(QueueMessage(body=body, receipt="r") for body in bodies)

    def delete(self, _messages: Sequence[QueueMessage]) -> int:
        left: int = _outcome(self.deletions, 0)
        return left


def _outcome(planned: list[Any], usual: Any) -> Any:
    outcome = planned.pop(0) if planned else usual
    if isinstance(outcome, Error):
        raise outcome
    return outcome


class Clock(VirtualClock):
    def __init__(self) -> None:
        super().__init__()
        self.stopping = threading.Event()


@dataclass
class Bench:
    """An `EventWatch`, and a person who is told."""

    queue: Queue | None = field(default_factory=Queue)
    clock: Clock = field(default_factory=Clock)
    told: list[bool] = field(default_factory=list)
    """What alarms were told: whether there is a problem."""
    again_in: list[timedelta] = field(default_factory=list)
    looks: list[tuple[str, list[str]]] = field(default_factory=list)
    at_root: Callable[[AccountId, Collection[Part]], object] = lambda _account_id, _anew: None
    """What a look at a root user does besides."""
    deaf: bool = False
    """The journal does not take what is told."""

    def __post_init__(self) -> None:
        self.journal = open_journal("sqlite://", instance="test", clock=self.clock)
        app = SimpleNamespace(
            clock=self.clock,
            journal=self.journal,
            config=cast("Config", object()),
            cloud=None,
            fleet=SimpleNamespace(watch=SimpleNamespace(events_looked_at=self._tell)),
        )
        schedule = SimpleNamespace(once=lambda _name, at, _work, **_: self.again_in.append(at - self.clock.now()))
        accounts = SimpleNamespace(
            watched=(ACCOUNT,),
            look_at_root=self._look_at_root,
            look_at_users=lambda account_id, names: self.looks.append((account_id, list(names))),
        )
        self.watch = EventWatch(
            Parts(cast("App", app)),
            cast("Schedule", schedule),
            cast("AccountWork", accounts),
            queue_of=lambda _config, _cloud: self.queue,
        )

    def read(self) -> None:
        self.watch.read()

    def manage(self, user_name: str) -> None:
        self.journal.save_status(
            PrincipalStatus(
                account_id=ACCOUNT,
                user_name=user_name,
                user_id=UserId("AIDACI"),
                policy="default",
                state=State.DUE,
                reason=Reason.DUE,
                message="",
                held_access_key_id=None,
                old_access_key_id=None,
                held_created_at=None,
                oldest_active_at=None,
                next_at=None,
                looked_at=self.clock.now(),
            )
        )

    def _look_at_root(self, account_id: AccountId, *, anew: Collection[Part]) -> None:
        self.looks.append((account_id, sorted(anew)))
        self.at_root(account_id, anew)

    def _tell(self, problem: Error | None) -> None:
        if self.deaf:
            raise JournalError("the disk is full")
        self.told.append(problem is not None)


def test_one_lost_answer_is_no_news_and_three_are() -> None:
    bench = Bench(Queue(polls=[TemporaryError("lost")] * 3))
    for _ in range(2):
        bench.read()
    assert bench.told == []
    bench.read()
    assert (bench.told, bench.watch.readable) == ([True], False)
    bench.read()
    assert (bench.told, bench.watch.readable) == ([True, False], True)


def test_a_denial_is_told_at_once() -> None:
    bench = Bench(Queue(polls=[DENIED, DENIED]))
    bench.read()
    bench.read()
    assert bench.told == [True]


def test_polls_that_fail_come_later_and_later() -> None:
    bench = Bench(Queue(polls=[TemporaryError("lost")] * 9))
    for _ in range(10):
        bench.read()
    assert [each / SECOND for each in bench.again_in] == [1, 2, 4, 8, 16, 32, 60, 60, 60, 0]


@pytest.mark.parametrize("outcome", [DENIED, 1], ids=["denied", "one of them was not"])
def test_an_empty_poll_does_not_end_the_alarm_of_messages_that_cannot_be_deleted(outcome: int | Error) -> None:
    bench = Bench(Queue(polls=[["x", "y"]] * 3, deletions=[outcome] * 3))
    for _ in range(3):
        bench.read()
        bench.read()
        bench.clock.advance(timedelta(minutes=1))
    assert (bench.told, bench.watch.readable) == ([True], False)
    assert bench.queue is not None
    bench.queue.polls.append(["x", "y"])
    bench.read()
    assert (bench.told, bench.watch.readable) == ([True, False], True)


def test_messages_that_never_come_again_do_not_keep_the_alarm_open_for_ever() -> None:
    bench = Bench(Queue(polls=[["x"]], deletions=[DENIED]))
    bench.read()
    bench.clock.advance(timedelta(minutes=5, seconds=1))
    bench.read()
    assert bench.told == [True, False]


def _nothing(_bench: Bench) -> None:
    """The journal works."""


def _deafen(bench: Bench) -> None:
    bench.deaf = True


@pytest.mark.parametrize(("trouble", "raised"), [(_nothing, None), (_deafen, JournalError)], ids=["told", "untold"])
def test_a_denied_queue_is_never_asked_in_a_hot_loop(
    trouble: Callable[[Bench], None], raised: type[Error] | None
) -> None:
    bench = Bench(Queue(polls=[DENIED] * 5))
    trouble(bench)
    for _ in range(5):
        if raised is None:
            bench.read()
        else:
            with pytest.raises(raised, match="the disk is full"):
                bench.read()
    assert min(bench.again_in) >= SECOND


def test_without_a_queue_nothing_is_read_until_the_configuration_changes() -> None:
    bench = Bench(queue=None)
    bench.read()
    assert (bench.again_in, bench.told, bench.watch.readable) == ([], [False], None)


def test_a_use_of_the_root_user_asks_cloudtrail_again_until_it_must_have_shown_it() -> None:
    bench = Bench(Queue(polls=[[event("ConsoleLogin", ROOT, eventSource="signin.amazonaws.com")]]))
    bench.read()
    assert bench.looks == [(ACCOUNT, [])]
    for _ in range(60 * 60):
        bench.clock.advance(SECOND)
        bench.watch.look()
    assert bench.looks[1:] == [(ACCOUNT, ["trail"])] * 7


def test_a_sign_in_of_the_root_user_is_an_alarm_as_soon_as_cloudtrail_shows_it() -> None:
    rig = Rig()
    account = rig.world.account(ACCOUNT)
    alarms = AlarmKeeper(journal=rig.port, clock=rig.world.clock, repeat_every=timedelta(hours=4))
    fleet = rig.fleet(alarms)
    fleet.watch.check_root(ACCOUNT)
    signed_in_at = rig.world.clock.now()
    sign_in = event("ConsoleLogin", ROOT, eventSource="signin.amazonaws.com", eventType="AwsConsoleSignIn")
    bench = Bench(
        Queue(polls=[[sign_in]]), at_root=lambda account_id, anew: fleet.watch.check_root(account_id, anew=anew)
    )
    bench.read()
    known_after = None
    for minute in range(1, 30):
        rig.world.clock.advance(timedelta(minutes=1))
        bench.clock.advance(timedelta(minutes=1))
        # Its event history is minutes late.
        account.root_seen_used_at = signed_in_at if minute >= 7 else None
        bench.watch.look()
        if known_after is None and [each.reason for each in alarms.open_alarms()] == ["root_used"]:
            known_after = minute
    # Without the message it would be known at the end of the hour.
    assert known_after == 9


def test_disorder_is_harmless() -> None:
    root_made = event("CreateAccessKey", ROOT)
    root_deleted = event("DeleteAccessKey", ROOT, requestParameters={"accessKeyId": KEY})
    ci_made = event("CreateAccessKey", **made())
    ci_deleted = event("DeleteAccessKey", requestParameters={"userName": "ci", "accessKeyId": KEY})
    for order in permutations((root_made, root_deleted, ci_made, ci_deleted)):
        # One comes alone, two at once soon after, the last one late. An empty poll ends each reading.
        bench = Bench(Queue(polls=[order[:1], (), order[1:3], (), order[3:], ()]))
        bench.manage("ci")
        heard: dict[str, int] = {}
        looked: dict[str, int] = {}
        for second in range(100):
            before = len(bench.looks)
            for when, messages in ((0, order[:1]), (3, order[1:3]), (40, order[3:])):
                if second == when:
                    bench.read()
                    heard |= {"root" if each in (root_made, root_deleted) else "ci": second for each in messages}
            bench.watch.look()
            looked |= {"ci" if names == ["ci"] else "root": second for _, names in bench.looks[before:]}
            bench.clock.advance(SECOND)
        # No message is believed, so what counts is a look after the last one; that sees what is there.
        assert bench.watch.meanings == {"look": 4}
        assert looked.keys() == heard.keys() == {"root", "ci"}
        assert all(looked[who] >= heard[who] for who in heard), (heard, looked)
