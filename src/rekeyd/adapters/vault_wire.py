"""One HTTP exchange with Vault: exactly one request, one time limit for all of it, nothing followed.

    exchange(…) -> Answer      whatever the status was
    TemporaryError             nothing was sent
    OutcomeUnknownError        sent, and the answer was lost
    RefusedError               nothing was sent, and it would fail again (certificates)

urllib3 is used below hvac's API classes, not requests: requests follows 307 and 308 to any host with the token and
the body, reads netrc and proxies, and its time-out starts anew with every byte. A proxy that the settings
name is asked for a tunnel: token, bodies and certificates are between rekeyd and Vault alone.
"""

import contextlib
import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as WrappedSSLError
from urllib3.util import parse_url

from rekeyd.adapters.vault_settings import VaultSettings, checked_address
from rekeyd.errors import OutcomeUnknownError, RefusedError, TemporaryError
from rekeyd.ports import Guard

# The server refuses the client certificate only after the handshake (TLS 1.3), so the request may have left;
# it was never read.
_CERTIFICATE_ALERTS = ("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED")
_FINAL_TLS_REASONS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "NO_CERTIFICATE_OR_CRL_FOUND", "PEM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whatever it was. The body may hold a secret, so it is never shown."""

    status: int
    body: Mapping[str, Any] | None = field(repr=False)
    """None: it was no JSON object."""
    errors: tuple[str, ...] | None = field(repr=False)
    """Vault's `errors`; empty and missing mean different things."""
    index: str | None = None
    """The cluster state that the answer comes from (`X-Vault-Index`)."""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def says(self, text: str) -> bool:
        return any(text in error for error in self.errors or ())

    def part(self, name: str) -> Mapping[str, Any] | None:
        """The object of this name in the body; None: there is none."""
        part = (self.body or {}).get(name)
        return part if isinstance(part, Mapping) else None


class _Exchange(threading.local):
    """The exchange that this thread is in; sockets and connections below urllib3 look at it."""

    deadline: float | None = None
    guard: Guard | None = None
    sent: bool = False


_exchange = _Exchange()


class _Bounded(Protocol):
    def settimeout(self, value: float | None, /) -> None: ...


def _bound(sock: _Bounded) -> None:
    """A time-out per socket operation would let a server that trickles bytes hold the call for ever."""
    if _exchange.deadline is None:
        return
    remaining = _exchange.deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the time for the whole call is over")
    sock.settimeout(remaining)


