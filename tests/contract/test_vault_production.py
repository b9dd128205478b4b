"""Whole rotations on Vault as it is run: every login method on a dev server and on a raft node, and what fails there.

What needs three nodes is in test_vault_cluster.
"""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.core.model import VaultHeld
from rekeyd.errors import Error
from tests.contract.vault_cluster import METHODS, Logins, production
from tests.contract.vault_rotating import Rotating
from tests.secret_registry import remember, write_secret

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logins]:
    with production("dev", tmp_path_factory.mktemp("dev")) as (logins, _):
        yield logins


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logins]:
    with production("raft", tmp_path_factory.mktemp("raft")) as (logins, _):
        yield logins


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("server", ["dev", "raft"])
def test_a_rotation_works_with_every_login(request: pytest.FixtureRequest, server: str, method: str) -> None:
    rotating = Rotating(request.getfixturevalue(server), method)
    rotating.rotate()
    rotating.is_rotated()
    rotating.close()


@pytest.fixture
def rotating(raft: Logins, request: pytest.FixtureRequest) -> Iterator[Rotating]:
    made = Rotating(raft, getattr(request, "param", "approle"))
    yield made
    made.close()


def later(seconds: float, act: object) -> None:
    timer = threading.Timer(seconds, act)  # type: ignore[arg-type]
    timer.daemon = True
    timer.start()


def test_vault_sealed_in_the_middle_of_a_rotation(rotating: Rotating, raft: Logins) -> None:
    def seal() -> None:
        raft.admin.seal()
        later(1.5, raft.admin.unseal)

    rotating.when("iam.create_access_key", seal)
    rotating.rotate()
    rotating.is_rotated()


def test_vault_sealed_beforehand_begins_nothing(rotating: Rotating, raft: Logins) -> None:
    raft.admin.seal()
    worked = rotating.rig.look(rotating.user_name)
    raft.admin.unseal()
    assert worked.outcome is not None
    assert worked.outcome.rest.reason == "vault_unreadable"
    assert rotating.serves() == (1, rotating.old)
    rotating.rotate()
    rotating.is_rotated()


@pytest.mark.parametrize("rotating", ["approle", "cert", "jwt", "kubernetes"], indirect=True)
def test_a_token_revoked_in_the_middle_of_a_rotation_is_replaced(rotating: Rotating, raft: Logins) -> None:
    def revoke() -> None:
        with raft.admin.client() as client:
            for method in ("approle", "cert", "jwt", "kubernetes"):
                client.adapter.post(f"/v1/sys/leases/revoke-prefix/auth/{method}/login")

    rotating.when("iam.create_access_key", revoke)
    rotating.rotate()
    rotating.is_rotated()


@pytest.mark.parametrize("rotating", ["token_file"], indirect=True)
def test_a_token_file_that_an_agent_replaces_after_a_revocation(rotating: Rotating, raft: Logins) -> None:
    file = raft.folder / "token"

    def revoke() -> None:
        raft.admin.revoke_token(file.read_text().strip())
        write_secret(file, remember(raft.admin.create_token(["rekeyd"], ttl="1h")))

    rotating.when("iam.create_access_key", revoke)
    rotating.rotate()
    rotating.is_rotated()


@pytest.mark.parametrize("rotating", ["token_file"], indirect=True)
def test_a_token_that_nobody_replaces_loses_nothing_and_says_so(rotating: Rotating, raft: Logins) -> None:
    file = raft.folder / "token"
    rotating.when("iam.create_access_key", lambda: raft.admin.revoke_token(file.read_text().strip()))
    error = rotating.error()
    assert "no permission in Vault" in error.message
    assert "the token is no longer valid" in str(error.hint)
    write_secret(file, remember(raft.admin.create_token(["rekeyd"], ttl="1h")))
    rotating.rotate()
    _, key_id = rotating.serves()
    assert key_id != rotating.old


def _login_problem(rotating: Rotating) -> Error:
    """Before anything is begun; nobody's key is touched."""
    rotating.rig.look(rotating.user_name)
    assert rotating.serves() == (1, rotating.old)
    assert len(rotating.world.keys("111122223333", rotating.user_name)) == 1
    rotating.vault.maintain()
    problem = rotating.vault.token_problem
    assert problem is not None
    return problem


def test_a_destroyed_secret_id_says_what_to_do_and_a_new_one_is_enough(rotating: Rotating, raft: Logins) -> None:
    file = raft.folder / "secret_id"
    with raft.admin.client() as client:
        client.auth.approle.destroy_secret_id("rekeyd", file.read_text().strip())
    problem = _login_problem(rotating)
    assert "the login to Vault by approle was refused" in problem.message
    assert "a new one is tried at once" in str(problem.hint)
    write_secret(file, raft.new_secret_id())
    rotating.rotate()
    rotating.is_rotated()


def test_a_deleted_role_says_what_to_check_and_a_new_one_is_enough(rotating: Rotating, raft: Logins) -> None:
    with raft.admin.client() as client:
        client.auth.approle.delete_role("rekeyd")
        assert "the login to Vault by approle was refused" in _login_problem(rotating).message
        raft.set_up_approle(client)
    rotating.rotate()
    rotating.is_rotated()


def test_a_full_audit_disk_loses_nothing_and_ends_with_one_version(rotating: Rotating, raft: Logins) -> None:
    def fill() -> None:
        raft.admin.fill_audit_disk(full=True)
        later(2, lambda: raft.admin.fill_audit_disk(full=False))

    rotating.when("iam.create_access_key", fill)
    rotating.rotate()
    rotating.is_rotated()


def test_a_rate_limit_slows_a_rotation_and_fails_nothing(rotating: Rotating, raft: Logins) -> None:
    with raft.admin.client() as client:
        client.adapter.post("/v1/sys/quotas/rate-limit/tight", json={"path": "secret", "rate": 3, "interval": "1s"})
        try:
            rotating.rotate()
        finally:
            client.adapter.delete("/v1/sys/quotas/rate-limit/tight")
    rotating.is_rotated()


def test_the_token_is_renewed_while_nothing_else_happens(rotating: Rotating) -> None:
    assert isinstance(rotating.vault.current(rotating.place), VaultHeld)
    ends_at = rotating.vault.token_ends_at()
    assert ends_at is not None
    next_at = rotating.vault.maintain()
    assert timedelta(minutes=17) < ends_at - next_at < timedelta(minutes=28), "at 55 to 70 % of an hour"
