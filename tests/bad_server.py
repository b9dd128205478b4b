"""A server that gives every request the same answer, and the bent answers that it gives."""

import copy
import gc
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONGEST = 20.0
"""Seconds; far above what any of these calls takes, far below "hangs"."""
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Server:
    """Gives `answer` to every request, unless `known` has one for a part of it."""

    def __init__(self) -> None:
        self.status, self.kind, self.body = 200, "application/json", b""
        self.announced: int | None = None
        self.known: dict[str, bytes] = {}
        self.sent: list[tuple[str, str]] = []
        """Path, names and body of each request, and who signed it."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
                asked = f"{self.path} {self.headers.get('X-Amz-Target', '')} {sent}"
                server.sent.append((asked, self.headers.get("Authorization") or ""))
                good = next((body for part, body in server.known.items() if part in asked), None)
                body = server.body if good is None else good
                self.send_response(server.status if good is None else 200)
                self.send_header("Content-Type", server.kind if good is None else "application/json")
                length = len(body) if good is not None or server.announced is None else server.announced
                self.send_header("Content-Length", str(length))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - names of the library

            def log_message(self, *_: object) -> None:
                """The test says what went wrong."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def answers(self, status: int, kind: str, body: bytes, *, cut: bool = False) -> None:
        self.status, self.kind, self.body = status, kind, body
        self.announced = len(body) + 100 if cut else None

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


@contextmanager
def a_server() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def own_credentials() -> Iterator[None]:
    """rekeyd has some; and what botocore repeats (5xx, 429) it repeats at once, and not after seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", OWN_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nobodysSecretOfATestThatReachesNoAws")
        patch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
        patch.setattr("botocore.retries.adaptive.ClientRateLimiter.on_sending_request", lambda *_, **__: None)
        yield


@contextmanager
def within_time() -> Iterator[None]:
    """Without the garbage collector: in the depth of a nested answer it has no stack left for what it ends, and says so
    by a warning, which is an error here."""
    began, collecting = time.monotonic(), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
    assert time.monotonic() - began < LONGEST


OWN_KEY = "AKIAREKEYDREKEYDREKE"
HTML = b"<html><head><title>Sign in</title></head><body>503 upstream</body></html>"
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.sampled_from(
        ["2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999+14:00", "not a date"]
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def bent(draw: Callable[[st.SearchStrategy[Any]], Any], document: Any) -> Any:
    """The document with up to three of its values, at any depth, replaced or taken away."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(made))
        if not found:
            break
        holder, at = found[draw(st.integers(0, len(found) - 1))]
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[at]
        else:
            holder[at] = draw(anything)
    return made


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for at, value in list(pairs):
        yield node, at
        yield from places(value)


def json_bodies(*good: Any) -> st.SearchStrategy[bytes]:
    """One of these documents bent, another one, or no JSON at all."""
    documents = st.one_of(*(bent(document) for document in good), anything)
    return st.one_of(
        documents.map(lambda document: json.dumps(document).encode()),
        st.sampled_from([HTML, b"", b"null", b"[]", b"[" * 5000, b'{"data": {"data": ', b"\xff\xfe{}"]),
        st.binary(max_size=30),
    )
