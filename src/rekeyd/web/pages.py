"""The endpoints.

    /healthz          200 while the scheduler's heart beats, else 503: then a restart helps
    /readyz           200 while everything works, else 503 and what does not: then a restart seldom helps
    /metrics          Prometheus
    /api/v1/status    the document of `rekeyd status --json`
    /                 the same for people

The first three name accounts, never keys, and ask for no token: probes and scrapers have none. Page and API ask for the
token in `http.token_file`, as `Authorization: Bearer …`, the page also as the password of any user name, since browsers
ask for that. Without a token they answer on loopback only, and only to whoever calls this machine by its own name:
a foreign name in a browser that leads to 127.0.0.1 is how a foreign page reads what is shown here.
"""

import binascii
import hmac
import ipaddress
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from rekeyd.errors import Error
from rekeyd.fleet.documents import SCHEMA_VERSION
from rekeyd.web import status_page

_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Daemon(Protocol):
    """What the endpoints show. Each may be called by many threads."""

    def stalled(self) -> Sequence[str]:
        """Why a restart is needed; empty: all is alive."""

    def not_ready(self) -> Sequence[str]:
        """What does not work now, in words for people; empty: everything does."""

    def exposition(self) -> bytes:
        """The metrics in text format."""

    def status(self) -> Mapping[str, Any]:
        """DESIGN §8's document. Raises `Error`."""

    def token_file(self) -> Path | None:
        """Whose content the API asks for; None: no token is set up."""


def application(daemon: Daemon, *, on_loopback: bool) -> Starlette:
    """`on_loopback`: only programs on this machine can reach it."""

    # Plain functions, so that each runs in a thread: the journal may be slow.
    def healthz(_request: Request) -> Response:
        return _verdict(daemon.stalled())

    def readyz(_request: Request) -> Response:
        return _verdict(daemon.not_ready())

    def metrics(_request: Request) -> Response:
        return Response(
            daemon.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8", **_NO_STORE}
        )

    def status(request: Request) -> Response:
        refusal = _refusal(request, daemon.token_file(), on_loopback=on_loopback)
        if refusal is not None:
            return refusal
        try:
            return JSONResponse(dict(daemon.status()), headers=_NO_STORE)
        except Error as error:
            return _problem(503, error.code, error.message, error.hint)

    def page(request: Request) -> Response:
        refusal = _refusal(request, daemon.token_file(), on_loopback=on_loopback, basic=True)
        if refusal is not None:
            return refusal
        try:
            content = status_page.render(daemon.status(), daemon.not_ready())
        except Error as error:
            return _problem(503, error.code, error.message, error.hint)
        headers = {"Content-Security-Policy": status_page.policy(), "Referrer-Policy": "no-referrer", **_NO_STORE}
        return HTMLResponse(content, headers=headers)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/api/v1/status", status),
        ],
        exception_handlers={404: _not_found},
    )


def _verdict(problems: Sequence[str]) -> Response:
    document = {"status": "failing" if problems else "ok", "problems": list(problems)}
    return JSONResponse(document, status_code=503 if problems else 200, headers=_NO_STORE)


def _refusal(request: Request, token_file: Path | None, *, on_loopback: bool, basic: bool = False) -> Response | None:
    """None: the request may be answered. `basic`: the token may also come as a password."""
    if token_file is None:
        return _refusal_without_token(request.url.hostname, on_loopback=on_loopback)
    try:
        # Read each time: it is replaced while we run.
        expected = token_file.read_bytes().strip()
    except OSError as error:
        return _problem(503, "configuration", f"http.token_file {token_file} cannot be read: {error.strerror}", None)
    if not expected:
        return _problem(503, "configuration", f"http.token_file {token_file} is empty", None)
    given = _given_token(request.headers.get("authorization", ""), basic=basic)
    if given is not None and hmac.compare_digest(given, expected):
        return None
    answer = _problem(401, "refused", "a token is needed", "Authorization: Bearer <content of http.token_file>")
    answer.headers["WWW-Authenticate"] = 'Basic realm="rekeyd", charset="UTF-8"' if basic else "Bearer"
    return answer


def _refusal_without_token(asked_for: str | None, *, on_loopback: bool) -> Response | None:
    if not on_loopback:
        return _problem(
            403,
            "refused",
            "without http.token_file this is shown on loopback only",
            "set http.token_file, or listen on 127.0.0.1",
        )
    if not _is_own_name(asked_for):
        return _problem(
            403,
            "refused",
            f"without http.token_file this is shown to whoever asks for localhost, not for {asked_for}",
            "set http.token_file, or ask for http://localhost",
        )
    return None


def _given_token(authorization: str, *, basic: bool) -> bytes | None:
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode("latin-1")
    if basic and scheme.lower() == "basic":
        try:
            return b64decode(given.strip().encode("latin-1"), validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None


def _is_own_name(host: str | None) -> bool:
    if host in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _problem(status: int, code: str, message: str, hint: str | None) -> Response:
    document = {"schema_version": SCHEMA_VERSION, "error": {"code": code, "message": message, "hint": hint}}
    return JSONResponse(document, status_code=status, headers=_NO_STORE)


async def _not_found(_request: Request, _error: Exception) -> Response:
    return _problem(404, "not_found", "no such page", "/ /healthz /readyz /metrics /api/v1/status")
