"""`rekeyd rotate-now` and `rollback` as an operator runs them, without a daemon."""

import re
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.demo.emulator import HUB, Drop
from tests.acceptance.stand import Ran, Running, Stand, eventually

OTHER = "444455556666"
YOUNG = timedelta(days=3)

ROTATION_FIELDS = {
    *("account_id", "user_name", "outcome", "reason", "message", "rotation_id", "old_access_key_id"),
    *("new_access_key_id", "vault_path", "vault_version"),
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def _rotation(ran: Ran) -> dict[str, object]:
    (rotation,) = ran.document["rotations"]
    assert set(rotation) == ROTATION_FIELDS
    assert ran.document["schema_version"] == 1
    return dict(rotation)


def _in_the_middle(stand: Stand, name: str) -> Running:
    """A rotate-now that made its key and will not look at it for a while, longer than any other command takes."""
    stand.write_config({"verify_first": "8s"})
    stand.user(name)
    running = stand.start("rotate-now", name)
    eventually(lambda: stand.aws.calls("CreateAccessKey"), "the key is created", alive=running)
    return running


def test_a_held_key_of_120_days_is_replaced_and_stays_active(stand: Stand) -> None:
    user = stand.user("ci", key_age=timedelta(days=120))
    ran = stand.run("rotate-now", "ci", "--json")
    rotation = _rotation(ran)
    assert ran.code == 0
    assert rotation["outcome"] == "published"
    assert rotation["old_access_key_id"] == user.key.access_key_id
    assert rotation["new_access_key_id"] == stand.held_id("ci") != user.key.access_key_id
    assert rotation["vault_path"] == f"{stand.mount}/aws/{HUB}/ci"
    held = stand.held("ci")
    assert held is not None
    assert held.version == rotation["vault_version"] == 2
    assert stand.serves_a_live_pair("ci")
    assert stand.statuses("ci") == ["Active", "Active"]
    assert len(stand.aws.calls("CreateAccessKey")) == 1


def test_a_young_key_is_rotated_when_somebody_asks(stand: Stand) -> None:
    stand.user("ci", key_age=YOUNG)
    assert stand.run("rotate-now", "ci").code == 0
    assert stand.serves_a_live_pair("ci")


def test_options_are_taken_before_and_after_the_command(stand: Stand) -> None:
    stand.user("ci")
    ran = stand.run("--json", "--log-level", "error", "rotate-now", "ci", "--config", str(stand.config))
    assert ran.code == 0
    assert _rotation(ran)["outcome"] == "published"
    assert ran.err == ""


def test_a_user_that_vault_does_not_know_is_taken_over(stand: Stand) -> None:
    user = stand.user("new", held=False)
    ran = stand.run("rotate-now", "new", "--json")
    assert ran.code == 0
    assert _rotation(ran)["vault_version"] == 1
    assert stand.serves_a_live_pair("new")
    assert stand.held_id("new") != user.key.access_key_id
    assert stand.statuses("new") == ["Active", "Active"]


def test_a_stray_key_is_refused_with_its_id_age_and_last_use(stand: Stand) -> None:
    stand.user("ci")
    stray = stand.aws.add_key(HUB, "ci", age=timedelta(days=9))
    used_at = stand.aws.clock.now() - timedelta(days=2)
    stand.aws.set_last_used(stray.access_key_id, used_at, service="s3", region="eu-west-1")
    ran = stand.run("rotate-now", "ci", "--json")
    rotation = _rotation(ran)
    assert ran.code == 4
    assert (rotation["outcome"], rotation["reason"]) == ("refused", "stray_key")
    message = str(rotation["message"])
    assert stray.access_key_id in message
    assert "9 days old" in message
    assert f"last used {used_at:%Y-%m-%d}" in message
    assert "s3 in eu-west-1" in message
    assert stand.aws.calls("CreateAccessKey") == []


def test_a_sealed_vault_fails_before_any_key_is_created(stand: Stand) -> None:
    stand.user("ci")
    stand.bao.seal()
    try:
        ran = stand.run("rotate-now", "ci", "--json")
    finally:
        stand.bao.unseal()
    assert ran.code == 1
    assert _rotation(ran)["outcome"] == "failed"
    assert "sealed" in str(_rotation(ran)["message"])
    assert stand.aws.calls("CreateAccessKey") == []
    # nothing stayed asked: the next one is a first one
    assert stand.run("rotate-now", "ci").code == 0


def test_an_open_rotation_is_refused_with_the_date_of_its_end(stand: Stand) -> None:
    stand.write_config({"overlap": "2d", "quarantine": "3d"})
    stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    ran = stand.run("rotate-now", "ci", "--json")
    rotation = _rotation(ran)
    assert ran.code == 4
    assert (rotation["outcome"], rotation["reason"]) == ("refused", "rotation_open")
    in_five_days = stand.aws.clock.now() + timedelta(days=5)
    assert f"ends at {in_five_days:%Y-%m-%dT}" in str(rotation["message"])
    assert len(stand.aws.calls("CreateAccessKey")) == 1


def test_two_at_once_make_one_key(stand: Stand) -> None:
    stand.write_config({"overlap": "1h"})
    stand.user("ci")
    first, second = stand.start("rotate-now", "ci", "--json"), stand.start("rotate-now", "ci", "--json")
    ended = [first.wait(), second.wait()]
    assert sorted(ran.code for ran in ended) == [0, 4]
    assert sorted(str(_rotation(ran)["outcome"]) for ran in ended) == ["published", "refused"]
    assert len(stand.aws.calls("CreateAccessKey")) == 1
    assert stand.statuses("ci") == ["Active", "Active"]


def test_one_that_may_not_wait_says_busy_and_leaves_nothing_asked(stand: Stand) -> None:
    first = _in_the_middle(stand, "ci")
    limits = Path(f"/proc/{first.pid}/limits").read_text().splitlines()
    # P7: it holds a pair now.
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]
    second = stand.run("rotate-now", "ci", "--lock-timeout", "0.2s", "--json")
    assert second.code == 5
    assert _rotation(second)["outcome"] == "unchanged"
    assert first.wait().code == 0
    assert len(stand.aws.calls("CreateAccessKey")) == 1


