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


@pytest.mark.parametrize("arguments", [(), ("ci", "--all")], ids=["nobody", "one and all"])
def test_whom_to_move_is_said_in_one_way(rotated: Stand, arguments: tuple[str, ...]) -> None:
    assert rotated.run("move", *arguments).code == 2


def test_a_place_that_is_taken_needs_a_person(rotated: Stand) -> None:
    rotated.bao.write(NEW, {"password": "of somebody else"}, mount=rotated.mount)
    ran = rotated.run("move", "ci", "--json", env=ELSEWHERE)
    assert (ran.code, ran.document["moves"][0]["outcome"]) == (4, "refused")
    assert "holds somebody else's fields" in ran.document["moves"][0]["message"]
    assert rotated.bao.read(NEW, mount=rotated.mount).data == {"password": "of somebody else"}  # type: ignore[union-attr]
