"""The one call that cannot be repeated: its answer is lost, or the process dies around it. And the journal is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from rekeyd.demo.emulator import HUB, Drop, Kill
from tests.acceptance.stand import Running, Stand, eventually

pytestmark = pytest.mark.slow

WINDOW = '[orphans]\nattribution = "window"\nwait = "2s"\nquarantine = "1s"'
CLOUDTRAIL = '[orphans]\nattribution = "cloudtrail"\nwait = "60s"\nquarantine = "1s"'
NEVER = '[orphans]\nattribution = "never"'


def keys(stand: Stand, name: str = "ci") -> set[str]:
    return {key.access_key_id for key in stand.aws.keys(HUB, name)}


def creates(stand: Stand, name: str = "ci") -> list[Any]:
    return stand.aws.calls("CreateAccessKey", user=name)


@contextmanager
def daemon(stand: Stand) -> Iterator[Running]:
    running = stand.start("run")
    try:
        yield running
    finally:
        assert running.stop().code == 0


def rotated(stand: Stand, old: str, orphan: str) -> bool:
    """The rotation went through after all: one key, held, and neither the old one nor the orphan."""
    left = keys(stand)
    held = stand.held_id("ci")
    return len(left) == 1 and held in left and held not in (old, orphan)


@pytest.mark.parametrize("attribution", [WINDOW, CLOUDTRAIL], ids=["window", "cloudtrail"])
@pytest.mark.parametrize("loss", ["dropped", "killed"])
def test_exactly_the_lost_key_is_removed_and_the_rotation_completes(stand: Stand, attribution: str, loss: str) -> None:
    """One request was sent; the held key is untouched while the orphan is there."""
    stand.write_config(extra=attribution)
    user = stand.user("ci")
    old = user.key.access_key_id
    lost = _lose_the_answer(stand, loss)

    (orphan,) = keys(stand) - {old}
    assert len(creates(stand)) == 1
    assert lost.code != 0
    assert stand.held_id("ci") == old

    with daemon(stand) as running:
        eventually(lambda: rotated(stand, old, orphan), "the rotation", alive=running)
    deleted = [call.access_key_id for call in stand.aws.calls("DeleteAccessKey") if call.status == 200]
    assert deleted.index(orphan) < deleted.index(old)
    touched = {c.access_key_id for c in stand.aws.calls("UpdateAccessKey")} | set(deleted)
    assert touched == {old, orphan}
    operations = [call.user_agent.split()[-1] for call in creates(stand)]
    assert len(operations) == len(set(operations)) == 2


@pytest.mark.parametrize("loss", ["dropped", "killed"])
def test_without_attribution_it_is_reported_as_a_stray_and_nothing_is_touched(stand: Stand, loss: str) -> None:
    stand.write_config(extra=NEVER)
    old = stand.user("ci").key.access_key_id
    _lose_the_answer(stand, loss)
    (orphan,) = keys(stand) - {old}

    with daemon(stand) as running:
        refused = running.wait_for_event("principal.refused", count=2)
    assert (refused["reason"], refused["access_key_id"]) == ("stray_key", orphan)
    assert keys(stand) == {old, orphan}
    assert stand.held_id("ci") == old
    assert stand.aws.calls("DeleteAccessKey") == []
    assert stand.aws.calls("UpdateAccessKey") == []


def _lose_the_answer(stand: Stand, loss: str) -> Any:
    if loss == "dropped":
        stand.aws.fault("CreateAccessKey", do=Drop(), when="after")
        return stand.run("rotate-now", "ci", "--json")
    running: list[Running] = []
    rule = stand.aws.fault("CreateAccessKey", do=Kill(lambda: running[0].pid), when="after")
    running.append(stand.start("rotate-now", "ci", "--json"))
    assert rule.hit.wait(60)
    return running[0].wait()


def test_killed_between_creation_and_the_write_to_vault_converges(stand: Stand) -> None:
    """The journal knows the key's id; its secret is gone with the process."""
    stand.write_config()
    old = stand.user("ci").key.access_key_id
    running: list[Running] = []
    # The held pair is proven first. The first proof of the new key comes after its id was journalled and before
    # anything is sent to Vault.
    rule = stand.aws.fault("GetCallerIdentity", user="ci", nth=2, do=Kill(lambda: running[0].pid), when="before")
    running.append(stand.start("rotate-now", "ci", "--json"))
    assert rule.hit.wait(60)
    running[0].wait()
    (orphan,) = keys(stand) - {old}
    with daemon(stand) as again:
        eventually(lambda: rotated(stand, old, orphan), "the rotation", alive=again)


def test_the_journal_deleted_in_mid_overlap_ends_the_rotation_more_patiently(stand: Stand) -> None:
    stand.write_config({"overlap": "4s"})
    old = stand.user("ci").key.access_key_id
    bystander = stand.user("bystander", key_age=timedelta(days=1))
    assert stand.run("rotate-now", "ci").code == 0
    new = stand.held_id("ci")
    for file in stand.journal.parent.glob("journal.db*"):
        if file.is_file():
            file.unlink()
    with daemon(stand) as running:
        restored = running.wait_for_event("journal.restored")
        assert restored["level"] == "critical"
        eventually(lambda: keys(stand) == {new}, "the end of the rotation", alive=running)
    assert stand.held_id("ci") == new
    assert keys(stand, "bystander") == {bystander.key.access_key_id}
    assert [c.access_key_id for c in stand.aws.calls("DeleteAccessKey")] == [old]
