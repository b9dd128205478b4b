"""A small threaded HTTP server on loopback in which every request passes the fault rules.

Order for each request: journal, "before" rules, the other side acts, "after"
rules, the answer is sent, "answered" rules. Subclasses say how to read a
request (`read`), how to act on it (`act`) and how an error looks (`render_error`).
"""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from rekeyd.demo.emulator.faults import Answer, Cut, Faulty, Incident, Rule, SeenRequest

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it came in, body read."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    host: str


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        """Nothing: the journal of requests says more, and never a query string."""

    def send_response(self, code: int, message: str | None = None) -> None:
        """Without headers of its own: a Date of the machine beside the world's would be two."""
        self.send_response_only(code, message)


class _Sent:
    """A WSGI body that tells when it has been sent."""

    def __init__(self, body: bytes, then: Callable[[], object]) -> None:
        self._body = body
        self._then = then

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    def close(self) -> None:
        self._then()


class FaultyServer(Faulty):
    """Start with `with server:` or start()/stop(); `url` is known once it is started."""

    def __init__(self) -> None:
        super().__init__()
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._seq = itertools.count(1)
        self._journal_lock = threading.Lock()

    # -- what a subclass provides

    def read(self, received: Received, seq: int) -> SeenRequest:
        raise NotImplementedError

    def act(self, received: Received, seen: SeenRequest) -> Answer:
        raise NotImplementedError

    def render_error(self, seen: SeenRequest, code: str, message: str, status: int | None) -> Answer:
        raise NotImplementedError

    def stale_answer(self, received: Received) -> Answer | None:  # noqa: ARG002
        """What a lagging replica would say; None where nothing older is known."""
        return None

    # -- life

    def start(self) -> Self:
        if self._server is not None:
            raise RuntimeError("already started")
        self._server = make_server("127.0.0.1", 0, self._application, threaded=True, request_handler=_QuietHandler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name=type(self).__name__, daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Releases what is held and stops; may be called twice."""
        self.clear_faults()
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join(timeout=10)
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start() if self._server is None else self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("not started")
        return int(self._server.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # -- one request

    def _application(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        received = _receive(environ)
        with self._journal_lock:
            seen = self.read(received, next(self._seq))
            self.requests.append(seen)
            if self.journal_limit is not None and len(self.requests) > 2 * self.journal_limit:
                del self.requests[: -self.journal_limit]
            firing = self.rules.firing(seen)
        answer = self._answer(received, seen, firing)
        answered = [rule for rule in firing if rule.when == "answered"]
        if answer.cut is not None:
            _cut(environ["werkzeug.socket"], answer)
            self._apply(answered, received, seen, answer)
            # werkzeug takes this as the client having gone away.
            raise ConnectionResetError
        seen.status = answer.status
        headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
        headers.append(("Content-Length", str(len(answer.body))))
        start_response(f"{answer.status} {_phrase(answer.status)}", headers)
        return _Sent(answer.body, lambda: self._apply(answered, received, seen, answer))

    def _answer(self, received: Received, seen: SeenRequest, firing: list[Rule]) -> Answer:
        early = self._apply([rule for rule in firing if rule.when == "before"], received, seen, None)
        if early is not None:
            return early
        answer = self._act(received, seen)
        late = self._apply([rule for rule in firing if rule.when == "after"], received, seen, answer)
        return answer if late is None else late

    def _act(self, received: Received, seen: SeenRequest) -> Answer:
        seen.acted = True
        answer = self.act(received, seen)
        seen.acted_status = answer.status
        return answer

    def _apply(self, rules: list[Rule], received: Received, seen: SeenRequest, answer: Answer | None) -> Answer | None:
        """The replaced answer, or None where every effect let the request go on."""
        changed = None
        for rule in rules:
            seen.fault = type(rule.do).__name__
            incident = Incident(
                rule=rule,
                seen=seen,
                answer=changed or answer,
                error_answer=lambda code, message, status: self._error(seen, code, message, status),
                forward=lambda: self._act(received, seen),
                stale_answer=lambda: self.stale_answer(received),
                rules=self.rules,
            )
            new = rule.do.apply(incident)
            rule.hit.set()
            if new is not None:
                changed = new
                if rule.when == "before":
                    return changed
        return changed

    def _error(self, seen: SeenRequest, code: str, message: str, status: int | None) -> Answer:
        seen.error = code
        return self.render_error(seen, code, message, status)


def _receive(environ: Environ) -> Received:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    headers = {
        name[5:].replace("_", "-").lower(): str(value) for name, value in environ.items() if name.startswith("HTTP_")
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").lower()] = str(environ[name])
    # REQUEST_URI keeps the client's percent-encoding, which PATH_INFO has lost.
    raw_path, _, query = str(environ.get("REQUEST_URI") or environ["PATH_INFO"]).partition("?")
    return Received(
        method=str(environ["REQUEST_METHOD"]),
        path=raw_path,
        query=query,
        headers=headers,
        body=environ["wsgi.input"].read(length) if length else b"",
        host=str(environ.get("HTTP_HOST", "")),
    )


def _cut(connection: socket.socket, answer: Answer) -> None:
    """Sends what is to be sent of a broken answer and shuts the connection."""
    with contextlib.suppress(OSError):
        if answer.cut is not Cut.DROPPED:
            headers = [f"{name}: {value}" for name, value in answer.headers if name.lower() != "content-length"]
            if answer.cut is Cut.TRUNCATED:
                headers.append(f"Content-Length: {len(answer.body)}")
            head = "\r\n".join([f"HTTP/1.0 {answer.status} {_phrase(answer.status)}", *headers, "", ""])
            connection.sendall(head.encode("latin-1") + answer.body[: len(answer.body) // 2])
        connection.shutdown(socket.SHUT_RDWR)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
