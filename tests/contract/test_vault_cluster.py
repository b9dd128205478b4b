"""Three nodes, spoken to through a standby: whole rotations, whatever fails, and no stale read.

`make cluster` plays all of it, `make test` only what is not marked. The table of what fails is in vault_troubles.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.core.model import AccessKeyId, VaultHeld
from rekeyd.demo.emulator.faults import Drop
from rekeyd.demo.emulator.vault_proxy import VaultProxy
from tests.contract.vault_rotating import Rotating
from tests.contract.vault_stand import fields, pair, unguarded
from tests.contract.vault_troubles import Stage, Trouble, cells, play, staged

pytestmark = pytest.mark.slow

WRITES = 300

RecordProperty = Callable[[str, object], None]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged("cluster", tmp_path_factory.mktemp("cluster")) as stage:
        yield stage


def test_a_rotation_works_through_a_standby(cluster: Stage) -> None:
    rotating = Rotating(cluster.logins, "approle")
    rotating.rotate()
    rotating.is_rotated()
    rotating.close()


def test_a_new_process_is_not_answered_from_the_past_by_a_standby(cluster: Stage) -> None:
    stale = 0
    for _ in range(20):
        rotating = Rotating(cluster.logins, "token_file")
        # Written at the leader a moment ago, read by a process that has never written.
        stale += not isinstance(rotating.vault.current(rotating.place), VaultHeld)
        rotating.close()
    assert stale == 0


# --- make cluster ---


@pytest.mark.cluster
@pytest.mark.parametrize(("trouble", "server", "login"), cells("cluster"))
def test_a_rotation_through_a_standby_survives(
    cluster: Stage, record_property: RecordProperty, trouble: Trouble, server: str, login: str
) -> None:
    record_property("cell", (trouble.name, server, login))
    play(trouble, cluster, login)


@pytest.mark.cluster
def test_no_read_back_through_a_standby_is_stale_and_lost_answers_make_one_version(
    cluster: Stage, record_property: RecordProperty
) -> None:
    """Every tenth answer to a write is lost. Each write must end with exactly one version of its own."""
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    with VaultProxy(cluster.logins.entry.address) as proxy:
        settings = replace(cluster.logins.settings("token_file"), address=proxy.address, ca_file=None)
        rotating = Rotating(cluster.logins, "token_file")
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
    record_property("figure", f"{WRITES} writes through a standby: {stale} stale read-backs, {lost} lost answers")
    assert (stale, lost > 10) == (0, True)
    found = cluster.logins.admin.read("aws/many")
    assert found is not None
    assert found.data == fields(key_id)
