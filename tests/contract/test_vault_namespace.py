"""A rotation inside namespaces of a real OpenBao: login, mark and pairs, with nothing but the printed policy."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth
from rekeyd.cli.policies_vault import vault_policy
from rekeyd.config import parse
from rekeyd.core.model import Place, Principal, VaultHeld, VaultUnreadable
from rekeyd.demo.openbao import OpenBaoServer
from tests.contract.vault_rotating import AheadClock
from tests.contract.vault_stand import OpenBaoStand
from tests.rig import ACCOUNT, Rig, policy
from tests.secret_registry import remember, write_secret
from tests.world import World

pytestmark = pytest.mark.slow


class Tenant:
    """A team's namespace, in which rekeyd logs in; the pairs lie in it, or in one below."""

    def __init__(self, server: OpenBaoServer, home: str, below: str, folder: Path) -> None:
        self.server, self.home = server, home
        self.pairs = f"{home}/{below}" if below else home
        with self._client("") as client:
            client.adapter.post(f"/v1/sys/namespaces/{home}")
        with self._client(home) as client:
            if below:
                client.adapter.post(f"/v1/sys/namespaces/{below}")
            client.sys.enable_secrets_engine("kv", path="keys", options={"version": "2"})
            client.sys.create_or_update_policy("rekeyd", self._printed_policy())
            client.sys.enable_auth_method("approle")
            approle = client.auth.approle
            settings = {"token_no_default_policy": True, "token_ttl": "1h"}
            approle.create_or_update_approle("rekeyd", token_policies=["rekeyd"], **settings)
            role_id = approle.read_role_id("rekeyd")["data"]["role_id"]
            secret_id = remember(str(approle.generate_secret_id("rekeyd")["data"]["secret_id"]))
        if below:
            with self._client(self.pairs) as client:
                client.sys.enable_secrets_engine("kv", path="keys", options={"version": "2"})
        stand = OpenBaoStand(server, "keys", folder)
        auth = AppRoleAuth(role_id=role_id, secret_id_file=write_secret(folder / "secret_id", secret_id))
        self.settings = replace(stand.settings, auth=auth, namespace=home)
        self.clock = AheadClock()
        self.vault = KvVault(self.settings, self.clock)

    def _printed_policy(self) -> str:
        other = "" if self.pairs == self.home else f'\nnamespace = "{self.pairs}"'
        config = parse(
            f'[[aws.accounts]]\nid = "{ACCOUNT}"\n[vault]\naddress = "{self.server.address}"\nmount = "keys"\n'
            f'namespace = "{self.home}"\n[vault.auth]\ntoken_file = "/t"\n[[policies]]\nname = "all"{other}',
            {},
        )
        return vault_policy(config).document

    def _client(self, namespace: str) -> Any:
        client = self.server.client()
        client.adapter.namespace = namespace or None
        return client

    def place_of(self, principal: Principal) -> Place:
        return Place(
            address=self.settings.address,
            namespace=self.pairs,
            mount="keys",
            path=f"aws/{principal.account_id}/{principal.user_name}",
            id_field="access_key_id",
            secret_field="secret_access_key",
        )

    def put(self, path: str, pair: dict[str, str]) -> None:
        with self._client(self.pairs) as client:
            client.secrets.kv.v2.create_or_update_secret(path, pair, mount_point="keys")

    def version_of(self, path: str, namespace: str) -> int:
        with self._client(namespace) as client:
            return int(client.secrets.kv.v2.read_secret_metadata(path, mount_point="keys")["data"]["current_version"])


@pytest.fixture(params=["", "inner"], ids=["all in one namespace", "the pairs in one below"])
def tenant(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    made = Tenant(openbao, f"team-{kv_mount}", request.param, tmp_path)
    yield made
    made.vault.close()


def test_a_rotation_with_login_mark_and_pair_in_a_namespace(tenant: Tenant) -> None:
    now = datetime.now(UTC)  # noqa: TID251 - the server's clock is the machine's
    world = World(start=now, place_of=tenant.place_of, seed=1)
    principal = world.user(ACCOUNT, "ci", age=timedelta(days=120), held=False)
    place = tenant.place_of(principal)
    old = world.keys(ACCOUNT, "ci")[0].id
    world.vault = tenant.vault  # type: ignore[assignment]
    tenant.put(place.path, {"access_key_id": old, "secret_access_key": world.key(old).secret})
    rig = Rig(policy(), world=world)
    rig.settle("ci", until=lambda worked: worked.published)

    seen = tenant.vault.current(place)
    assert isinstance(seen, VaultHeld)
    assert (seen.version, seen.access_key_id) == (2, world.keys(ACCOUNT, "ci")[1].id)
    tenant.vault.check_mark()
    assert tenant.version_of("rekeyd/default", tenant.home) > 0, "the mark lies where rekeyd logs in"
    assert tenant.vault.token_ends_at() is not None
    tenant.vault.maintain()
    assert tenant.vault.token_problem is None
    token = tenant.vault.keeper.token()
    assert token is not None
    assert "." in token.reveal().removeprefix("s."), "a token of the namespace"
    for elsewhere in ("", f"{tenant.home}-other"):
        assert isinstance(tenant.vault.current(replace(place, namespace=elsewhere)), VaultUnreadable)
