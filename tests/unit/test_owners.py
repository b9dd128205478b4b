"""Owners of users: who is told what, when, and once; over restarts, dead channels and odd tags."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from rekeyd.adapters.channel_owners import is_owner
from rekeyd.core.findings import FindingReason, found
from rekeyd.core.model import AccountId, Principal, UserId
from rekeyd.core.policy import Adopt, Policy
from rekeyd.errors import AccessDeniedError, RefusedError, TemporaryError
from rekeyd.fleet.alarms import AlarmKeeper, Scope
from rekeyd.fleet.outbox import GATHER, LAST_RETRY, OWNER_LIFE, Postman, names_of
from rekeyd.fleet.owners import OwnerDesk, owner_of
from rekeyd.fleet.preview import Preview
from rekeyd.fleet.settings import FleetSettings, Mode
from rekeyd.ports import Channel, Message
from tests.conftest import LogLines
from tests.rig import ACCOUNT, DAY, Rig, policy
from tests.unit.test_outbox import Sink, alarms_of

HOUR = timedelta(hours=1)
ALICE, BOB = "alice@example.org", "bob@example.org"


@dataclass
class Post:
    """A way to owners that remembers, and is down for some of them."""

    name: str = "owner-mail"
    problem: str | None = None
    down: dict[str, Exception] = field(default_factory=dict)
    messages: list[tuple[str, Message]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return () if self.problem is not None else (self.name,)

    def names_for(self, owner: str) -> tuple[str, ...]:
        return (f"{self.name}:{owner}",) if is_owner(owner) else ()

    def channel(self, name: str) -> Channel | None:
        way, _, owner = name.partition(":")
        return _Box(name, owner, self) if way == self.name else None

    def told(self, owner: str) -> list[tuple[str, str]]:
        """(user, reason) of all that the owner took."""
        return [
            (each["principal"], each["reason"])
            for to, message in self.messages
            for each in alarms_of(message)
            if to == owner
        ]


@dataclass
class _Box:
    name: str
    owner: str
    post: Post

    def send(self, message: Message) -> None:
        if (error := self.post.down.get(self.owner)) is not None:
            raise error
        self.post.messages.append((self.owner, message))


class House:
    """A daemon's passes and outbox over one account, on the in-memory world."""

    def __init__(self, *policies: Policy, notify_before: timedelta = 7 * DAY, mode: Mode = Mode.ENFORCE) -> None:
        self.rig = Rig(*policies, settings=FleetSettings(max_parallel=1, mode=mode))
        self.world = self.rig.world
        self.post, self.chat = Post(), Sink("chat")
        self.notify_before = notify_before
        self.boot()

    def boot(self) -> None:
        rig, clock = self.rig, self.world.clock
        self.postman = Postman(
            journal=rig.journal,
            clock=clock,
            channels=(self.chat,),
            owners=self.post,
            link="https://wiki.example/rekeyd/{reason}?account={account_id}",
            instance="test",
            names=lambda: {ACCOUNT: "shop"},
        )
        self.fleet = rig.fleet(
            AlarmKeeper(journal=rig.port, clock=clock, repeat_every=4 * HOUR, channels=names_of((self.chat,))),
            OwnerDesk(
                journal=rig.journal,
                clock=clock,
                channels=self.post,
                tag="owner",
                notify_before=self.notify_before,
            ),
        )

    def restart(self) -> None:
        self.rig.restart()
        self.boot()

    def run(self, span: timedelta, *, every: timedelta = 6 * HOUR) -> None:
        for _ in range(int(span / every)):
            self.fleet.scan_pass(ACCOUNT)
            self.tell()
            self.world.clock.advance(every)

    def tell(self) -> None:
        """As the daemon's chores do it, some time later."""
        self.world.clock.advance(LAST_RETRY)
        self.postman.deliver(wait=True)
        self.postman.drop_strangers()
        self.fleet.watch.channels_looked_at(self.postman.findings())

    def user(self, name: str, *, owner: str | None = ALICE, age: timedelta = 100 * DAY) -> None:
        self.world.user(ACCOUNT, name, age=age, tags={} if owner is None else {"Owner": owner})

    def failing(self) -> list[str]:
        return [
            each["principal"]
            for message in self.chat.messages
            for each in alarms_of(message)
            if (each["reason"], each["notice"]) == ("channel_failing", "raised")
        ]


