"""An AppRole of its own for a test, on a real OpenBao behind a proxy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth, VaultAuth, VaultSettings
from rekeyd.core.model import VaultAbsent
from rekeyd.demo.emulator.faults import Answer, Incident
from rekeyd.demo.emulator.vault_proxy import VaultProxy
from tests.contract.vault_stand import OpenBaoStand, SteadyClock
from tests.secret_registry import remember, write_secret

POLICY = """
path "MOUNT/data/aws/*"     { capabilities = ["create", "read", "update"] }
path "MOUNT/metadata/aws/*" { capabilities = ["create", "read", "update", "patch"] }
path "MOUNT/destroy/aws/*"  { capabilities = ["update"] }
"""
LOGIN = "POST auth/*/login"
LOOK = "GET auth/token/lookup-self"
REVOKE = "POST auth/token/revoke-self"
UNWRAP = "POST sys/wrapping/unwrap"
RENEW = "POST auth/token/renew-self"


@dataclass(frozen=True, slots=True)
class Json:
    """Any answer of Vault."""

    body: str
    status: int = 200

    def apply(self, incident: Incident) -> Answer | None:  # noqa: ARG002
        return Answer(status=self.status, headers=(("Content-Type", "application/json"),), body=self.body.encode())


class Logins:
    """An AppRole of its own per test, behind a proxy."""

    def __init__(self, stand: OpenBaoStand, proxy: VaultProxy, folder: Path) -> None:
        self.stand = stand
        self.proxy = proxy
        self.name = f"rekeyd-{stand.mount}"
        stand.server.write_policy(self.name, POLICY.replace("MOUNT", stand.mount))
        self.role = stand.server.create_app_role(self.name, [self.name], token_ttl="1h", token_max_ttl="4h")
        remember(self.role.secret_id)
        self.secret_id_file = write_secret(folder / "secret_id", self.role.secret_id)
        self.clock = SteadyClock(datetime.now(UTC))  # noqa: TID251 - the server's clock is the machine's
        self.vault = self.adapter(AppRoleAuth(role_id=self.role.role_id, secret_id_file=self.secret_id_file))
        self.place = stand.place_at("aws/1/ci", address=proxy.address)

    def adapter(self, auth: VaultAuth) -> KvVault:
        settings: VaultSettings = replace(self.stand.settings, address=self.proxy.address, auth=auth)
        return KvVault(settings, self.clock)

    @property
    def count(self) -> int:
        return len(self.proxy.calls(LOGIN))

    def approle(self, act: Callable[[Any], Any]) -> Any:
        with self.stand.server.client() as client:
            return act(client.auth.approle)

    def revoke_all(self) -> None:
        with self.stand.server.client() as client:
            client.adapter.post("/v1/sys/leases/revoke-prefix/auth/approle/login")

    def works(self) -> bool:
        return self.vault.current(self.place) == VaultAbsent(0)
