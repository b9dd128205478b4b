"""A forwarding proxy before a real Vault or OpenBao, with the fault rules of the emulated AWS.

    with VaultProxy(server.address) as vault:
        vault.fault("POST secret/data/*", when="after", do=Drop())

An operation is the method and the path below /v1/, percent-decoded; the journal
holds neither bodies nor tokens. Http(200, "html") plays the captive portal.
"""

import http.client
import json
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from rekeyd.demo.emulator.clock import WorldClock
from rekeyd.demo.emulator.faults import Answer, Incident, SeenRequest
from rekeyd.demo.emulator.serving import FaultyServer, Received

# Headers that belong to one connection (RFC 9110, 7.6.1), and what the proxy sets itself.
_NOT_FORWARDED = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}
)
_UPSTREAM_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class VaultError:
    """Any status with Vault's JSON body; without errors as OpenBao's "standby is behind" (412, 429)."""

    status: int
    errors: tuple[str, ...] = ()

    def apply(self, incident: Incident) -> Answer | None:  # noqa: ARG002
        return _errors(self.status, *self.errors)


@dataclass(frozen=True, slots=True)
class Sealed:
    def apply(self, incident: Incident) -> Answer | None:  # noqa: ARG002
        return _errors(503, "Vault is sealed")


@dataclass(frozen=True, slots=True)
class Redirect:
    """To the same path at another address."""

    to: str
    status: int = 307

    def apply(self, incident: Incident) -> Answer | None:
        location = self.to.rstrip("/") + incident.seen.path
        return Answer(status=self.status, headers=(("Location", location),), body=b"")


@dataclass(frozen=True, slots=True)
class StaleRead:
    """A GET is answered as before the last write of that secret, as a lagging standby does.

    The proxy looks at the secret before each write while such a rule is in force, so make the
    rule before the write. Reads of secrets not written since, and of older versions, pass.
    """

    def apply(self, incident: Incident) -> Answer | None:
        return incident.stale_answer()


class VaultProxy(FaultyServer):
    """See the module's docstring. `upstream` may be changed while it runs (failover)."""

    def __init__(self, upstream: str, *, clock: WorldClock | None = None) -> None:
        """`upstream` is a plain http URL."""
        super().__init__()
        self.upstream = upstream
        self.clock = clock or WorldClock()
        self._before_write: dict[str, Answer] = {}

    @property
    def address(self) -> str:
        """For VAULT_ADDR."""
        return self.url

    def read(self, received: Received, seq: int) -> SeenRequest:
        below = unquote(received.path.removeprefix("/v1/"))
        return SeenRequest(
            seq=seq,
            at=self.clock.now(),
            service="vault",
            op=f"{received.method} {below}",
            method=received.method,
            path=received.path,
            user_agent=received.headers.get("user-agent", ""),
        )

    def act(self, received: Received, seen: SeenRequest) -> Answer:
        del seen
        if received.method != "GET" and self.rules.expects(StaleRead):
            self._remember(received)
        return self._forward(received, received.method, _target(received), received.body)

    def render_error(self, seen: SeenRequest, code: str, message: str, status: int | None) -> Answer:
        if code == "Throttling":
            answer = _errors(429, f'request path "{seen.path}": rate limit quota exceeded')
            return Answer(status=429, headers=(*answer.headers, ("Retry-After", "0")), body=answer.body)
        return _errors(status or 500, message)

    def stale_answer(self, received: Received) -> Answer | None:
        if received.method != "GET":
            return None
        old = self._before_write.get(received.path)
        if old is None:
            return None
        wanted = parse_qs(received.query).get("version")
        if wanted is None or old.status != 200:
            return old
        version = _version(old.body)
        if version is not None and int(wanted[0]) > version:
            return _errors(404)
        return None

    def _remember(self, received: Received) -> None:
        for path in {received.path, received.path.replace("/data/", "/metadata/", 1)}:
            self._before_write[path] = self._forward(received, "GET", path, b"")

    def _forward(self, received: Received, method: str, target: str, body: bytes) -> Answer:
        address = urlsplit(self.upstream)
        headers = {name: value for name, value in received.headers.items() if name not in _NOT_FORWARDED}
        if body:
            headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection(
            address.hostname or "127.0.0.1", address.port or 80, timeout=_UPSTREAM_TIMEOUT_SECONDS
        )
        try:
            connection.request(method, target, body=body or None, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            return _errors(502, "upstream is unreachable")
        finally:
            connection.close()
        kept = tuple((name, value) for name, value in response.getheaders() if name.lower() not in _NOT_FORWARDED)
        return Answer(status=response.status, headers=kept, body=content)


def _target(received: Received) -> str:
    return quote(received.path, safe="/%:@!$&'()*+,;=~") + (f"?{received.query}" if received.query else "")


def _version(body: bytes) -> int | None:
    try:
        return int(json.loads(body)["data"]["metadata"]["version"])
    except (KeyError, TypeError, ValueError):
        return None


def _errors(status: int, *errors: str) -> Answer:
    body = json.dumps({"errors": list(errors)}).encode()
    return Answer(status=status, headers=(("Content-Type", "application/json"),), body=body)
