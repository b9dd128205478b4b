"""Why KV version 1 is refused: what a real server does there (docs/decisions/0008-kv-version-1.md rests on it)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from rekeyd.demo.emulator.faults import HoldBack
from rekeyd.demo.emulator.vault_proxy import VaultProxy
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.errors import ConflictError, OutcomeUnknownError
from tests.contract.vault_stand import NEW, OLD, OpenBaoStand, fields
from tests.secret_registry import remember

pytestmark = pytest.mark.slow


class Version1:
    """A mount of KV version 1, written to through the proxy by one hand and directly by another."""

    def __init__(self, server: OpenBaoServer, mount: str, proxy: VaultProxy) -> None:
        self.server, self.mount, self.proxy = server, mount, proxy
        self._session = requests.Session()
        self._session.trust_env = False

    def write(self, key_id: Any, *, token: str | None = None, directly: bool = False) -> requests.Response:
        address = self.server.address if directly else self.proxy.address
        return self._session.post(
            f"{address}/v1/{self.mount}/aws/ci",
            json=fields(key_id),
            headers={"X-Vault-Token": token or self.server.root_token},
            timeout=10,
        )

    def read(self) -> Any:
        answer = self._session.get(
            f"{self.server.address}/v1/{self.mount}/aws/ci",
            headers={"X-Vault-Token": self.server.root_token},
            timeout=10,
        )
        assert answer.ok
        return answer.json()

    @property
    def served(self) -> str:
        return str(self.read()["data"]["access_key_id"])

    def hold_back(self, key_id: Any, *, token: str | None = None) -> Any:
        """This write leaves its sender, who gets no answer; it arrives when the rule delivers it."""
        rule = self.proxy.fault(f"POST {self.mount}/aws/ci", do=HoldBack())
        with pytest.raises(requests.ConnectionError):
            self.write(key_id, token=token)
        return rule

    def close(self) -> None:
        self._session.close()


@pytest.fixture
def proxy(openbao: OpenBaoServer) -> Iterator[VaultProxy]:
    with VaultProxy(openbao.address) as made:
        yield made


@pytest.fixture
def version_1(openbao: OpenBaoServer, kv_mount: str, proxy: VaultProxy) -> Iterator[Version1]:
    openbao.enable_kv(f"{kv_mount}-one", version=1)
    made = Version1(openbao, f"{kv_mount}-one", proxy)
    yield made
    made.close()


def test_a_write_that_arrives_late_puts_the_old_pair_over_the_new_one(version_1: Version1) -> None:
    late = version_1.hold_back(OLD)
    assert version_1.write(NEW, directly=True).status_code == 204
    assert version_1.served == NEW
    (answer,) = late.deliver()
    assert answer.status == 204
    assert version_1.served == OLD, "whoever read NEW back and proved it was right only until then"


def test_the_same_write_is_refused_on_version_2(
    openbao: OpenBaoServer, kv_mount: str, proxy: VaultProxy, tmp_path: Path
) -> None:
    behind = OpenBaoStand(openbao, kv_mount, tmp_path, address=proxy.address)
    late = proxy.fault(f"POST {kv_mount}/data/aws/*", do=HoldBack(), forever=True)
    with pytest.raises(OutcomeUnknownError):
        behind.publish(cas=0, key_id=OLD, seconds=0.5)
    late.active = False
    direct = OpenBaoStand(openbao, kv_mount, tmp_path)
    assert direct.publish(cas=0, key_id=NEW) == 1
    assert {answer.status for answer in late.deliver()} == {400}
    with pytest.raises(ConflictError):
        behind.publish(cas=0, key_id=OLD)
    stored = openbao.read("aws/111122223333/ci", mount=kv_mount)
    assert stored is not None
    assert (stored.version, stored.data["access_key_id"]) == (1, NEW)


def test_reading_back_cannot_tell_a_write_that_will_never_come_from_one_that_is_late(version_1: Version1) -> None:
    version_1.write(NEW, directly=True)
    before = version_1.read()
    late = version_1.hold_back(OLD)
    between = version_1.read()
    assert between["data"] == before["data"]
    late.deliver()
    assert version_1.served == OLD


def test_an_answer_names_neither_a_version_nor_a_time(version_1: Version1) -> None:
    written = version_1.write(NEW, directly=True)
    assert (written.status_code, written.content) == (204, b"")
    once = version_1.read()
    assert set(once["data"]) == set(fields(NEW)), "nothing of the server's own beside the fields"
    version_1.write(OLD, directly=True)
    version_1.write(NEW, directly=True)
    again = version_1.read()
    once.pop("request_id")
    again.pop("request_id")
    assert again == once, "a round trip leaves no trace"


def test_only_the_end_of_its_token_stops_a_write_that_is_late(version_1: Version1, openbao: OpenBaoServer) -> None:
    with openbao.client() as client:
        made = client.auth.token.create(policies=["root"], ttl="5m", no_parent=True)["auth"]
        token, accessor = remember(made["client_token"]), made["accessor"]
        late = version_1.hold_back(OLD, token=token)
        version_1.write(NEW, directly=True)
        client.auth.token.revoke_accessor(accessor)
    (answer,) = late.deliver()
    assert answer.status == 403
    assert version_1.served == NEW