def test_an_owner_is_told_once_a_week_before_a_rotation() -> None:
    house = House(policy())
    house.user("ci", age=60 * DAY)
    due_at = None
    for _ in range(40):
        house.run(DAY, every=DAY)
        if due_at is None:
            due_at = house.rig.status("ci").next_at
        if house.post.messages:
            break
    assert due_at is not None
    ((owner, message),) = house.post.messages
    assert owner == ALICE
    assert timedelta(0) <= message.at - (due_at - 7 * DAY) <= DAY
    house.restart()
    house.run(5 * DAY)
    assert house.post.told(ALICE) == [("ci", "rotation_ahead")]
    house.run(90 * DAY, every=DAY)
    assert house.post.told(ALICE) == [("ci", "rotation_ahead")] * 2, "each rotation is one"
    house.world.check_promises()


def test_the_message_says_what_where_when_and_what_to_do_and_links_to_the_page() -> None:
    house = House(policy())
    house.user("ci", age=75 * DAY)
    house.run(DAY)
    ((_, message), *_) = house.post.messages
    held = house.world.keys(ACCOUNT, "ci")[0].id
    assert message.title.startswith("rekeyd test: to the owner: the user's access key will be replaced (account")
    for line in (
        held,
        f"Where: account {ACCOUNT} shop",
        "Who: ci",
        "Since: 20",
        "What to do: nothing, if every program of this user reads its key from Vault",
        "keeps working for at least 7 days",
        f"Page: https://wiki.example/rekeyd/rotation_ahead?account={ACCOUNT}",
    ):
        assert line in message.text
    assert message.document["owner"] == ALICE
    (entry,) = alarms_of(message)
    assert (entry["notice"], entry["owner"], entry["account_name"]) == ("owner", ALICE, "shop")


def test_an_owner_hears_of_an_old_key_on_hold_with_service_and_region_and_once() -> None:
    house = House(policy(), notify_before=timedelta(0))
    house.user("ci")
    (old,) = house.world.keys(ACCOUNT, "ci")
    for _ in range(60):
        house.world.use_key(old.id, service="dynamodb", region="eu-west-1")
        house.run(6 * HOUR)
    assert house.post.told(ALICE) == [("ci", "still_used")]
    ((_, message),) = house.post.messages
    assert old.id in message.text
    assert "with dynamodb in eu-west-1" in message.text
    assert house.chat.told.count(("raised", "still_used")) == 1, "and people are alarmed as ever"


def test_a_use_of_the_root_user_is_an_alarm_for_as_long_as_the_setting_says() -> None:
    house = House(policy())
    house.rig.settings = FleetSettings(max_parallel=1, root_used_within=2 * DAY)
    house.boot()
    used_at = house.world.account(ACCOUNT).root_seen_used_at = house.world.clock.now()
    while house.world.clock.now() <= used_at + 2 * DAY:
        house.run(HOUR, every=HOUR)
        assert ("resolved", "root_used") not in house.chat.told
    house.run(HOUR, every=HOUR)
    assert house.chat.told.count(("resolved", "root_used")) == 1


def test_a_storm_of_a_whole_pass_is_one_message_a_channel() -> None:
    house = House(policy(adopt=Adopt.WHEN_ASKED))
    for number in range(150):
        house.user(f"old-{number}", owner=None, age=200 * DAY)
        house.world.operators.add_key(ACCOUNT, f"old-{number}", age=150 * DAY)
    sent_in_the_pass = 0
    announce = house.rig.journal.announce

    def tick(*args: Any, **kwargs: Any) -> None:
        """The daemon's outbox, which sends in the middle of a pass whatever is a second old."""
        nonlocal sent_in_the_pass
        announce(*args, **kwargs)
        house.world.clock.advance(2 * GATHER)
        house.postman.deliver(wait=True)
        sent_in_the_pass += 1

    house.rig.journal.announce = tick  # type: ignore[method-assign]
    house.fleet.scan_pass(ACCOUNT)
    house.rig.journal.announce = announce  # type: ignore[method-assign]
    house.tell()
    beginning, end = house.chat.messages
    assert sent_in_the_pass == 2
    assert {each["reason"] for each in alarms_of(beginning)} == {"key_unused"}
    assert {each["reason"] for each in alarms_of(end)} == {"stray_key", "key_over_max_age"}
    assert end.document["announcements"] == 300
    house.fleet.scan_pass(ACCOUNT)
    house.tell()
    assert len(house.chat.messages) == 2


