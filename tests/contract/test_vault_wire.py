"""The connection itself: who is trusted, how long a call may take, and what a broken server can do."""

import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import CertAuth, TokenFileAuth, VaultSettings
from rekeyd.adapters.vault_wire import Wire
from rekeyd.core.model import Place, VaultAbsent, VaultHeld
from rekeyd.errors import ConfigError, LeaseLostError, OutcomeUnknownError, RefusedError, TemporaryError
from tests.contract.vault_stand import NEW, SteadyClock, pair, unguarded
from tests.contract.vault_tls import Authority, TlsServer
from tests.secret_registry import write_secret

pytestmark = pytest.mark.slow

START = datetime(2026, 1, 1, tzinfo=UTC)
LOGGED_IN = {"auth": {"client_token": "s.bycertificate", "lease_duration": 600, "renewable": True}}


def settings(address: str, folder: Path, **more: object) -> VaultSettings:
    token_file = write_secret(folder / "token", "s.thetokenthatnobodysees12")
    made = VaultSettings(address=address, auth=TokenFileAuth(token_file=token_file), state_path="rekeyd/default")
    return replace(made, **more)  # type: ignore[arg-type]  # the tests' own keywords


# --- time ---


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does `talk` with its first connection; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            try:
                connection, _ = listening.accept()
                with connection:
                    talk(connection)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread.join(5)


def trickle(text: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in text:
            connection.sendall(bytes([byte]))
            # Each byte well within any limit per socket operation.
            threading.Event().wait(0.05)

    return talk


@pytest.mark.parametrize(
    "text",
    [b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 400, b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + b"x" * 400],
    ids=["headers", "body"],
)
def test_a_server_that_trickles_bytes_cannot_hold_a_call(tmp_path: Path, text: bytes) -> None:
    with raw_server(trickle(text)) as address:
        wire = Wire(settings(address, tmp_path))
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError, match=r"gave no answer within 0\.4 s"):
            wire.exchange("GET", "/v1/x", headers={}, limit=0.4)
        assert time.monotonic() - began < 2
        wire.close()


def test_a_server_that_trickles_its_handshake_cannot_hold_a_call(tmp_path: Path) -> None:
    hello = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03" + b"\x00" * 400  # a long ServerHello that never ends
    with raw_server(trickle(hello)) as address:
        wire = Wire(settings(address.replace("http:", "https:"), tmp_path))
        began = time.monotonic()
        with pytest.raises(TemporaryError, match=r"no connection within 0\.4 s"):
            wire.exchange("POST", "/v1/x", headers={}, body={}, limit=0.4)
        assert time.monotonic() - began < 2
        wire.close()


def test_a_server_that_trickles_bytes_below_tls_cannot_hold_a_call(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("vault", "127.0.0.1"))
    body = trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + b"x" * 400)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            body(secured)

    with raw_server(talk) as address:
        wire = Wire(settings(address.replace("http:", "https:"), tmp_path, ca_file=authority.file))
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError, match=r"gave no answer within 0\.4 s"):
            wire.exchange("GET", "/v1/x", headers={}, limit=0.4)
        assert time.monotonic() - began < 2
        wire.close()


def test_a_server_that_never_answers_cannot_hold_a_call(tmp_path: Path) -> None:
    done = threading.Event()

    def silence(connection: socket.socket) -> None:
        done.wait(5)

    with raw_server(silence) as address:
        wire = Wire(settings(address, tmp_path))
        with pytest.raises(OutcomeUnknownError, match=r"gave no answer within 0\.2 s"):
            wire.exchange("POST", "/v1/x", headers={}, body={"a": 1}, limit=0.2)
        done.set()
        wire.close()


def test_a_refused_connection_sent_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    asked: list[str] = []
    with pytest.raises(TemporaryError, match=r"cannot be reached: .*onnection refused"):
        Wire(settings(address, tmp_path)).exchange(
            "POST", "/v1/x", headers={}, body={}, limit=1, guard=lambda: asked.append("guard")
        )
    assert asked == [], "the guard comes after connecting, right before the first byte"


