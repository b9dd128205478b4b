"""`rekeyd move` as an operator runs it, after the configuration names another place."""

import pytest

from rekeyd.demo.emulator import HUB
from tests.acceptance.stand import Stand

ELSEWHERE = {"REKEYD_VAULT__PATH": "iam/{partition}/{account_id}/{user_name}"}
NEW = f"iam/aws/{HUB}/ci"


@pytest.fixture
def rotated(stand: Stand) -> Stand:
    stand.write_config({"overlap": "1h", "quarantine": "1h"})
    stand.user("ci")
    assert stand.run("rotate-now", "ci").code == 0
    return stand


def test_a_changed_place_is_refused_moved_and_the_old_one_reported_until_it_is_emptied(rotated: Stand) -> None:
    stand, key_id = rotated, rotated.held_id("ci")
    refused = stand.run("rotate-now", "ci", "--emergency", "--yes", "--json", env=ELSEWHERE)
    assert (refused.code, refused.document["rotations"][0]["reason"]) == (4, "vault_moved")
    assert stand.bao.read(NEW, mount=stand.mount) is None

    moved = stand.run("move", "--all", "--json", env=ELSEWHERE)
    assert moved.code == 0, moved.err
    entry = moved.document["moves"][0]
    assert (entry["outcome"], entry["access_key_id"], entry["vault_version"]) == ("moved", key_id, 1)
    assert entry["vault_path"] == f"{stand.mount}/{NEW}"
    served = stand.bao.read(NEW, mount=stand.mount)
    assert served is not None
    assert served.data == {"access_key_id": key_id, "secret_access_key": stand.aws.secret_of(str(key_id))}
    assert stand.held_id("ci") == key_id, "the old place stays as it is"
    assert "still holds one" in stand.run("alarms", env=ELSEWHERE).out

    again = stand.run("move", "ci", "--json", env=ELSEWHERE)
    assert (again.code, again.document["moves"][0]["outcome"]) == (0, "unchanged")
    with stand.bao.client() as client:
        client.secrets.kv.v2.delete_metadata_and_all_versions(stand.vault_path("ci"), mount_point=stand.mount)
    assert stand.run("rotate-now", "ci", "--emergency", "--yes", env=ELSEWHERE).code == 0
    assert "still holds one" not in stand.run("alarms", env=ELSEWHERE).out
    assert stand.held("ci") is None
    assert stand.bao.read(NEW, mount=stand.mount).version == 2  # type: ignore[union-attr]


def test_another_spelling_of_the_address_moves_nothing(rotated: Stand) -> None:
    slash = {"REKEYD_VAULT__ADDRESS": f"{rotated.bao.address.replace('http', 'HTTP')}/"}
    ran = rotated.run("move", "ci", "--json", env=slash)
    assert (ran.code, ran.document["moves"][0]["outcome"]) == (0, "unchanged")
    assert "nothing to do" in rotated.run("move", "--all", env=slash).out


def test_a_place_at_another_address_is_reported_until_a_person_says_that_it_is_empty(rotated: Stand) -> None:
    renamed = {"REKEYD_VAULT__ADDRESS": rotated.bao.address.replace("127.0.0.1", "localhost")}
    key_id = rotated.held_id("ci")
    assert rotated.run("move", "ci", "--emptied", env=renamed).out.strip() == "there is nothing to do"
    moved = rotated.run("move", "ci", "--json", env=renamed)
    assert moved.document["moves"][0]["outcome"] == "moved", moved.out
    alarms = rotated.run("alarms", env=renamed).out
    assert "still holds one" in alarms
    assert rotated.bao.address in alarms
    said = rotated.run("move", "CI", "--emptied", "--json", env=renamed)
    assert (said.code, said.document["moves"][0]["outcome"]) == (0, "emptied")
    assert rotated.run("rotate-now", "ci", "--emergency", "--yes", env=renamed).code == 0
    assert "still holds one" not in rotated.run("alarms", env=renamed).out
    assert rotated.held_id("ci") != key_id


def test_a_place_that_can_be_looked_into_is_not_ended_by_word(rotated: Stand) -> None:
    assert rotated.run("move", "ci", env=ELSEWHERE).code == 0
    said = rotated.run("move", "--all", "--emptied", "--json", env=ELSEWHERE)
    assert (said.code, said.document["moves"][0]["outcome"]) == (4, "refused")
    assert "still holds one" in rotated.run("alarms", env=ELSEWHERE).out


@pytest.mark.parametrize("arguments", [(), ("ci", "--all")], ids=["nobody", "one and all"])
def test_whom_to_move_is_said_in_one_way(rotated: Stand, arguments: tuple[str, ...]) -> None:
    assert rotated.run("move", *arguments).code == 2


def test_a_place_that_is_taken_needs_a_person(rotated: Stand) -> None:
    rotated.bao.write(NEW, {"password": "of somebody else"}, mount=rotated.mount)
    ran = rotated.run("move", "ci", "--json", env=ELSEWHERE)
    assert (ran.code, ran.document["moves"][0]["outcome"]) == (4, "refused")
    assert "holds somebody else's fields" in ran.document["moves"][0]["message"]
    assert rotated.bao.read(NEW, mount=rotated.mount).data == {"password": "of somebody else"}  # type: ignore[union-attr]