class _PlainSocket(socket.socket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _bound(self)
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        _bound(self)
        super().sendall(*args, **kwargs)


class _TlsSocket(ssl.SSLSocket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        _bound(self)
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        _bound(self)
        return super().send(*args, **kwargs)


def _begin() -> None:
    """Right before the first byte: after connecting, which can take long, and after that nothing holds it back."""
    if _exchange.sent:
        return
    if _exchange.deadline is not None and time.monotonic() >= _exchange.deadline:
        raise TimeoutError("the time for the whole call is over")
    if _exchange.guard is not None:
        _exchange.guard()
    _exchange.sent = True


def _bounded(plain: socket.socket) -> socket.socket:
    timeout = plain.gettimeout()
    bounded = _PlainSocket(fileno=plain.detach())
    bounded.settimeout(timeout)
    return bounded


class _PlainConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _bounded(super()._new_conn())

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        _begin()
        super().send(data)


class _TlsConnection(HTTPSConnection):
    _asks_proxy = False

    def _new_conn(self) -> socket.socket:
        # Of a proxy the first answer comes in clear, and it may trickle, too.
        return super()._new_conn() if self.proxy is None else _bounded(super()._new_conn())

    def _tunnel(self) -> None:
        self._asks_proxy = True
        try:
            super()._tunnel()
        finally:
            self._asks_proxy = False

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if not self._asks_proxy:  # what the proxy is asked, Vault never sees
            _begin()
        super().send(data)


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Wire:
    """The connections to one address. Safe to share between threads."""

    def __init__(self, settings: VaultSettings) -> None:
        """ConfigError for a bad address; certificate files are read at the first exchange."""
        self.address = checked_address(settings)
        self._settings = settings
        self._parts = urlsplit(self.address)
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._pool_stamp: tuple[object, ...] = ()

    def exchange(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        body: object = None,
        limit: float,
        guard: Guard | None = None,
    ) -> Answer:
        """`limit` in seconds. Whatever `guard` raises comes through, and then nothing was sent."""
        pool = self._pool_now()
        target = self._parts.path + path + (f"?{urlencode(params)}" if params else "")
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        with _exchanging(limit, guard):
            try:
                response = pool.urlopen(
                    method,
                    target,
                    body=content,
                    headers=dict(headers),
                    retries=False,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=limit, read=limit),
                    pool_timeout=math.ceil(limit),
                )
            except (HTTPError, OSError) as error:
                raise self._wrapped(error, limit) from error
        return _answer(response)

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _wrapped(self, error: Exception, limit: float) -> TemporaryError | OutcomeUnknownError | RefusedError:
        cause = _innermost(error)
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or str(cause)).upper()
            final = _CERTIFICATE_ALERTS if _exchange.sent else _FINAL_TLS_REASONS + _CERTIFICATE_ALERTS
            if isinstance(cause, ssl.SSLCertVerificationError) or any(word in reason for word in final):
                return self._untrusted(cause)
        elif isinstance(error, WrappedSSLError):  # the certificate's name does not fit
            return self._untrusted(error)
        if _exchange.sent:
            what = (
                f"no answer within {limit:.3g} s" if isinstance(cause, TimeoutError) else f"no answer: {_text(cause)}"
            )
            return OutcomeUnknownError(f"Vault at {self.address} gave {what}")
        what = f"no connection within {limit:.3g} s" if isinstance(cause, TimeoutError) else _text(cause)
        by = "" if self._settings.proxy is None else f" through the proxy {self._settings.proxy}"
        return TemporaryError(
            f"Vault at {self.address} cannot be reached{by}: {what}",
            hint=f"check vault.address{', vault.proxy' if by else ''}, the network and the server",
        )

    def _untrusted(self, cause: Exception) -> RefusedError:
        return RefusedError(
            f"no trusted TLS connection to Vault at {self.address}: {_text(cause)}",
            hint="check vault.ca_file and the client certificate, and that vault.address has the name in the "
            "server's certificate",
        )

    def _pool_now(self) -> urllib3.HTTPConnectionPool:
        """The pool; a new one after a certificate file was replaced, as open connections would keep the old one."""
        if self._parts.scheme == "http":
            stamp: tuple[object, ...] = ()
        else:
            files = (self._settings.ca_file, self._settings.client_cert_file, self._settings.client_key_file)
            stamp = tuple(_stamp(file) for file in files)
        with self._lock:
            if self._pool is None or stamp != self._pool_stamp:
                pool, self._pool = self._pool, self._new_pool()
                self._pool_stamp = stamp
                if pool is not None:
                    pool.close()
            return self._pool

    def _new_pool(self) -> urllib3.HTTPConnectionPool:
        host, size = self._parts.hostname or "", self._settings.pool_size
        if self._parts.scheme == "http":
            return _PlainPool(host, self._parts.port, maxsize=size, block=True)
        proxy = None if self._settings.proxy is None else parse_url(self._settings.proxy)
        return _TlsPool(host, self._parts.port, maxsize=size, block=True, ssl_context=self._context(), _proxy=proxy)

    def _context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            if settings.ca_file is None:
                context = ssl.create_default_context()
            else:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.load_verify_locations(cafile=settings.ca_file)
            if settings.client_cert_file is not None:
                context.load_cert_chain(settings.client_cert_file, settings.client_key_file, password=_no_password)
        except (OSError, ValueError) as error:
            raise RefusedError(
                f"the certificate files for Vault at {self.address} cannot be used: {_text(error)}",
                hint="check vault.ca_file, vault.client_cert_file and vault.client_key_file: PEM, readable, belonging "
                "together, without a password",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _TlsSocket
        return context


@contextlib.contextmanager
def _exchanging(limit: float, guard: Guard | None) -> Iterator[None]:
    _exchange.deadline = time.monotonic() + limit
    _exchange.guard = guard
    _exchange.sent = False
    try:
        yield
    finally:
        _exchange.deadline = _exchange.guard = None


def _answer(response: urllib3.BaseHTTPResponse) -> Answer:
    # Read whatever the content type says: a proxy that adds a charset must not turn "absent" into "unreadable".
    try:
        body = json.loads(response.data) if response.data else None
    except (ValueError, RecursionError):  # the latter: brackets nested a thousand deep
        body = None
    errors = body.get("errors") if isinstance(body, dict) else None
    return Answer(
        status=response.status,
        body=body if isinstance(body, dict) else None,
        errors=tuple(str(e) for e in errors) if isinstance(errors, list) else None,
        index=response.headers.get("X-Vault-Index"),
    )


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ValueError("the client key is encrypted")


def _stamp(file: object) -> object:
    if file is None:
        return None
    with contextlib.suppress(OSError):
        status = file.stat()  # type: ignore[attr-defined]
        return (status.st_mtime_ns, status.st_ino, status.st_size)
    return None


def _innermost(error: BaseException) -> BaseException:
    while True:
        below = error.__cause__ or error.__context__
        if below is None or not isinstance(below, HTTPError | OSError):
            inner = next((a for a in error.args if isinstance(a, OSError | HTTPError)), None)
            if inner is None or inner is error:
                return error
            below = inner
        error = below


def _text(error: BaseException) -> str:
    """A short cause; these errors name hosts and files, and never hold a header or a body."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "the certificate is not trusted"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, NewConnectionError):
        return str(error).rsplit(": ", 1)[-1]
    if isinstance(error, OSError) and error.strerror:
        name = f" ({error.filename})" if error.filename else ""
        return error.strerror.lower() + name
    return str(error).rsplit("): ", 1)[-1] or type(error).__name__