def test_a_name_that_does_not_resolve_sent_nothing(tmp_path: Path) -> None:
    wire = Wire(settings("https://no-such-host.invalid:8200", tmp_path))
    with pytest.raises(TemporaryError, match="cannot be reached"):
        wire.exchange("GET", "/v1/x", headers={}, limit=5)


def test_a_guard_that_refuses_lets_no_byte_out(tmp_path: Path) -> None:
    received: list[bytes] = []

    def refuse() -> None:
        raise LeaseLostError("somebody else holds the account")

    with raw_server(lambda connection: received.append(connection.recv(100))) as address:
        wire = Wire(settings(address, tmp_path))
        with pytest.raises(LeaseLostError, match="somebody else"):
            wire.exchange("POST", "/v1/x", headers={}, body={}, limit=1, guard=refuse)
        wire.close()
    assert b"".join(received) == b""


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("vault.example:8200", "is not an http"),
        ("ftp://vault.example", "is not an http"),
        ("https://vault.example:8200/v1", "ends in /v1"),
        ("https://user:password@vault.example", "has a user, a query or a fragment"),
        ("https://vault.example?x=1", "has a user, a query or a fragment"),
        ("http://vault.example:8200", "would send secrets in clear"),
        ("http://127.example.org", "would send secrets in clear"),
    ],
)
def test_an_address_that_would_be_a_mistake_or_a_leak_is_refused(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Wire(settings(address, tmp_path))
    assert "password" not in caught.value.message


@pytest.mark.parametrize("address", ["http://127.0.0.1:8200/", "http://localhost", "http://[::1]:8200", "https://v/x"])
def test_loopback_and_prefixes_are_fine(tmp_path: Path, address: str) -> None:
    assert Wire(settings(address, tmp_path)).address == address.rstrip("/")


def test_plain_http_can_be_allowed(tmp_path: Path) -> None:
    assert Wire(settings("http://vault:8200", tmp_path, allow_http=True)).address == "http://vault:8200"


# --- certificates ---


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "our-ca")


def get(wire: Wire) -> int:
    return wire.exchange("GET", "/v1/x", headers={}, limit=5).status


def test_a_server_that_our_authority_vouches_for_is_trusted(tmp_path: Path, authority: Authority) -> None:
    with TlsServer(authority.issue("vault", "127.0.0.1")) as vault:
        wire = Wire(settings(vault.address, tmp_path, ca_file=authority.file))
        assert get(wire) == 200
        wire.close()


@pytest.mark.parametrize("trouble", ["another authority", "another name", "the system's authorities"])
def test_a_server_that_is_not_vouched_for_is_refused(
    tmp_path: Path, authority: Authority, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No environment variable makes it trusted.
    monkeypatch.setenv("VAULT_SKIP_VERIFY", "true")
    monkeypatch.setenv("VAULT_CACERT", str(authority.file))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    ca_file = {"another authority": Authority(tmp_path, "other-ca").file, "another name": authority.file}.get(trouble)
    address = "127.0.0.2" if trouble == "another name" else "127.0.0.1"
    with TlsServer(authority.issue("vault", address)) as vault:
        wire = Wire(settings(vault.address, tmp_path, ca_file=ca_file))
        with pytest.raises(RefusedError, match=f"no trusted TLS connection to Vault at {vault.address}: .") as caught:
            get(wire)
        assert caught.value.hint is not None
        assert "vault.ca_file" in caught.value.hint
        assert vault.callers == []
        wire.close()


@pytest.mark.parametrize("content", [None, "", "junk"], ids=["missing", "empty", "junk"])
def test_a_certificate_file_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RefusedError, match=r"the certificate files for Vault at https://127\.0\.0\.1:1 cannot be used"):
        get(Wire(settings("https://127.0.0.1:1", tmp_path, ca_file=file)))


def test_https_to_a_plain_port_is_a_refusal(tmp_path: Path) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with (
        raw_server(talk) as address,
        pytest.raises(RefusedError, match="no trusted TLS connection"),
    ):
        get(Wire(settings(address.replace("http", "https"), tmp_path)))


