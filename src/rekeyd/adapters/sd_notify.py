"""Tells systemd how the daemon is: one datagram a message, nothing without $NOTIFY_SOCKET.

See sd_notify(3). Written by hand: the libraries for it are unmaintained, mangle anything beyond Latin-1, or bring a C
extension for a single sendto.
"""

import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta

from rekeyd.core.events import Event
from rekeyd.logs import get_logger

log = get_logger()

# Three pings in a watchdog period, so that one that comes late ends nothing.
_PINGS_PER_PERIOD = 3
_SEND_LIMIT_S = 1.0


class Supervisor:
    """The process that started us, if it wants to hear of us. May be used by many threads; never raises."""

    def __init__(self, environ: Mapping[str, str] = os.environ, *, pid: int | None = None) -> None:
        address = environ.get("NOTIFY_SOCKET") or None
        # An abstract socket is written with "@" in the environment and begins with a zero byte in the kernel.
        self._address = f"\0{address[1:]}" if address is not None and address.startswith("@") else address
        self.ping_every = _ping_every(environ, os.getpid() if pid is None else pid)
        """How often `alive` must be sent; None: nobody waits for it."""

    def ready(self, status: str) -> bool:
        return self._send("READY=1", f"STATUS={_line(status)}")

    def reloading(self) -> bool:
        """`ready` must follow. The time is what Type=notify-reload of systemd 253 and later asks for."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> bool:
        return self._send("STOPPING=1", "STATUS=finishing the steps in flight")

    def status(self, status: str) -> bool:
        """Shown by `systemctl status`."""
        return self._send(f"STATUS={_line(status)}")

    def alive(self) -> bool:
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        """False: nobody listens, or it did not take the message."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                # A full queue must not hold up whoever tells.
                line.settimeout(_SEND_LIMIT_S)
                line.connect(self._address)
                line.sendall("\n".join(lines).encode())
        except OSError as error:
            log.warning(Event.SUPERVISOR_LOST, error=f"{type(error).__name__}: {error.strerror}")
            return False
        return True


def _ping_every(environ: Mapping[str, str], pid: int) -> timedelta | None:
    period, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not period.isdecimal() or int(period) == 0 or (meant and meant != str(pid)):
        return None
    return timedelta(microseconds=int(period)) / _PINGS_PER_PERIOD


def _line(text: str) -> str:
    # A line break would begin another assignment.
    return " ".join(text.split())