def test_an_owner_hears_once_that_somebody_reactivated_the_old_key() -> None:
    house = House(policy(), notify_before=timedelta(0))
    house.user("ci")
    (old,) = house.world.keys(ACCOUNT, "ci")
    house.run(10 * DAY)
    assert house.rig.status("ci").state == "quarantine"
    assert house.post.messages == []
    house.world.operators.reactivate(old.id)
    house.run(3 * DAY)
    house.restart()
    house.run(3 * DAY)
    assert house.rig.status("ci").reason == "reactivated"
    assert house.post.told(ALICE) == [("ci", "reactivated")]
    ((_, message),) = house.post.messages
    assert old.id in message.text
    assert "deactivate the old key again; rekeyd does not" in message.text


def test_an_owner_is_not_told_of_what_only_rekeyds_own_rights_mend() -> None:
    house = House(policy(), notify_before=timedelta(0))
    house.user("ci")
    house.run(2 * DAY)
    with house.world.fault("iam.last_use", error=AccessDeniedError("iam:GetAccessKeyLastUsed is denied"), times=None):
        house.run(10 * DAY)
    assert house.rig.status("ci").reason == "last_use_unknown"
    assert house.post.messages == []


def test_an_old_key_that_is_used_longer_than_max_hold_is_a_louder_alarm() -> None:
    house = House(policy(max_hold=5 * DAY), notify_before=timedelta(0))
    house.user("ci")
    (old,) = house.world.keys(ACCOUNT, "ci")
    house.run(6 * HOUR)
    overlap_ends = house.world.clock.now() - 6 * HOUR + 7 * DAY
    while house.world.clock.now() < overlap_ends + 5 * DAY - 6 * HOUR:
        house.world.use_key(old.id, service="s3", region="eu-west-1")
        house.run(6 * HOUR)
    assert severities(house) == ["medium"]
    assert held_since(house) is None
    for _ in range(8):
        house.world.use_key(old.id, service="s3", region="eu-west-1")
        house.run(6 * HOUR)
    assert severities(house) == ["high"]
    since = held_since(house)
    assert since is not None, "`audit` says the same"
    assert timedelta(0) <= overlap_ends - since < HOUR
    (alarm,) = (each for each in house.rig.journal.alarms() if each.reason == "still_used")
    assert f"; on hold since {overlap_ends:%Y-%m-%d}, longer than max_hold" in alarm.message
    assert house.chat.told.count(("raised", "still_used")) == 2, "once more when it grew worse"
    house.run(3 * DAY)
    assert severities(house) == []
    house.world.check_promises()


def held_since(house: House) -> datetime | None:
    preview = Preview(fleet=house.fleet)
    (foreseen,) = preview.look_at_all(preview.list(ACCOUNT).concerned)
    assert foreseen.message.startswith("the old key is still used")
    return foreseen.held_since


def severities(house: House) -> list[str]:
    return [alarm.severity for alarm in house.rig.journal.alarms() if alarm.reason == "still_used"]


def test_each_owner_is_told_of_its_own_users_in_a_message_of_its_own() -> None:
    house = House(policy())
    for number in range(3):
        house.user(f"ci-{number}", age=70 * DAY)
    house.user("web", owner=BOB, age=70 * DAY)
    house.user("alone", owner=None, age=70 * DAY)
    house.run(12 * DAY)
    assert sorted(house.post.told(ALICE)) == [(f"ci-{number}", "rotation_ahead") for number in range(3)]
    assert house.post.told(BOB) == [("web", "rotation_ahead")]
    assert {each["principal"] for to, m in house.post.messages for each in alarms_of(m) if to == BOB} == {"web"}
    assert "rotation_ahead" not in {reason for _, reason in house.chat.told}


def test_a_mailbox_that_refuses_delays_nobody_and_is_an_alarm_on_the_channels() -> None:
    house = House(policy())
    house.user("ci", age=70 * DAY)
    house.user("web", owner=BOB, age=70 * DAY)
    house.post.down = {ALICE: RefusedError("no such mailbox")}
    house.run(12 * DAY)
    assert house.post.told(BOB) == [("web", "rotation_ahead")]
    assert house.post.told(ALICE) == []
    assert house.failing() == ["owner-mail"]
    assert any("1 owner is not told, the first: alice@example.org" in m.text for m in house.chat.messages)


def test_what_was_not_taken_comes_after_a_restart_and_the_alarm_ends() -> None:
    house = House(policy())
    house.user("ci", age=70 * DAY)
    house.post.down = {ALICE: TemporaryError("the server does not answer")}
    for _ in range(200):
        house.run(6 * HOUR)
        if house.failing():
            break
    house.restart()
    house.post.down = {}
    house.tell()
    house.tell()
    assert house.post.told(ALICE) == [("ci", "rotation_ahead")]
    assert house.chat.told[-1] == ("resolved", "channel_failing")


