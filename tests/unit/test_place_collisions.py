"""Two accounts whose users could have one place: found before either is written, by the passes of a whole fleet."""

from datetime import timedelta

import pytest

from rekeyd import config
from rekeyd.app import rules_of
from rekeyd.config import policies_of
from rekeyd.config.places import Places
from rekeyd.core.model import AccountId, Principal, UserId
from rekeyd.core.reasons import Reason
from rekeyd.fleet.alarms import AlarmKeeper
from rekeyd.fleet.passes import Fleet
from rekeyd.fleet.preview import Preview
from rekeyd.fleet.settings import FleetSettings
from tests.rig import Rig, asked
from tests.world import World

FIRST, SECOND, THIRD = (AccountId(digit * 12) for digit in "123")
ACCOUNTS = "".join(
    f'[[aws.accounts]]\nid = "{account_id}"\nrole_arn = "arn:aws:iam::{account_id}:role/r"\n'
    for account_id in (FIRST, SECOND, THIRD)
)
VAULT = '[vault]\naddress = "https://vault.example:8200"\n[vault.auth]\ntoken_file = "/t"\n'


def policy(name: str, path: str | None, account_id: AccountId | None, more: str = "") -> str:
    accounts = "" if account_id is None else f'match = {{ accounts = ["{account_id}"] }}\n'
    where = "" if path is None else f'path = "{path}"\n'
    return f'[[policies]]\nname = "{name}"\n{accounts}{where}adopt = "at-once"\n{more}'


TEAM = policy("first", "team/{user_name}", FIRST) + policy("second", "team/{user_name}", SECOND)
REST = policy("rest", None, None)


class TwoAccounts:
    """A daemon over accounts of one configuration, in which nothing was rotated yet."""

    def __init__(self, policies: str = TEAM + REST) -> None:
        read = config.parse(ACCOUNTS + VAULT + policies, {})
        self.rules = rules_of(read, lambda: "aws", lambda _: "alias")
        self.world = World(place_of=self.rules.place_of)
        self.rig = Rig(*self.rules.policies, world=self.world, settings=FleetSettings(max_parallel=1))
        self.start()
        for account_id in (FIRST, SECOND, THIRD):
            self.world.account(account_id)

    def start(self) -> None:
        """A process that has listed nothing yet, on the same journal."""
        self.fleet = Fleet(
            cloud=self.world.cloud,
            journal=self.rig.port,
            clock=self.world.clock,
            settings=self.rig.settings,
            rules=self.rules,
            reconciler=self.rig.reconciler,
            gates=self.rig.gates,
            mark=self.rig.mark,
            alarms=AlarmKeeper(journal=self.rig.port, clock=self.world.clock, repeat_every=timedelta(hours=4)),
        )

    def add(self, account_id: AccountId, name: str) -> None:
        self.world.user(account_id, name, age=timedelta(days=100), held=False)

    def scan(self, *accounts: AccountId) -> None:
        for account_id in accounts:
            self.fleet.scan_pass(account_id)

    def reason(self, account_id: AccountId, name: str) -> str | None:
        statuses = self.rig.journal.statuses(account_id)
        return next(status.reason for status in statuses if status.user_name == name)

    @property
    def written(self) -> int:
        return self.world.counts["vault.publish"] + self.world.counts["iam.create_access_key"]


@pytest.mark.parametrize("names", [("ci", "ci"), ("ci", "CI")], ids=["the same name", "another case"])
def test_nothing_is_written_where_two_accounts_meet(names: tuple[str, str]) -> None:
    fleet = TwoAccounts()
    fleet.add(FIRST, names[0])
    fleet.add(SECOND, names[1])
    fleet.scan(FIRST, SECOND, FIRST)
    assert fleet.written == 0
    assert fleet.reason(FIRST, names[0]) == fleet.reason(SECOND, names[1]) == Reason.PATH_COLLISION


def test_a_person_who_names_one_account_is_refused_too() -> None:
    fleet = TwoAccounts()
    fleet.add(FIRST, "ci")
    fleet.add(SECOND, "ci")
    seen = Preview(fleet=fleet.fleet).list(FIRST)
    (foreseen,) = Preview(fleet=fleet.fleet).look_at_all(seen.concerned)
    assert foreseen.action is not None
    assert foreseen.action.reason is Reason.PATH_COLLISION
    request = fleet.rig.journal.ask(FIRST, "ci", asked())
    fleet.fleet.serve(fleet.rig.journal.request(request))
    assert fleet.rig.journal.request(request).reason == Reason.PATH_COLLISION
    assert fleet.written == 0