def test_another_user_of_a_busy_account_is_busy_too_and_is_withdrawn(stand: Stand) -> None:
    stand.user("web")
    first = _in_the_middle(stand, "ci")
    second = stand.run("rotate-now", "web", "--lock-timeout", "0.2s")
    assert second.code == 5
    assert first.wait().code == 0
    events = [event["event"] for event in stand.run("history", "--user", "web", "--json").document["events"]]
    assert events == ["rotation.asked", "rotation.withdrawn"]
    assert stand.aws.calls("CreateAccessKey", user="web") == []


def test_an_emergency_returns_when_the_old_key_is_inactive(stand: Stand) -> None:
    stand.write_config({"overlap": "2d", "quarantine": "3d"})
    user = stand.user("ci")
    ran = stand.run("rotate-now", "ci", "--emergency", "--yes", "--json")
    assert ran.code == 0
    assert _rotation(ran)["outcome"] == "published"
    assert stand.aws.key(user.key.access_key_id).status == "Inactive"
    assert stand.serves_a_live_pair("ci")


def test_an_emergency_ends_an_open_rotation_first(stand: Stand) -> None:
    stand.write_config({"overlap": "2d", "quarantine": "3d"})
    user = stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    between = stand.held_id("ci")
    assert between is not None
    ran = stand.run("rotate-now", "ci", "--emergency", "--yes", "--json")
    assert ran.code == 0
    assert stand.aws.key(user.key.access_key_id).status == "Deleted"
    assert stand.aws.key(between).status == "Inactive"
    assert stand.serves_a_live_pair("ci")


