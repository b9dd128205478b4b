"""Whole rotations on Vault as it is run: every login on a dev server and on a raft node, and what fails there.

The table of what fails is in vault_troubles; what needs three nodes is played in test_vault_cluster. `make test` plays
the part that is not marked, `make cluster` all of it.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from rekeyd.core.model import VaultHeld
from tests.contract.vault_rotating import Rotating
from tests.contract.vault_troubles import Stage, Trouble, cells, play, staged

pytestmark = pytest.mark.slow

RecordProperty = Callable[[str, object], None]


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged("dev", tmp_path_factory.mktemp("dev")) as stage:
        yield stage


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged("raft", tmp_path_factory.mktemp("raft")) as stage:
        yield stage


@pytest.mark.parametrize(("trouble", "server", "login"), cells("dev", "raft"))
def test_a_rotation_survives(
    request: pytest.FixtureRequest, record_property: RecordProperty, trouble: Trouble, server: str, login: str
) -> None:
    record_property("cell", (trouble.name, server, login))
    play(trouble, request.getfixturevalue(server), login)


def test_the_token_is_renewed_while_nothing_else_happens(raft: Stage) -> None:
    rotating = Rotating(raft.logins, "approle")
    assert isinstance(rotating.vault.current(rotating.place), VaultHeld)
    ends_at = rotating.vault.token_ends_at()
    assert ends_at is not None
    next_at = rotating.vault.maintain()
    assert timedelta(minutes=17) < ends_at - next_at < timedelta(minutes=28), "at 55 to 70 % of an hour"
    rotating.close()
