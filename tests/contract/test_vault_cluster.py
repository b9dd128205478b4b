"""Three nodes, spoken to through a standby: whole rotations, lost leaders, a lost quorum, and no stale read.

`make cluster` runs it; `make test` only what is not marked.
"""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.core.model import AccessKeyId, VaultHeld
from rekeyd.demo.emulator.faults import Drop
from rekeyd.demo.emulator.vault_proxy import VaultProxy
from tests.contract.vault_cluster import METHODS, Cluster, Logins, production
from tests.contract.vault_rotating import Rotating
from tests.contract.vault_stand import fields, pair, unguarded

pytestmark = pytest.mark.slow

WRITES = 300


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Logins, Cluster]]:
    with production("cluster", tmp_path_factory.mktemp("cluster")) as (logins, cluster):
        assert cluster is not None
        yield logins, cluster


def test_a_rotation_works_through_a_standby(standby: tuple[Logins, Cluster]) -> None:
    rotating = Rotating(standby[0], "approle")
    rotating.rotate()
    rotating.is_rotated()
    rotating.close()


def test_a_new_process_is_not_answered_from_the_past_by_a_standby(standby: tuple[Logins, Cluster]) -> None:
    logins, _ = standby
    stale = 0
    for _ in range(20):
        rotating = Rotating(logins, "token_file")
        # Written at the leader a moment ago, read by a process that has never written.
        stale += not isinstance(rotating.vault.current(rotating.place), VaultHeld)
        rotating.close()
    assert stale == 0


# --- make cluster ---


@pytest.mark.cluster
@pytest.mark.parametrize("method", METHODS)
def test_a_rotation_works_through_a_standby_with_every_login(standby: tuple[Logins, Cluster], method: str) -> None:
    rotating = Rotating(standby[0], method)
    rotating.rotate()
    rotating.is_rotated()
    rotating.close()


@pytest.mark.cluster
def test_no_read_back_through_a_standby_is_stale_and_lost_answers_make_one_version(
    standby: tuple[Logins, Cluster],
) -> None:
    """Every tenth answer to a write is lost. Each write must end with exactly one version of its own."""
    logins, cluster = standby
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    with VaultProxy(cluster.standby.address) as proxy:
        settings = replace(logins.settings("token_file"), address=proxy.address, ca_file=None)
        rotating = Rotating(logins, "token_file")
        vault, clock = KvVault(settings, SystemClock()), SystemClock()
        place = replace(rotating.place, address=proxy.address, path="aws/many")
        stale = lost = 0
        for number in range(WRITES):
            key_id = AccessKeyId(f"AKIAMANYWRITES{number:06d}")
            if chance.random() < 0.1:
                proxy.fault("POST secret/data/aws/many", when="after", do=Drop())
                lost += 1
            give_up_at = clock.now() + settings.timeout * 6
            version, _ = vault.publish(
                place, pair(key_id), cas=number, extra={}, guard=unguarded, give_up_at=give_up_at
            )
            assert version == number + 1
            seen = vault.current(place)
            stale += not (isinstance(seen, VaultHeld) and (seen.version, seen.access_key_id) == (version, key_id))
            proxy.clear_faults()
        vault.close()
        rotating.close()
    assert (stale, lost > 10) == (0, True)
    assert cluster.leader.read("aws/many").data == fields(key_id)  # type: ignore[union-attr]
    print(f"{WRITES} writes through a standby: {stale} stale read-backs, {lost} lost answers")


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Logins, Cluster]]:
    """A cluster that may be broken."""
    with production("cluster", tmp_path_factory.mktemp("own")) as (logins, cluster):
        assert cluster is not None
        yield logins, cluster


@pytest.mark.cluster
@pytest.mark.parametrize("point", ["iam.create_access_key", "sts.prove"])
def test_a_leader_killed_in_the_middle_of_a_rotation(own: tuple[Logins, Cluster], point: str) -> None:
    logins, cluster = own
    rotating = Rotating(logins, "approle")
    leader = cluster.leader

    rotating.when(point, leader.kill)
    rotating.rotate()
    logins.admin = cluster.leader
    rotating.is_rotated()
    rotating.close()


@pytest.mark.cluster
def test_a_lost_quorum_that_comes_back(own: tuple[Logins, Cluster]) -> None:
    logins, cluster = own
    rotating = Rotating(logins, "approle")
    others = [node for node in cluster.nodes if node is not logins.entry]

    over = threading.Event()

    def come_back() -> None:
        over.wait(3)
        for node in others:
            node.restart()
        over.wait()  # a server ends with the thread that started it

    thread = threading.Thread(target=come_back)

    def lose() -> None:
        for node in others:
            node.kill()
        thread.start()

    rotating.when("iam.create_access_key", lose)
    try:
        rotating.rotate()
        logins.admin = cluster.leader
        rotating.is_rotated()
    finally:
        over.set()
        thread.join()
    rotating.close()


@pytest.mark.cluster
def test_without_a_quorum_nothing_is_begun(own: tuple[Logins, Cluster]) -> None:
    logins, cluster = own
    rotating = Rotating(logins, "approle", timeout=2)
    others = [node for node in cluster.nodes if node is not logins.entry]
    for node in others:
        node.kill()
    worked = rotating.rig.look(rotating.user_name)
    assert len(rotating.world.keys("111122223333", rotating.user_name)) == 1
    assert worked.outcome is None or worked.outcome.rest.reason == "vault_unreadable"
    for node in others:
        node.restart()
    logins.admin = cluster.leader
    rotating.rotate()
    rotating.is_rotated()
    rotating.close()
