"""The other commands, as an operator runs them: documents, exit codes, and what they leave alone."""

import json
import os
import sqlite3
from datetime import datetime, timedelta
from typing import Any

import pytest

from rekeyd.demo.emulator import HUB
from tests.acceptance.stand import Stand
from tests.secret_registry import remember, write_secret

FINDING_FIELDS = {
    *("severity", "reason", "account_id", "principal", "message", "remedy", "cis", "first_seen_at", "last_seen_at"),
}
WRITES = ("CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey")


def _changes(stand: Stand) -> list[str]:
    return [call.op for call in stand.aws.calls() if call.op in WRITES]


def _is_utc(text: Any) -> bool:
    return isinstance(text, str) and text.endswith("Z") and datetime.fromisoformat(text).tzinfo is not None


# --- plan, explain, audit: live --------------------------------------------------------------------------------------


def test_plan_shows_the_next_action_of_every_managed_user(stand: Stand) -> None:
    stand.user("due")
    stand.user("young", key_age=timedelta(days=3))
    stand.user("new", held=False)
    stand.user("odd")
    stand.aws.add_key(HUB, "odd")
    ran = stand.run("plan", "--json")
    assert ran.code == 0
    actions = ran.document["actions"]
    assert ran.document["schema_version"] == 1
    assert all(set(a) == {"account_id", "user_name", "action", "reason", "message", "at", "policy"} for a in actions)
    assert {a["user_name"]: (a["action"], a["reason"]) for a in actions} == {
        "due": ("open_rotation", "due"),
        "young": ("wait", "not_due"),
        "new": ("refuse", "unmanaged"),
        "odd": ("refuse", "stray_key"),
    }
    assert {a["user_name"]: _is_utc(a["at"]) for a in actions} == {
        "due": True,
        "young": True,
        "new": False,
        "odd": False,
    }
    assert _changes(stand) == []
    assert not stand.journal.exists()


def test_plan_goes_on_when_one_user_cannot_be_looked_at(stand: Stand) -> None:
    stand.user("dark")
    stand.user("light")
    stand.aws.deny(HUB, "ListAccessKeys", user="dark")
    ran = stand.run("plan", "--json")
    assert ran.code == 1
    actions = {a["user_name"]: a["action"] for a in ran.document["actions"]}
    assert actions == {"dark": "look_failed", "light": "open_rotation"}


def test_explain_tells_what_is_seen_why_and_what_a_person_can_do(stand: Stand) -> None:
    user = stand.user("odd")
    stray = stand.aws.add_key(HUB, "odd", age=timedelta(days=4))
    ran = stand.run("explain", "odd")
    assert ran.code == 0
    for told in (user.key.access_key_id, stray.access_key_id, "held: Vault serves it", '"default"', "never used"):
        assert told in ran.out
    assert f"--replace {stray.access_key_id}" in ran.out
    document = stand.run("explain", "odd", "--json").document
    assert (document["action"], document["reason"]) == ("refuse", "stray_key")
    assert document["held_access_key_id"] == user.key.access_key_id
    assert _changes(stand) == []


@pytest.mark.parametrize("active", [True, False], ids=["active", "inactive"])
def test_audit_exits_3_for_a_root_key(stand: Stand, *, active: bool) -> None:
    stand.user("young", key_age=timedelta(days=3))
    assert stand.run("audit").code == 0
    stand.aws.add_root_key(HUB, active=active)
    ran = stand.run("audit", "--json")
    assert ran.code == 3
    findings = ran.document["findings"]
    assert all(set(finding) == FINDING_FIELDS for finding in findings)
    critical = [finding for finding in findings if finding["severity"] == "critical"]
    assert [finding["reason"] for finding in critical] == ["root_access_key"]
    assert critical[0]["account_id"] == HUB
    assert critical[0]["cis"]
    assert _is_utc(critical[0]["first_seen_at"])


