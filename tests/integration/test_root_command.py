"""`rekeyd root` over an emulated organization: what it shows, and every way in which it must not delete."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import open_journal
from rekeyd.cli.main import ended_with
from rekeyd.core.findings import FindingReason, found
from rekeyd.core.model import AccountId
from rekeyd.demo.emulator import Drop, EmulatedAws
from rekeyd.ports import Alarm
from tests.secret_registry import write_secret

pytestmark = pytest.mark.slow

HUB = "111122223333"
SHOP, BANK, LAB = "222233334444", "333344445555", "444455556666"
DAY = timedelta(days=1)

CONFIG = """
[aws.organization]
role_name = "rekeyd"
[vault]
address = "http://127.0.0.1:1"
[vault.auth]
token_file = "{token}"
[journal]
url = "sqlite:///{folder}/journal.db"
"""


class Desk:
    """A person's terminal: commands in this process, against the emulator."""

    def __init__(self, aws: EmulatedAws, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.aws = aws
        self.folder = folder
        self._capsys = capsys
        self.operator = aws.add_role(HUB, "root-cleanup")
        self.err = ""

    @property
    def config(self) -> tuple[str, str]:
        return "--config", str(self.folder / "config.toml")

    def run(self, *arguments: str) -> tuple[int, Any]:
        code, out = self.shown(*arguments, "--json")
        return code, json.loads(out)

    def shown(self, *arguments: str) -> tuple[int, str]:
        """As people see it."""
        self._capsys.readouterr()
        code = ended_with([*arguments, *self.config])
        said = self._capsys.readouterr()
        self.err = said.err
        return code, said.out

    def delete(self, account_id: str, *more: str) -> tuple[int, Any]:
        """By the operator's role, unless `more` names another one."""
        named = () if "--operator-role-arn" in more else ("--operator-role-arn", self.operator)
        return self.run("root", "delete-keys", "--account", account_id, *named, *more)

    def type_at_a_terminal(self, account_id: str, typed: str) -> tuple[int, str]:
        """The installed program deletes, and somebody types this when asked; returns what was said."""
        master, slave = pty.openpty()
        try:
            program = Path(sys.executable).with_name("rekeyd")
            command = ["root", "delete-keys", "--account", account_id, "--operator-role-arn", self.operator]
            process = subprocess.Popen(
                [program, *command, *self.config], stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            os.write(master, f"{typed}\n".encode())
            said, _ = process.communicate(timeout=90)
        finally:
            os.close(master)
            os.close(slave)
        return process.returncode, said.decode()

    def events(self) -> list[Any]:
        url = f"sqlite:///{self.folder}/journal.db"
        with open_journal(url, instance="default", clock=SystemClock(), read_only=True) as journal:
            return [event for event in journal.history() if event.event.startswith("root_key.")]

    def keys_left(self, account_id: str) -> int:
        return len(self.aws.world.keys_of(account_id, None))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    write_secret(tmp_path / "token", "not-a-token-of-anything")
    (tmp_path / "config.toml").write_text(CONFIG.format(token=tmp_path / "token", folder=tmp_path))
    with EmulatedAws(hub=HUB) as aws:
        aws.create_organization({SHOP: "shop", BANK: "bank", LAB: "lab"}, root_access=True)
        for account_id in (SHOP, BANK, LAB):
            aws.add_role(account_id, "rekeyd")
        now = SystemClock().now()
        aws.add_root_key(SHOP, last_used_at=now - 200 * DAY)
        aws.world.date_key(aws.world.keys_of(SHOP, None)[0], now - 400 * DAY)
        aws.add_root_key(BANK, last_used_at=now - 3 * DAY)
        aws.world.date_key(aws.world.keys_of(BANK, None)[0], now - 400 * DAY)
        for name, value in aws.daemon_environment().items():
            monkeypatch.setenv(name, value)
        yield Desk(aws, tmp_path, capsys)


def test_the_audit_shows_every_account_and_enters_members_by_root_session(desk: Desk) -> None:
    code, shown = desk.run("root", "audit")
    assert code == 3
    assert shown["centralized_root_access"] is True
    by_account = {each["account_id"]: each for each in shown["accounts"]}
    assert {account_id: each["via"] for account_id, each in by_account.items()} == {
        HUB: "role",
        SHOP: "root session",
        BANK: "root session",
        LAB: "root session",
    }
    (key,) = by_account[SHOP]["keys"]
    assert key["access_key_id"].startswith("AKIA")
    assert (key["status"], key["age_days"]) == ("Active", 400)
    assert key["last_used_at"] is not None
    assert by_account[LAB]["keys"] == by_account[HUB]["keys"] == []
    assert {type(by_account[LAB][name]) for name in ("password", "mfa")} == {bool}


def test_the_audit_costs_four_calls_for_an_account_with_a_key_and_three_for_one_without(desk: Desk) -> None:
    desk.run("root", "audit")
    calls = dict.fromkeys((SHOP, LAB), 0)
    for request in desk.aws.requests:
        if request.account_id in calls:
            calls[request.account_id] += 1
    # And AssumeRoot for each, which the hub's own credentials ask for.
    assert calls == {SHOP: 3, LAB: 2}


def test_without_centralized_root_access_members_are_entered_by_their_role(desk: Desk) -> None:
    desk.aws.create_organization({SHOP: "shop", BANK: "bank", LAB: "lab"}, root_access=False)
    code, shown = desk.run("root", "audit")
    assert code == 3
    assert shown["centralized_root_access"] is False
    by_account = {each["account_id"]: each for each in shown["accounts"]}
    assert by_account[SHOP]["via"] == "role"
    assert [key["access_key_id"] for key in by_account[SHOP]["keys"]] == [None]
    assert by_account[LAB]["keys"] == []


def test_where_no_root_session_is_given_the_role_tells_as_much_as_it_can(desk: Desk) -> None:
    desk.aws.deny(HUB, "AssumeRoot")
    code, shown = desk.run("root", "audit")
    assert code == 3
    by_account = {each["account_id"]: each for each in shown["accounts"]}
    assert {each["via"] for each in shown["accounts"]} == {"role"}
    assert {each["error"] for each in shown["accounts"]} == {None}
    assert [len(by_account[each]["keys"]) for each in (SHOP, BANK, LAB)] == [1, 1, 0]
    assert "sts:AssumeRoot" in desk.err


def test_the_table_says_what_is_known_of_each_key(desk: Desk) -> None:
    desk.aws.set_root(SHOP, password=True, certificate=True)
    code, by_session = desk.shown("root", "audit", "--account", SHOP)
    assert code == 3
    (key,) = desk.aws.world.keys_of(SHOP, None)
    used = f"{key.uses[-1].at:%Y-%m-%dT%H:%M:%SZ}"
    for text in (f"{key.id} Active, 400d old, last used {used} (iam)", "root session", "yes"):
        assert text in by_session
    desk.aws.create_organization({SHOP: "shop", BANK: "bank", LAB: "lab"}, root_access=False)
    code, by_role = desk.shown("root", "audit", "--account", SHOP)
    assert code == 3
    assert f"key Active, 400d old, last used {used} (iam)" in by_role
    for table in (by_session, by_role):
        (row,) = [line for line in table.splitlines() if SHOP in line]
        # Password, MFA, certificates.
        assert row.split()[-3:] == ["yes", "yes", "yes"]
    assert "centralized root access is off" in desk.err


def test_certificates_are_told_by_the_role_too(desk: Desk) -> None:
    desk.aws.create_organization({SHOP: "shop", BANK: "bank", LAB: "lab"}, root_access=False)
    desk.aws.set_root(BANK, certificate=True)
    _, shown = desk.run("root", "audit")
    assert {each["account_id"]: each["certificates"] for each in shown["accounts"]} == {
        HUB: False,
        SHOP: False,
        BANK: True,
        LAB: False,
    }


def test_a_key_stays_known_when_the_report_that_would_tell_more_cannot_be_read(desk: Desk) -> None:
    desk.aws.create_organization({SHOP: "shop", BANK: "bank", LAB: "lab"}, root_access=False)
    desk.aws.deny(SHOP, "GetCredentialReport")
    desk.aws.deny(SHOP, "GenerateCredentialReport")
    code, shown = desk.run("root", "audit", "--account", SHOP)
    assert code == 3
    (only,) = shown["accounts"]
    assert only["keys"] == [dict.fromkeys(only["keys"][0])]
    assert "CredentialReport" in only["error"]
    assert "key: status, age and last use unknown" in desk.shown("root", "audit", "--account", SHOP)[1]


def test_nothing_is_made_up_about_a_key_that_the_report_does_not_list_yet(desk: Desk) -> None:
    desk.aws.create_organization({SHOP: "shop", BANK: "bank", LAB: "lab"}, root_access=False)
    iam = desk.aws.client("iam", LAB)
    iam.generate_credential_report()
    desk.aws.add_root_key(LAB)
    code, shown = desk.run("root", "audit", "--account", LAB)
    (only,) = shown["accounts"]
    assert (code, only["error"]) == (3, None)
    assert [(key["status"], key["age_days"], key["last_used_at"]) for key in only["keys"]] == [(None, None, None)]


def test_an_account_that_cannot_be_entered_is_said_and_is_not_clear(desk: Desk) -> None:
    desk.aws.deny(LAB, "ListAccessKeys")
    code, shown = desk.run("root", "audit", "--account", LAB)
    assert code == 1
    (only,) = shown["accounts"]
    assert only["error"].startswith("iam:ListAccessKeys for 444455556666/root was refused")


def test_deleting_removes_exactly_the_keys_of_the_named_account(desk: Desk) -> None:
    code, said = desk.delete(SHOP, "--confirm", SHOP)
    assert code == 0
    assert len(said["deleted"]) == 1
    assert (desk.keys_left(SHOP), desk.keys_left(BANK)) == (0, 1)
    assert f"{said['deleted'][0]} Active, 400d old, last used" in desk.err
    code, again = desk.delete(SHOP, "--confirm", SHOP)
    assert (code, again["deleted"]) == (0, [])


def test_two_keys_go_in_one_command_whatever_their_status(desk: Desk) -> None:
    desk.aws.add_root_key(SHOP, active=False)
    second = desk.aws.world.keys_of(SHOP, None)[1]
    desk.aws.world.date_key(second, SystemClock().now() - 300 * DAY)
    code, said = desk.delete(SHOP, "--confirm", SHOP)
    assert (code, len(said["deleted"]), desk.keys_left(SHOP)) == (0, 2, 0)
    assert f"{second.id} Inactive, 300d old, no use on record" in desk.err
    assert [event.event for event in desk.events()] == ["root_key.delete_intended", "root_key.deleted"] * 2


def test_that_there_is_no_undo_is_said_before_whether_or_not_somebody_is_asked(desk: Desk) -> None:
    desk.delete(SHOP, "--confirm", BANK)
    assert "There is no undo" in desk.err
    code, said = desk.type_at_a_terminal(SHOP, BANK)
    assert (code, desk.keys_left(SHOP)) == (2, 1)
    assert "There is no undo" in said.partition("Type the account id")[0]
    assert f'"{BANK}" is not the account id {SHOP}; nothing was deleted' in said


def test_typing_the_account_id_at_a_terminal_deletes(desk: Desk) -> None:
    code, said = desk.type_at_a_terminal(SHOP, SHOP)
    assert (code, desk.keys_left(SHOP)) == (0, 0)
    assert f"deleted: 1 access key of the root user of account {SHOP}" in said


def test_a_deletion_whose_answer_is_lost_is_looked_up(desk: Desk) -> None:
    desk.aws.fault("DeleteAccessKey", when="after", do=Drop())
    code, said = desk.delete(SHOP, "--confirm", SHOP)
    assert (code, len(said["deleted"]), desk.keys_left(SHOP)) == (0, 1, 0)
    assert [event.event for event in desk.events()] == ["root_key.delete_intended", "root_key.deleted"]


def test_a_deletion_that_never_arrived_is_said_and_can_be_asked_for_again(desk: Desk) -> None:
    desk.aws.fault("DeleteAccessKey", when="before", do=Drop())
    code, said = desk.delete(SHOP, "--confirm", SHOP)
    assert (code, said["error"]["code"], desk.keys_left(SHOP)) == (1, "outcome_unknown", 1)
    assert [event.event for event in desk.events()] == ["root_key.delete_intended"]
    assert desk.delete(SHOP, "--confirm", SHOP)[0] == 0


def test_rekeyds_own_credentials_delete_nothing(desk: Desk) -> None:
    code, said = desk.run("root", "delete-keys", "--account", SHOP, "--confirm", SHOP)
    assert (code, "can act as rekeyd in account" in said["error"]["message"]) == (4, True)
    assert "--operator-role-arn" in said["error"]["hint"]
    code, said = desk.delete(SHOP, "--confirm", SHOP, "--operator-role-arn", f"arn:aws:iam::{SHOP}:role/rekeyd")
    assert (code, "is rekeyd's own" in said["error"]["message"]) == (4, True)
    assert desk.keys_left(SHOP) == 1
    assert not [request for request in desk.aws.requests if request.op == "AssumeRoot"]


def test_a_person_who_cannot_act_as_rekeyd_needs_no_other_role(desk: Desk) -> None:
    desk.aws.deny(HUB, "AssumeRole")
    code, said = desk.run("root", "delete-keys", "--account", SHOP, "--confirm", SHOP)
    assert (code, len(said["deleted"]), desk.keys_left(SHOP)) == (0, 1, 0)


def test_a_deletion_is_in_the_audit_trail_before_and_after(desk: Desk) -> None:
    _, said = desk.delete(SHOP, "--confirm", SHOP)
    events = desk.events()
    assert [event.event for event in events] == ["root_key.delete_intended", "root_key.deleted"]
    assert {event.access_key_id for event in events} == set(said["deleted"])
    assert all(event.actor.startswith("user:") and event.account_id == SHOP for event in events)


WRONG_WAYS: dict[str, tuple[str, tuple[str, ...], int, str]] = {
    "a key that was used recently": (BANK, ("--confirm", BANK), 4, "used, or made, within the last 90d"),
    "another account's id typed": (SHOP, ("--confirm", BANK), 2, f'"{BANK}" is not the account id {SHOP}'),
    "nobody there to type it": (SHOP, (), 2, "there is no terminal"),
    "the management account": (HUB, ("--confirm", HUB), 4, "cannot be entered from outside"),
}


@pytest.mark.parametrize("wrong", WRONG_WAYS)
def test_nothing_is_deleted_in_a_wrong_way(desk: Desk, wrong: str) -> None:
    account_id, options, code, message = WRONG_WAYS[wrong]
    desk.aws.add_root_key(HUB)
    ended, said = desk.delete(account_id, *options)
    assert ended == code
    assert message in said["error"]["message"]
    assert (desk.keys_left(SHOP), desk.keys_left(BANK), desk.keys_left(HUB)) == (1, 1, 1)
    assert not [request for request in desk.aws.requests if request.op == "DeleteAccessKey"]


def test_the_management_account_gets_the_steps_to_take_by_hand(desk: Desk) -> None:
    _, said = desk.delete(HUB, "--confirm", HUB)
    assert "Security credentials > Access keys" in said["error"]["hint"]


def test_a_used_key_is_deleted_only_when_that_is_said(desk: Desk) -> None:
    code, _ = desk.delete(BANK, "--confirm", BANK, "--force-used")
    assert code == 0
    assert desk.keys_left(BANK) == 0


def test_a_key_just_made_counts_as_used(desk: Desk) -> None:
    desk.aws.add_root_key(LAB)
    code, said = desk.delete(LAB, "--confirm", LAB)
    assert code == 4
    assert "used, or made" in said["error"]["message"]


def test_a_role_that_may_not_enter_root_users_deletes_nothing(desk: Desk) -> None:
    desk.aws.deny(HUB, "AssumeRoot")
    code, said = desk.delete(SHOP, "--confirm", SHOP)
    assert code == 1
    assert said["error"]["code"] == "access_denied"
    assert "sign in as its root user" in said["error"]["hint"]
    assert desk.keys_left(SHOP) == 1


@pytest.mark.parametrize("purpose", ["root-cleanup", "revoke-sessions"])
def test_a_person_gets_a_policy_of_their_own(desk: Desk, purpose: str) -> None:
    code, said = desk.run("policy", "aws", "--for", purpose)
    assert code == 0
    actions = {action for each in json.loads(said["document"])["Statement"] for action in each["Action"]}
    daemons = json.loads(desk.run("policy", "aws")[1]["document"])
    allowed = {a for each in daemons["Statement"] if each["Effect"] == "Allow" for a in each["Action"]}
    dangerous = {"sts:AssumeRoot", "iam:PutUserPolicy"}
    assert actions & dangerous
    assert not allowed & dangerous


# --- alarms, on the same desk ----------------------------------------------------------------------------------------


def test_a_key_in_wrong_hands_is_an_alarm_that_can_be_acknowledged_for_a_while(desk: Desk) -> None:
    user = desk.aws.create_user(HUB, "ci", key_age=DAY)
    code, said = desk.run("alarms", "raise", "exposed", user.key.access_key_id, "--because", "seen in a paste")
    assert code == 0
    assert said["exposed"] == {"account_id": HUB, "user_name": "ci", "access_key_id": user.key.access_key_id}
    code, listed = desk.run("alarms", "list")
    assert code == 3
    (alarm,) = listed["alarms"]
    assert (alarm["reason"], alarm["state"]) == ("key_exposed", "firing")
    assert "seen in a paste" in alarm["message"]

    code, said = desk.run("alarms", "ack", alarm["id"], "--for", "2d", "--because", "rotating it now")
    assert code == 0
    assert said["alarm"]["state"] == "acknowledged"
    code, listed = desk.run("alarms")
    assert code == 3, "acknowledged is not over"
    assert listed["alarms"][0]["acknowledged_because"] == "rotating it now"
    code, audited = desk.run("audit", "--account", HUB)
    (known,) = [each for each in audited["findings"] if each["severity"] == "critical"]
    assert (code, known["reason"], known["acknowledged_because"]) == (3, "key_exposed", "rotating it now")

    code, said = desk.run("alarms", "ack", alarm["id"], "--for", "91d", "--because", "later")
    assert (code, "the most for this alarm" in said["error"]["message"]) == (2, True)
    assert desk.run("alarms", "ack", "0" * 16, "--because", "?")[0] == 2
    assert desk.run("alarms", "ack", alarm["id"], "--because", " ")[0] == 2


@pytest.mark.parametrize("reason", ["root_access_key", "root_unreadable", "credentials_exposed"])
def test_a_root_alarm_is_acknowledged_for_seven_days_at_most_and_stays_as_red_as_it_was(
    desk: Desk, reason: str
) -> None:
    now = SystemClock().now()
    finding = found(FindingReason(reason), account_id=AccountId(SHOP))
    alarm = Alarm(
        fingerprint=finding.fingerprint,
        severity=finding.severity.value,
        reason=reason,
        account_id=AccountId(SHOP),
        principal=None,
        message=finding.message,
        remedy=finding.remedy,
        cis=finding.cis,
        first_seen_at=now,
        last_seen_at=now,
        notified_at=now,
    )
    journal = open_journal(f"sqlite:///{desk.folder}/journal.db", instance="default", clock=SystemClock())
    journal.save_alarm(alarm)
    journal.close()
    for longer in ("8d", "169h"):
        code, said = desk.run("alarms", "ack", alarm.fingerprint, "--for", longer, "--because", "we know")
        assert (code, "is more than 7d" in said["error"]["message"]) == (2, True), said
    code, said = desk.run("alarms", "ack", alarm.fingerprint, "--for", "7d", "--because", "we know")
    assert (code, said["alarm"]["state"], said["alarm"]["severity"]) == (0, "acknowledged", "critical")
    for shown in (("alarms",), ("status",)):
        code, said = desk.run(*shown)
        (seen,) = said["alarms" if shown == ("alarms",) else "findings"]
        assert (code, seen["severity"], seen["reason"]) == (3, "critical", reason)


def test_whose_key_it_is_may_have_to_be_said_by_account(desk: Desk) -> None:
    key_id = desk.aws.create_user(HUB, "ci", key_age=DAY).key.access_key_id
    desk.aws.deny(HUB, "GetAccessKeyInfo")
    code, said = desk.run("alarms", "raise", "exposed", key_id)
    assert (code, said["error"]["hint"]) == (1, "name the account: --account ID")
    assert desk.run("alarms", "raise", "exposed", key_id, "--account", HUB)[0] == 0


def test_a_root_key_is_not_raised_as_a_users(desk: Desk) -> None:
    key_id = desk.aws.world.keys_of(SHOP, None)[0].id
    code, said = desk.run("alarms", "raise", "exposed", key_id)
    assert code == 4
    assert "is the root user's" in said["error"]["message"]


def test_without_channels_the_test_says_so(desk: Desk) -> None:
    assert desk.run("alarms", "test") == (0, {"schema_version": 1, "channels": []})