def test_mail_that_nobody_takes_for_two_weeks_is_given_up() -> None:
    house = House(policy())
    house.user("ci", age=75 * DAY)
    house.post.down = {ALICE: RefusedError("no such mailbox")}
    house.run(2 * DAY)
    assert house.postman.journal.channel_states()
    house.run(OWNER_LIFE + DAY)
    assert [state.name for state in house.rig.journal.channel_states()] == ["chat"]
    assert [e.event for e in house.rig.journal.history()].count("notification.dropped") == 1
    house.tell()
    assert house.chat.told[-1] == ("resolved", "channel_failing")


def test_a_way_that_cannot_be_set_up_is_an_alarm_and_its_mail_waits() -> None:
    house = House(policy())
    house.user("ci", age=75 * DAY)
    house.post.problem = "owners.urls_file: /x cannot be read (FileNotFoundError)"
    house.run(DAY)
    assert house.failing() == ["owners"]
    assert house.post.messages == []
    house.post.problem = None
    house.run(DAY)
    assert house.post.told(ALICE) == [("ci", "rotation_ahead")]


ODD = (
    "alice@example.org\r\nBcc: eve@example.net",
    "alice@example.org,eve@example.net",
    "alice@example.org;eve@example.net",
    "alice@example.org?cc=eve@example.net",
    "alice@example.org&to=eve@example.net",
    "alice@@example.org",
    "alice@example.org/eve",
    "Alice <alice@example.org>",
    "alice%40example.org",
    "{owner}",
    "../alice",
    "ali..ce@example.org",
    "-alice@example.org",
    "a" * 65 + "@example.org",
    "älice@example.org",
    "alice@example.org\0",
)


@pytest.mark.parametrize("tag", ODD)
def test_an_odd_tag_is_no_owner(tag: str) -> None:
    assert not is_owner(tag)


@pytest.mark.parametrize("tag", [ALICE, "alice+keys@mail.example.org", "team-payments", "o_brien@x.example", "a"])
def test_an_address_or_a_plain_name_is_an_owner(tag: str) -> None:
    assert is_owner(tag)


def test_an_odd_tag_is_logged_once_and_nothing_is_sent(log_lines: LogLines) -> None:
    house = House(policy())
    house.user("ci", owner=ODD[1], age=75 * DAY)
    house.run(8 * DAY)
    assert house.post.messages == []
    warned = [line for line in log_lines() if line["event"] == "owner.untold"]
    assert [(line["level"], line["principal"], line["reason"]) for line in warned] == [
        ("warning", "ci", "rotation_ahead")
    ]
    recorded = [event for event in house.rig.journal.history() if event.event == "owner.untold"]
    assert [event.user_name for event in recorded] == ["ci"]


def test_while_only_observing_no_rotation_is_announced() -> None:
    house = House(policy(), mode=Mode.OBSERVE)
    house.user("ci", age=75 * DAY)
    house.run(5 * DAY)
    assert house.post.messages == []


def test_while_tags_cannot_be_read_nobody_is_told_and_afterwards_once() -> None:
    house = House(policy())
    house.user("ci", age=75 * DAY)
    house.world.account(ACCOUNT).tags_unreadable = True
    house.world.account(ACCOUNT).forget_principals()
    house.run(DAY)
    assert house.post.messages == []
    house.world.account(ACCOUNT).tags_unreadable = False
    house.world.account(ACCOUNT).forget_principals()
    house.run(2 * DAY)
    assert house.post.told(ALICE) == [("ci", "rotation_ahead")]


def user(tags: Iterable[tuple[str, str]] | None) -> Principal:
    return Principal(
        account_id=AccountId(ACCOUNT),
        user_name="ci",
        user_id=UserId("AIDACI"),
        path="/",
        arn="",
        tags=None if tags is None else dict(tags),
    )


def test_a_tags_key_counts_without_regard_to_case_and_blank_means_nobody() -> None:
    assert owner_of(user([("OWNER", f" {ALICE} ")]), "owner") == ALICE
    assert owner_of(user([("owner", "  ")]), "owner") is None
    assert owner_of(user([("team", ALICE)]), "owner") is None
    assert owner_of(user(None), "owner") is None


def test_alarms_for_all_are_no_owners_business() -> None:
    house = House(policy())
    house.fleet.alarms.update(Scope.posture(ACCOUNT), [found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT)])
    house.tell()
    assert house.post.messages == []
    assert house.chat.messages[0].document["owner"] is None