def test_wait_returns_when_the_old_key_is_deleted(stand: Stand) -> None:
    user = stand.user("ci")
    ran = stand.run("rotate-now", "ci", "--wait", "--json")
    assert ran.code == 0
    assert _rotation(ran)["outcome"] == "retired"
    assert stand.aws.key(user.key.access_key_id).status == "Deleted"
    assert stand.serves_a_live_pair("ci")


def test_a_dry_run_changes_nothing_and_ends_well(stand: Stand) -> None:
    stand.user("ci")
    stand.user("odd")
    stand.aws.add_key(HUB, "odd")
    ran = stand.run("rotate-now", "ci", "odd", "--dry-run", "--json")
    assert ran.code == 0
    assert [rotation["outcome"] for rotation in ran.document["rotations"]] == ["planned", "refused"]
    assert stand.aws.calls("CreateAccessKey") == []
    assert not stand.journal.exists()


def test_in_observe_mode_it_refuses(stand: Stand) -> None:
    stand.write_config(mode="observe")
    stand.user("ci")
    ran = stand.run("rotate-now", "ci", "--json")
    assert ran.code == 4
    assert "observe" in ran.document["error"]["message"]
    assert stand.aws.calls("CreateAccessKey") == []


# --- who is meant ----------------------------------------------------------------------------------------------------


def test_an_unknown_user_is_a_usage_error_with_the_nearest_names(stand: Stand) -> None:
    stand.user("deploy")
    ran = stand.run("rotate-now", "deplyo", "--json")
    assert ran.code == 2
    assert ran.document["error"]["code"] == "usage"
    assert "deplyo" in ran.document["error"]["message"]
    assert "deploy" in ran.document["error"]["hint"]


def test_a_user_of_no_policy_is_refused_and_named(stand: Stand) -> None:
    stand.write_config({"match": {"users": ["ci-*"]}})
    stand.user("web")
    ran = stand.run("rotate-now", "web", "--json")
    assert ran.code == 4
    assert _rotation(ran)["reason"] == "left_policy"
    assert "no policy matches" in str(_rotation(ran)["message"])


def test_a_name_in_two_accounts_needs_the_account(stand: Stand) -> None:
    arn = stand.aws.add_role(OTHER, "rekeyd")
    stand.write_config(accounts={HUB: None, OTHER: arn})
    stand.user("ci")
    stand.user("ci", account_id=OTHER)
    ran = stand.run("rotate-now", "ci", "--json")
    assert ran.code == 2
    assert HUB in ran.document["error"]["message"]
    assert OTHER in ran.document["error"]["message"]
    ran = stand.run("rotate-now", "ci", "--account", OTHER)
    assert ran.code == 0
    assert stand.statuses("ci", OTHER) == ["Active", "Active"]
    assert stand.statuses("ci", HUB) == ["Active"]


def test_an_account_that_is_not_watched_is_a_usage_error(stand: Stand) -> None:
    stand.user("ci")
    ran = stand.run("rotate-now", "ci", "--account", "999900009999")
    assert ran.code == 2
    assert HUB in ran.err


def test_rekeyds_own_identity_is_refused(stand: Stand) -> None:
    stand.write_config({"exclude": {"users": ["nobody"]}})
    ran = stand.run("rotate-now", "rekeyd", "--json")
    assert ran.code == 4
    assert _rotation(ran)["reason"] == "own_identity"


@pytest.mark.parametrize("more", [["ci", "web"], ["ci", "--emergency"]], ids=["several users", "an emergency"])
def test_without_a_terminal_it_does_not_ask(stand: Stand, more: list[str]) -> None:
    stand.user("ci")
    stand.user("web")
    ran = stand.run("rotate-now", *more)
    assert ran.code == 2
    assert "--yes" in ran.err
    assert stand.aws.calls("CreateAccessKey") == []