def test_users_of_different_names_share_a_folder_in_peace() -> None:
    fleet = TwoAccounts()
    fleet.add(FIRST, "ci")
    fleet.add(SECOND, "cd")
    fleet.scan(FIRST, SECOND)
    assert fleet.world.counts["vault.publish"] == 2


def test_an_account_that_cannot_be_listed_holds_back_only_places_that_it_could_share() -> None:
    fleet = TwoAccounts()
    for account_id in (FIRST, THIRD):
        fleet.add(account_id, "ci")
    fleet.world.account(SECOND).denied.add("list_users")
    fleet.scan(FIRST, THIRD)
    assert fleet.reason(FIRST, "ci") == Reason.PATH_UNCERTAIN
    assert fleet.reason(THIRD, "ci") != Reason.PATH_UNCERTAIN
    assert fleet.world.counts["vault.publish"] == 1, "the third account's path has its number"
    fleet.world.account(SECOND).denied.clear()
    fleet.scan(FIRST)
    assert fleet.world.counts["vault.publish"] == 2


def test_a_pair_that_stands_there_already_goes_on_without_the_other_account() -> None:
    fleet = TwoAccounts()
    fleet.add(FIRST, "ci")
    fleet.scan(FIRST)
    fleet.start()
    fleet.world.account(SECOND).denied.add("list_users")
    fleet.world.clock.advance(timedelta(hours=2))
    fleet.scan(FIRST)
    assert fleet.reason(FIRST, "ci") == Reason.IN_OVERLAP


def test_other_accounts_are_listed_once_and_only_for_shared_places() -> None:
    fleet = TwoAccounts()
    fleet.add(THIRD, "ci")
    fleet.scan(THIRD)
    assert fleet.world.counts["iam.list_users"] == 1
    fleet.add(FIRST, "a")
    fleet.add(FIRST, "b")
    fleet.scan(FIRST, FIRST)
    assert fleet.world.counts["iam.list_users"] == 4, "the first account twice, the second once"


SHARERS: dict[str, tuple[str, str, bool]] = {
    "the same template": ("team/{user_name}", "team/{user_name}", True),
    "the same but for case": ("team/{user_name}", "Team/{user_name}", True),
    "another folder": ("team/{user_name}", "crew/{user_name}", False),
    "a folder below": ("team/{user_name}", "team/x/{user_name}", False),
    "IAM's path may be empty": ("team/{user_name}", "team/{user_path}/{user_name}", True),
    "IAM's path elsewhere": ("team/{user_name}", "crew/{user_path}/{user_name}", False),
    "text beside the name that may be part of it": ("team/{user_name}", "team/x-{user_name}", True),
    "text that a placeholder may stand for": ("{partition}/{user_name}", "aws/{user_name}", True),
    "text that no name fits": ("a-{partition}/{user_name}", "b/{user_name}", False),
    "another account's number written out": (f"aws/{SECOND}/{{user_name}}", "aws/{account_id}/{user_name}", True),
    "its own number written out": (f"aws/{FIRST}/{{user_name}}", "aws/{account_id}/{user_name}", False),
    "a path with the number is nobody else's": ("aws/{account_id}/{user_name}", "aws/{user_path}/{user_name}", False),
}


@pytest.mark.parametrize("case", SHARERS.items(), ids=lambda case: case[0])
def test_which_accounts_could_share_a_place(case: tuple[str, tuple[str, str, bool]]) -> None:
    mine, theirs, share = case[1]
    read = config.parse(ACCOUNTS + VAULT + policy("mine", mine, FIRST) + policy("theirs", theirs, SECOND), {})
    places = Places(read, policies_of(read), partition=lambda: "aws", alias_of=lambda _: None)
    sharers = places.sharers_of(_user(), lambda: (FIRST, SECOND, THIRD))
    assert sharers == (frozenset({SECOND}) if share else frozenset())


@pytest.mark.parametrize("setting", ['mount = "kv"', 'namespace = "payments"'])
def test_another_mount_or_namespace_is_another_place(setting: str) -> None:
    text = policy("mine", "team/{user_name}", FIRST) + policy("theirs", "team/{user_name}", SECOND, setting)
    read = config.parse(ACCOUNTS + VAULT + text, {})
    places = Places(read, policies_of(read), partition=lambda: "aws", alias_of=lambda _: None)
    assert places.sharers_of(_user(), lambda: (FIRST, SECOND, THIRD)) == frozenset()


def _user() -> Principal:
    return Principal(
        account_id=FIRST, user_name="ci", user_id=UserId("AIDACI"), path="/", arn=f"arn:aws:iam::{FIRST}:user/ci"
    )
