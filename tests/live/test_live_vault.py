"""A pair written, read back, replaced and destroyed through the Vault adapter. `make live-vault` runs it for real."""

from datetime import UTC, datetime, timedelta

import pytest

from rekeyd.core.model import VaultAbsent, VaultHeld
from rekeyd.errors import ConflictError
from rekeyd.ports import Pair
from tests.contract.vault_stand import NEW, OLD, note, pair, unguarded
from tests.live.conftest import VaultSandbox
from tests.live.sandbox import MOUNT, WrongSandboxError, named


def _publish(sandbox: VaultSandbox, written: Pair, *, cas: int) -> int:
    until = datetime.now(UTC) + timedelta(minutes=1)  # noqa: TID251 - the server's clock is a real one
    version, _ = sandbox.vault.publish(sandbox.place, written, cas=cas, extra={}, guard=unguarded, give_up_at=until)
    return version


def test_a_pair_is_published_read_back_replaced_and_destroyed(vault: VaultSandbox) -> None:
    vault.vault.check_writable(vault.place)
    assert vault.vault.current(vault.place) == VaultAbsent(0)
    assert _publish(vault, pair(OLD), cas=0) == 1
    assert _publish(vault, pair(NEW), cas=1) == 2
    held = vault.vault.current(vault.place)
    assert isinstance(held, VaultHeld)
    assert held.access_key_id == NEW
    assert vault.vault.read_pair(vault.place, 1) == pair(OLD)
    vault.vault.write_note(vault.place, note(2))
    vault.vault.destroy(vault.place, [1])
    assert vault.vault.read_pair(vault.place, 1) is None
    assert vault.vault.read_pair(vault.place, 2) == pair(NEW)


def test_a_write_with_an_old_version_is_refused(vault: VaultSandbox) -> None:
    _publish(vault, pair(OLD), cas=0)
    with pytest.raises(ConflictError):
        _publish(vault, pair(NEW), cas=0)


def test_a_burn_moves_the_version_and_keeps_the_pair(vault: VaultSandbox) -> None:
    _publish(vault, pair(OLD), cas=0)
    assert vault.vault.burn(vault.place, cas=1, guard=unguarded) == 2
    assert vault.vault.read_pair(vault.place, 2) == pair(OLD)
    with pytest.raises(ConflictError):
        _publish(vault, pair(NEW), cas=1)


def test_the_history_names_the_key_of_each_version(vault: VaultSandbox) -> None:
    _publish(vault, pair(OLD), cas=0)
    _publish(vault, pair(NEW), cas=1)
    history = vault.vault.history(vault.place)
    assert history is not None
    assert [(seen.version, seen.access_key_id) for seen in history.versions] == [(1, OLD), (2, NEW)]


def test_a_mount_that_was_not_named_is_refused() -> None:
    assert named({MOUNT: "rekeyd-tests"}, MOUNT) == "rekeyd-tests"
    for environment in ({}, {MOUNT: ""}, {"VAULT_ADDR": "https://vault.example:8200"}):
        with pytest.raises(WrongSandboxError, match=f"{MOUNT} is not set"):
            named(environment, MOUNT)