def test_several_users_end_with_the_worst_code_and_all_are_tried(stand: Stand) -> None:
    stand.user("odd")
    stand.aws.add_key(HUB, "odd")
    stand.user("web")
    ran = stand.run("rotate-now", "odd", "web", "--yes", "--json")
    assert ran.code == 4
    assert [rotation["outcome"] for rotation in ran.document["rotations"]] == ["refused", "published"]


def test_all_due_rotates_what_is_due_and_nothing_else(stand: Stand) -> None:
    stand.user("old")
    stand.user("young", key_age=YOUNG)
    ran = stand.run("rotate-now", "--all-due", "--json")
    assert ran.code == 0
    assert [rotation["user_name"] for rotation in ran.document["rotations"]] == ["old"]
    assert stand.run("rotate-now", "--all-due").out == "nothing is due\n"


def test_a_key_to_replace_goes_first_and_the_rotation_follows(stand: Stand) -> None:
    user = stand.user("ci")
    stray = stand.aws.add_key(HUB, "ci", age=timedelta(days=9))
    ran = stand.run("rotate-now", "ci", "--replace", stray.access_key_id, "--yes", "--json")
    assert ran.code == 0
    assert _rotation(ran)["outcome"] == "planned"
    assert stand.aws.key(user.key.access_key_id).status == "Active"
    assert stand.aws.calls("CreateAccessKey") == []


def test_the_held_key_cannot_be_replaced(stand: Stand) -> None:
    user = stand.user("ci")
    ran = stand.run("rotate-now", "ci", "--replace", user.key.access_key_id, "--yes")
    assert ran.code == 4
    assert stand.statuses("ci") == ["Active"]


def test_a_key_of_somebody_else_cannot_be_replaced(stand: Stand) -> None:
    stand.user("ci")
    other = stand.user("web")
    ran = stand.run("rotate-now", "ci", "--replace", other.key.access_key_id, "--yes")
    assert ran.code == 2
    assert "is not a key of" in ran.err


# --- failures and signals --------------------------------------------------------------------------------------------


def test_a_lost_answer_is_a_failure_that_says_the_rotation_goes_on(stand: Stand) -> None:
    stand.user("ci")
    stand.aws.fault("CreateAccessKey", do=Drop(), when="after")
    ran = stand.run("rotate-now", "ci", "--json")
    assert ran.code == 1
    assert _rotation(ran)["outcome"] == "failed"
    assert "stays asked" in str(_rotation(ran)["message"])
    assert len(stand.aws.calls("CreateAccessKey")) == 1
    assert stand.serves_a_live_pair("ci")


def test_sigterm_parks_the_step_and_says_what_state_it_left(stand: Stand) -> None:
    stand.write_config({"overlap": "1h"})
    user = stand.user("ci")
    running = stand.start("rotate-now", "ci", "--wait", "--json")
    eventually(lambda: "now the old one" in running.err, "the new key is published", alive=running)
    ran = running.stop(signal.SIGTERM)
    assert ran.code == 1
    rotation = _rotation(ran)
    assert rotation["reason"] == "stopping"
    assert "goes on" in str(rotation["message"])
    assert stand.serves_a_live_pair("ci")
    assert stand.aws.key(user.key.access_key_id).status == "Active"


def test_rollback_makes_vault_serve_the_old_key_again(stand: Stand) -> None:
    stand.write_config({"overlap": "1h"})
    user = stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    ran = stand.run("rollback", "ci", "--yes", "--json")
    assert ran.code == 0
    assert _rotation(ran)["new_access_key_id"] == user.key.access_key_id
    assert stand.held_id("ci") == user.key.access_key_id
    assert stand.serves_a_live_pair("ci")


def test_rollback_without_a_rotation_is_refused(stand: Stand) -> None:
    stand.user("ci")
    ran = stand.run("rollback", "ci", "--yes", "--json")
    assert ran.code == 4
    assert _rotation(ran)["reason"] == "rollback_impossible"