def test_audit_that_may_not_see_the_root_user_is_not_clear(stand: Stand) -> None:
    stand.user("young", key_age=timedelta(days=3))
    stand.aws.deny(HUB, "GetAccountSummary")
    ran = stand.run("audit", "--json")
    assert ran.code == 3
    assert "root_unreadable" in [finding["reason"] for finding in ran.document["findings"]]


def test_audit_finds_a_dead_held_key(stand: Stand) -> None:
    user = stand.user("ci", key_age=timedelta(days=3))
    stand.aws.deactivate_key(user.key.access_key_id)
    ran = stand.run("audit", "--json")
    assert ran.code == 3
    assert ("ci", "held_key_dead") in [(f["principal"], f["reason"]) for f in ran.document["findings"]]
    assert _changes(stand) == []


# --- status, history, brake: the journal ------------------------------------------------------------------------------


def test_status_reads_the_journal_and_says_as_of_when(stand: Stand) -> None:
    stand.user("ci")
    new = stand.run("rotate-now", "ci", "--json").document["rotations"][0]["new_access_key_id"]
    calls = len(stand.aws.requests)
    ran = stand.run("status", "--json")
    assert ran.code == 0
    assert len(stand.aws.requests) == calls
    assert set(ran.document) == {"schema_version", "as_of", "principals", "findings", "accounts"}
    assert _is_utc(ran.document["as_of"])
    (principal,) = ran.document["principals"]
    assert set(principal) == {
        *("account_id", "user_name", "policy", "state", "reason", "message", "held_access_key_id"),
        *("old_access_key_id", "age_days", "next_at"),
    }
    assert principal["held_access_key_id"] == new


def test_status_exits_3_while_a_critical_alarm_is_open(stand: Stand) -> None:
    stand.user("ci", key_age=timedelta(days=3))
    stand.aws.add_root_key(HUB, active=False)
    with stand.daemon() as daemon:
        daemon.wait_for_event("root_key.present")
        ran = stand.run("status", "--json")
    assert ran.code == 3
    (finding,) = [f for f in ran.document["findings"] if f["severity"] == "critical"]
    assert set(finding) == FINDING_FIELDS
    assert finding["reason"] == "root_access_key"
    (account,) = ran.document["accounts"]
    assert set(account) == {
        *("account_id", "alias", "state", "message", "last_pass_at", "principals", "due"),
    }
    alarms = stand.run("alarms", "--json")
    assert alarms.code == 3
    assert "root_access_key" in [alarm["reason"] for alarm in alarms.document["alarms"]]


def test_status_without_a_journal_says_so(stand: Stand) -> None:
    ran = stand.run("status", "--json")
    assert ran.code == 1
    assert ran.document["error"]["code"] == "journal"


def test_history_tells_who_did_what_and_verifies_it(stand: Stand) -> None:
    stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    ran = stand.run("history", "--json", "--verify")
    assert ran.code == 0
    events = ran.document["events"]
    assert all(
        set(e)
        == {
            *("at", "actor", "account_id", "user_name", "rotation_id", "event", "access_key_id", "reason", "hash"),
        }
        for e in events
    )
    names = [event["event"] for event in events]
    order = [names.index(n) for n in ("rotation.asked", "key.requested", "key.created", "key.published")]
    assert order == sorted(order)
    assert {e["actor"].split(":")[0] for e in events if e["event"] == "rotation.asked"} == {"user"}
    assert ran.document["verified"]["whole"] is True


def test_history_finds_an_entry_that_was_changed_by_another_hand(stand: Stand) -> None:
    stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    with sqlite3.connect(stand.journal) as journal:
        for (name,) in journal.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            journal.execute(f'drop trigger "{name}"')
        journal.execute("update event set actor = 'user:nobody' where event = 'key.created'")
    journal.close()
    ran = stand.run("history", "--verify", "--json")
    assert ran.code == 4
    assert ran.document["verified"]["broken_at"] is not None