def test_a_server_that_wants_a_client_certificate_refuses_clearly(tmp_path: Path, authority: Authority) -> None:
    with TlsServer(authority.issue("vault", "127.0.0.1"), client_ca=authority.file) as vault:
        wire = Wire(settings(vault.address, tmp_path, ca_file=authority.file))
        with pytest.raises((RefusedError, OutcomeUnknownError), match=r"certificate required|gave no answer"):
            get(wire)
        wire.close()


def test_a_replaced_client_certificate_is_used_by_the_next_call(tmp_path: Path, authority: Authority) -> None:
    certificate = authority.issue("first", file="client.pem")
    with TlsServer(authority.issue("vault", "127.0.0.1"), client_ca=authority.file) as vault:
        wire = Wire(settings(vault.address, tmp_path, ca_file=authority.file, client_cert_file=certificate))
        get(wire)
        get(wire)
        authority.issue("second", file="client.pem")
        get(wire)
        assert vault.callers == ["first", "first", "second"]
        wire.close()


def test_a_login_by_certificate_shows_it_and_names_the_role(tmp_path: Path, authority: Authority) -> None:
    certificate = authority.issue("rekeyd", file="client.pem")
    with TlsServer(authority.issue("vault", "127.0.0.1"), client_ca=authority.file, answer=LOGGED_IN) as vault:
        clock = SteadyClock(START)
        made = KvVault(
            settings(
                vault.address,
                tmp_path,
                ca_file=authority.file,
                client_cert_file=certificate,
                auth=CertAuth(role="rotator"),
            ),
            clock,
        )
        assert made.token_ends_at() == START + timedelta(minutes=10)
        made.close()
    assert vault.bodies == [("/v1/auth/cert/login", {"name": "rotator"}), ("/v1/auth/token/revoke-self", None)]
    assert vault.callers == ["rekeyd", "rekeyd"]


# --- clusters ---


class _ClusterNode(http.server.BaseHTTPRequestHandler):
    """A standby whose index nobody can make (Vault Enterprise signs it): behind until a read names it."""

    protocol_version = "HTTP/1.1"
    index = "c2lnbmVkIGluZGV4"
    asked: ClassVar[list[tuple[str, str | None, str | None]]] = []

    def do_GET(self) -> None:
        named = self.headers.get("X-Vault-Index")
        self.asked.append((self.path, named, self.headers.get("X-Vault-Inconsistent")))
        if "/ui/mounts/" in self.path:
            self._say(200, {"data": {"type": "kv", "path": "secret/", "options": {"version": "2"}}})
        elif named == self.index and len([path for path, seen, _ in self.asked if seen == named]) < 3:
            # Still behind, and no way to the leader just now.
            self._say(429, {"errors": []})
        elif named == self.index:
            metadata = {"version": 1, "created_time": "2026-11-23T10:00:00.123456789Z", "custom_metadata": None}
            fields = {"access_key_id": "AKIANEWNEWNEWNEW0002", "secret_access_key": "x"}
            self._say(200, {"data": {"data": fields, "metadata": metadata}})
        else:
            self._say(404, {"errors": []})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        made = {"version": 1, "created_time": "2026-11-23T10:00:00.123456789Z"}
        self._say(200, {"data": made}, index=self.index)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""

    def _say(self, status: int, answer: object, *, index: str | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        if index is not None:
            self.send_header("X-Vault-Index", index)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_a_read_after_a_write_names_the_write_so_that_a_standby_asks_the_leader(tmp_path: Path) -> None:
    _ClusterNode.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ClusterNode)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    clock = SteadyClock(START)
    vault = KvVault(settings(address, tmp_path), clock)
    place = Place(
        address=address,
        namespace="",
        mount="secret",
        path="aws/ci",
        id_field="access_key_id",
        secret_field="secret_access_key",
    )
    assert vault.current(place) == VaultAbsent(0)
    vault.publish(place, pair(NEW), cas=0, extra={}, guard=unguarded, give_up_at=clock.in_time())
    assert isinstance(vault.current(place), VaultHeld)
    reads = [asked for asked in _ClusterNode.asked if "/data/" in asked[0]]
    assert {policy for _, _, policy in reads} == {"forward-active-node"}
    assert [index for _, index, _ in reads] == [None] + 3 * [_ClusterNode.index]
    vault.close()
    server.shutdown()
    thread.join()
    server.server_close()
