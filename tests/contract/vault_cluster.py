"""OpenBao servers as they are run in production: TLS, raft, three nodes, and every way to log in set up on them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hvac
import requests
from joserfc import jwt
from joserfc.jwk import RSAKey

from rekeyd.adapters.vault_settings import (
    AppRoleAuth,
    CertAuth,
    JwtAuth,
    KubernetesAuth,
    TokenFileAuth,
    VaultAuth,
    VaultSettings,
)
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.demo.ports import free_port
from tests.contract.vault_tls import Authority, TlsServer
from tests.secret_registry import remember, write_secret

METHODS = ("token_file", "approle", "kubernetes", "jwt", "cert")
_LIMIT_SECONDS = 60.0

POLICY = """
path "secret/data/*"     { capabilities = ["create", "read", "update"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch"] }
path "secret/destroy/*"  { capabilities = ["update"] }
"""


class TlsOpenBao(OpenBaoServer):
    """Beside its plain listener one with TLS that asks for client certificates."""

    def __init__(self, certificate: Path, *, durable: bool) -> None:
        super().__init__(durable=durable)
        self.certificate = certificate
        self.tls_port = free_port()
        self._tls_port_for = 0
        self.audit_link = self.home / "audit"

    @property
    def tls_address(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    def _audit_device(self) -> str:
        if not self.audit_link.is_symlink():
            self.audit_link.with_name("audit.log").touch()
            self._link_audit(self.audit_link.with_name("audit.log"))
        # Mode 0000: the file's own is left alone, since it will be a device of the machine.
        return f'audit "file" "file" {{ options = {{ file_path = "{self.audit_link}", mode = "0000" }} }}\n'

    def fill_audit_disk(self, *, full: bool) -> None:
        """Every request is then carried out and answered with 500, as on a full disk."""
        self._link_audit(Path("/dev/full") if full else self.audit_link.with_name("audit.log"))
        self.open_audit_anew()

    def heal(self) -> None:
        """It was killed or sealed, or neither."""
        if self._process is None:
            self.restart()
        else:
            self.unseal()

    def open_audit_anew(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def _link_audit(self, to: Path) -> None:
        new = self.audit_link.with_name("audit.new")
        new.symlink_to(to)
        new.replace(self.audit_link)

    def _write_config(self) -> Path:
        if self._tls_port_for != self.port:
            # It did not come up at the ports before; a server that starts again keeps them.
            self.tls_port, self._tls_port_for = free_port(), self.port
        config = super()._write_config() or self.home / "server.hcl"
        before = config.read_text() if config.exists() and self.durable else ""
        before += self._audit_device()
        listener = (
            f'listener "tcp" {{\n  address = "127.0.0.1:{self.tls_port}"\n'
            f'  tls_cert_file = "{self.certificate}"\n  tls_key_file = "{self.certificate}"\n}}\n'
        )
        config.write_text(before + listener)
        return config


class Node(TlsOpenBao):
    """One of three raft nodes; the first makes the cluster, the others join it."""

    def __init__(self, certificate: Path, *, number: int, first: "Node | None") -> None:
        super().__init__(certificate, durable=True)
        self.number = number
        self.first = first
        if first is not None:
            self.audit_link = first.audit_link  # the device's path is the same on all nodes
        self._accepted = {200, 429}

    def _write_config(self) -> Path:
        config = super()._write_config()
        config.write_text(config.read_text().replace('node_id = "only"', f'node_id = "n{self.number}"'))
        return config

    def _initialise(self) -> None:
        if self.first is None:
            self._accepted = {200}
            super()._initialise()
            self._accepted = {200, 429}
            return
        self.root_token, self._unseal_key = self.first.root_token, self.first._unseal_key
        with self.client("") as client:
            client.sys.join_raft_cluster(leader_api_addr=self.first.address, retry=True)
        _until(self._unsealed, "the node to take the unseal key")

    def _unsealed(self) -> bool:
        with self.client("") as client, contextlib.suppress(hvac.exceptions.VaultError):
            return not client.sys.submit_unseal_key(self._unseal_key)["sealed"]
        return False

    def works(self) -> bool:
        """Whether a write through it arrives."""
        with contextlib.suppress(hvac.exceptions.VaultError, requests.RequestException):
            return self.write("healed", {"at": "now"}) > 0
        return False

    def unseal(self) -> None:
        _until(self._unsealed, "the node to unseal")
        self._await_active()

    def _await_active(self) -> None:
        _until(lambda: self._get("/v1/sys/health") in self._accepted, "the node to become active or standby")


class Cluster:
    """Three nodes. `standby` is where rekeyd is pointed at: it forwards writes to the leader and reads by itself."""

    def __init__(self, certificate: Path) -> None:
        first = Node(certificate, number=0, first=None)
        self.nodes = [first, *(Node(certificate, number=n, first=first) for n in (1, 2))]

    def start(self) -> "Cluster":
        for node in self.nodes:
            node.start()
            if node.first is None:
                # Else a node that joined votes only after ten seconds.
                with node.client() as client:
                    body = {"server_stabilization_time": "1s"}
                    client.adapter.post("/v1/sys/storage/raft/autopilot/configuration", json=body)
        _until(lambda: len(self.voters()) == 3, "three voters")
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def heal(self) -> None:
        """Whoever was killed or sealed is back, all three vote, and one of them leads."""
        for node in self.nodes:
            node.heal()
        _until(lambda: len(self.voters()) == 3 and self.standby.works(), "three voters and a leader")

    def fill_audit_disk(self, *, full: bool) -> None:
        self.nodes[0].fill_audit_disk(full=full)
        for node in self.nodes[1:]:
            node.open_audit_anew()

    def voters(self) -> list[str]:
        with self.nodes[0].client() as client, contextlib.suppress(hvac.exceptions.VaultError):
            servers = client.sys.read_raft_config()["data"]["config"]["servers"]
            return [server["node_id"] for server in servers if server["voter"]]
        return []

    @property
    def leader(self) -> Node:
        def found() -> Node | None:
            return next((n for n in self.alive if n._get("/v1/sys/health") == 200), None)

        leader: Node = _until(found, "a leader")
        return leader

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node._process is not None]

    @property
    def standby(self) -> Node:
        leader = self.leader
        return next(node for node in reversed(self.alive) if node is not leader)


def _until(look: Any, what: str) -> Any:
    ends = time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < ends:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {_LIMIT_SECONDS} s for {what}")


def _role_id_at(client: Any) -> str | None:
    with contextlib.suppress(hvac.exceptions.VaultError):
        return str(client.auth.approle.read_role_id("rekeyd")["data"]["role_id"])
    return None


@dataclass(slots=True)
class Logins:
    """Every login method on one server or cluster. `entry` is the node that rekeyd speaks to."""

    admin: TlsOpenBao
    entry: TlsOpenBao
    authority: Authority
    api_server: TlsServer
    folder: Path
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048))
    ttl: str = "1h"
    tokens: dict[str, str] = field(default_factory=dict)

    def set_up(self) -> "Logins":
        self.admin.write_policy("rekeyd", POLICY)
        client = self.admin.client()
        with client:
            for method in ("approle", "kubernetes", "jwt", "cert"):
                client.sys.enable_auth_method(method)
            self.set_up_approle(client)
            self.configure_jwt(client)
            self.make_jwt_role(client)
            self._configure_kubernetes(client)
            self.make_kubernetes_role(client)
            self.make_cert_role(client)
        self.new_token()
        self.new_jwt()
        return self

    def new_token(self) -> None:
        """As an agent replaces its file."""
        write_secret(self.folder / "token", self.admin.create_token(["rekeyd"], ttl=self.ttl))

    def revoke_token_of_file(self) -> None:
        self.admin.revoke_token((self.folder / "token").read_text().strip())

    def revoke_tokens_of(self, method: str) -> None:
        """All that this method ever gave."""
        with self.admin.client() as client:
            client.adapter.post(f"/v1/sys/leases/revoke-prefix/auth/{method}/login")

    def new_jwt(self) -> None:
        write_secret(self.folder / "jwt", self._signed())

    def make_cert_role(self, client: Any) -> None:
        certificate = self.authority.file.read_text()
        client.adapter.post(
            "/v1/auth/cert/certs/rekeyd",
            json={"certificate": certificate, "token_policies": ["rekeyd"], "token_ttl": self.ttl},
        )

    def await_kubernetes(self) -> None:
        """A standby takes a new configuration of this method over only every 30 s, and answers 403 until then."""
        _until(self._kubernetes_works, "the kubernetes method to work everywhere")

    def _kubernetes_works(self) -> bool:
        with self.entry.client("") as client, contextlib.suppress(hvac.exceptions.Forbidden):
            shown = (self.folder / "jwt").read_text().strip()
            made = client.auth.kubernetes.login("rekeyd", shown, use_token=False)
            return bool(remember(made["auth"]["client_token"]))
        return False

    def set_up_approle(self, client: Any) -> None:
        client.auth.approle.create_or_update_approle("rekeyd", token_policies=["rekeyd"], token_ttl=self.ttl)
        write_secret(self.folder / "role_id", client.auth.approle.read_role_id("rekeyd")["data"]["role_id"])
        write_secret(self.folder / "secret_id", self.new_secret_id())

    def renew_approle(self) -> None:
        """Vault locks a role_id after five refused logins, each node by itself; the next test gets another one."""
        with self.admin.client() as client:
            client.auth.approle.delete_role("rekeyd")
            self.set_up_approle(client)
        role_id = (self.folder / "role_id").read_text().strip()
        with self.entry.client() as client:
            _until(lambda: _role_id_at(client) == role_id, "the standby to learn of the role")

    def new_secret_id(self) -> str:
        with self.admin.client() as client:
            return remember(str(client.auth.approle.generate_secret_id("rekeyd")["data"]["secret_id"]))

    def configure_jwt(self, client: Any) -> None:
        client.auth.jwt.configure(
            jwt_validation_pubkeys=[self.key.as_pem(private=False).decode()], bound_issuer="https://issuer"
        )

    def make_jwt_role(self, client: Any) -> None:
        client.auth.jwt.create_role(
            "rekeyd",
            user_claim="sub",
            allowed_redirect_uris=[],
            role_type="jwt",
            bound_audiences=["vault"],
            token_policies=["rekeyd"],
            token_ttl=self.ttl,
        )

    def _configure_kubernetes(self, client: Any) -> None:
        client.auth.kubernetes.configure(
            kubernetes_host=self.api_server.address,
            kubernetes_ca_cert=self.authority.file.read_text(),
            disable_local_ca_jwt=True,
        )

    def make_kubernetes_role(self, client: Any) -> None:
        client.auth.kubernetes.create_role(
            "rekeyd",
            bound_service_account_names=["rekeyd"],
            bound_service_account_namespaces=["ops"],
            audience="vault",
            policies=["rekeyd"],
            ttl=self.ttl,
        )

    def _signed(self) -> str:
        now = int(datetime.now(UTC).timestamp())  # noqa: TID251 - the server judges it by the machine's clock
        claims = {
            "iss": "https://issuer",
            "aud": ["vault"],
            "sub": "system:serviceaccount:ops:rekeyd",
            "iat": now,
            "exp": now + 3000,
            "kubernetes.io": {"namespace": "ops", "serviceaccount": {"name": "rekeyd", "uid": "u-1"}},
        }
        return jwt.encode({"alg": "RS256"}, claims, self.key)

    def auth(self, method: str) -> VaultAuth:
        match method:
            case "token_file":
                return TokenFileAuth(token_file=self.folder / "token")
            case "approle":
                return AppRoleAuth(role_id_file=self.folder / "role_id", secret_id_file=self.folder / "secret_id")
            case "kubernetes":
                return KubernetesAuth(role="rekeyd", jwt_file=self.folder / "jwt")
            case "jwt":
                return JwtAuth(role="rekeyd", jwt_file=self.folder / "jwt")
            case _:
                return CertAuth(role="rekeyd")

    def settings(self, method: str, *, timeout: float = 5) -> VaultSettings:
        """Over TLS, with a certificate of rekeyd's own for `cert`."""
        client = self.folder / "rekeyd.pem"
        if not client.exists():
            self.authority.issue("rekeyd")
        return VaultSettings(
            address=self.entry.tls_address,
            auth=self.auth(method),
            state_path=f"rekeyd/{method}",
            ca_file=self.authority.file,
            client_cert_file=client if method == "cert" else None,
            timeout=timedelta(seconds=timeout),
        )


REVIEW = {
    "kind": "TokenReview",
    "apiVersion": "authentication.k8s.io/v1",
    "status": {
        "authenticated": True,
        "audiences": ["vault"],
        "user": {"username": "system:serviceaccount:ops:rekeyd", "uid": "u-1"},
    },
}


@contextlib.contextmanager
def production(kind: str, folder: Path) -> Iterator[tuple[Logins, Cluster | None]]:
    """`kind`: dev, raft or cluster (through a standby)."""
    authority = Authority(folder, "ca")
    certificate = authority.issue("server", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        api_server = stack.enter_context(TlsServer(authority.issue("api-server", "127.0.0.1"), answer=REVIEW))
        cluster: Cluster | None = None
        admin: TlsOpenBao
        entry: TlsOpenBao
        if kind == "cluster":
            cluster = Cluster(certificate)
            stack.callback(cluster.stop)
            cluster.start()
            admin, entry = cluster.leader, cluster.standby
        else:
            server = TlsOpenBao(certificate, durable=kind == "raft")
            stack.callback(server.stop)
            server.start()
            admin = entry = server
        remember(admin.root_token)
        yield Logins(admin, entry, authority, api_server, folder).set_up(), cluster
