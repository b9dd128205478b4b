"""The HTTP server: uvicorn in a thread of the daemon."""

import ipaddress
import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn

from rekeyd.core.events import Event
from rekeyd.errors import ConfigError
from rekeyd.logs import get_logger
from rekeyd.web.pages import Daemon, application

log = get_logger()

# Answers take milliseconds; whoever holds a connection open shall not hold up the end of the daemon.
_STOP_LIMIT_S = 2
_BACKLOG = 64


class HttpServer:
    """Serves from `with` on until its end."""

    def __init__(self, daemon: Daemon, *, host: str, port: int) -> None:
        """`port` 0 takes a free one. ConfigError: the address cannot be listened on."""
        self._socket = _bound(host, port)
        name: str
        name, self.port = self._socket.getsockname()[:2]
        self.address = f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"
        """As it came out."""
        on_loopback = ipaddress.ip_address(name.partition("%")[0]).is_loopback
        self._closed = not on_loopback and daemon.token_file() is None
        settings = uvicorn.Config(
            application(daemon, on_loopback=on_loopback),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            # Its lines go where all libraries' lines go.
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_LIMIT_S,
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._run, name="rekeyd-http", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        log.info(Event.HTTP_OPENED, address=self.address)
        if self._closed:
            # Probes and scrapers have no token, so /healthz, /readyz and /metrics answer all the same.
            log.warning(Event.API_CLOSED, address=self.address, hint="set http.token_file, or listen on 127.0.0.1")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=2 * _STOP_LIMIT_S)
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def _bound(host: str, port: int) -> socket.socket:
    last: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"http.listen: {host} cannot be resolved: {error.strerror}") from error
    for family, kind, protocol, _, address in found:
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            last = error
            continue
        return listening
    raise ConfigError(
        f"http.listen: {host}:{port} cannot be listened on: {last.strerror if last is not None else 'no address'}",
        hint="another program may listen there; choose another port",
    )