def test_history_since_and_limit_choose_the_newest(stand: Stand) -> None:
    stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    assert len(stand.run("history", "--limit", "2", "--json").document["events"]) == 2
    assert stand.run("history", "--since", "2999-01-01", "--json").document["events"] == []
    assert stand.run("history", "--since", "soon").code == 2


def test_no_brake_is_shown_and_released(stand: Stand) -> None:
    stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    assert stand.run("brake", "show", "--json").document == {"schema_version": 1, "brakes": []}
    assert stand.run("brake", "release", "--json").document == {"schema_version": 1, "brakes": []}


# --- config and policy ------------------------------------------------------------------------------------------


def test_a_wrong_configuration_names_every_mistake_with_its_place(stand: Stand) -> None:
    stand.write_config({"max_age": "20d", "overlap": "9d", "quarantine": "3d", "adpot": "at-once"}, mode="enforced")
    ran = stand.run("rotate-now", "ci")
    assert ran.code == 2
    assert "3 mistakes" in ran.err
    for told in ("adpot", "did you mean adopt?", "enforced", "max_age", f"{stand.config}:"):
        assert told in ran.err
    checked = stand.run("config", "check", "--json")
    assert checked.code == 2
    assert checked.document["error"]["code"] == "configuration"
    problems = checked.document["problems"]
    assert {p["key"] for p in problems} == {"policies[0].max_age", "policies[0].adpot", "fleet.mode"}
    assert all(p["line"] for p in problems)
    assert stand.run("run").code == 2


def test_the_configuration_to_begin_with_is_valid(stand: Stand) -> None:
    written = stand.run("config", "init")
    assert written.code == 0
    path = stand.folder / "first.toml"
    path.write_text(written.out)
    ran = stand.run("config", "check", "--config", str(path))
    assert ran.code == 0, ran.err
    assert 'mode = "observe"' in written.out


def test_the_settings_in_force_can_be_read_back(stand: Stand) -> None:
    ran = stand.run("config", "show", env={"REKEYD_AWS__SETTLE": "7s"})
    assert 'settle = "7s"' in ran.out
    path = stand.folder / "shown.toml"
    path.write_text(ran.out)
    assert stand.run("config", "show", "--config", str(path)).out == ran.out
    assert stand.run("config", "show", "--json").document["config"]["aws"]["settle"] == "0.3s"


def test_the_schema_is_json_schema(stand: Stand) -> None:
    assert stand.run("config", "schema").document["$schema"].startswith("https://json-schema.org/")


def test_the_printed_vault_policy_is_enough_for_a_whole_rotation(stand: Stand) -> None:
    printed = stand.run("policy", "vault")
    assert printed.code == 0
    stand.bao.write_policy(f"printed-{stand.mount}", printed.out)
    token = remember(stand.bao.create_token([f"printed-{stand.mount}"]))
    write_secret(stand.token_file, token)
    stand.user("ci")
    ran = stand.run("rotate-now", "ci", "--wait", "--json")
    assert ran.document["rotations"][0]["outcome"] == "retired", ran.err
    assert stand.serves_a_live_pair("ci")
    assert stand.run("history", "--verify", "--json").document["verified"]["whole"] is True


def test_the_printed_iam_policy_is_a_document_of_iam(stand: Stand) -> None:
    ran = stand.run("policy", "aws", "--account", HUB)
    assert ran.code == 0
    assert ran.document["Version"] == "2012-10-17"
    assert "Deny" in {statement["Effect"] for statement in ran.document["Statement"]}
    wrapped = stand.run("policy", "aws", "--json").document
    assert json.loads(wrapped["document"])["Version"] == "2012-10-17"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_unix_user_is_told_the_command_to_use(stand: Stand) -> None:
    stand.user("ci")
    stand.journal.parent.mkdir()
    stand.journal.touch()
    os.chown(stand.journal, 65534, 65534)
    ran = stand.run("rotate-now", "ci", "--json")
    assert ran.code == 2
    assert ran.document["error"]["hint"] == "sudo -u nobody rekeyd rotate-now ci --json"
    assert stand.aws.calls("CreateAccessKey") == []
