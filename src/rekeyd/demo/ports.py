"""Ports for servers that are told theirs, may be killed, and start again at the same one.

They lie below the range from which Linux takes the local ports of outgoing connections
(`net.ipv4.ip_local_port_range`, by default 32768 to 60999): a port from there may be taken by any connection between
the look and the start.
"""

import contextlib
import secrets
import socket

_LOWEST, _HIGHEST = 20_000, 32_700


def free_port(*, in_a_row: int = 1) -> int:
    """A port on 127.0.0.1 where nobody listens, nor on the ones after it. Raises RuntimeError when there is none."""
    for _ in range(200):
        port = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
        with contextlib.ExitStack() as stack:
            try:
                for number in range(in_a_row):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            except OSError:
                continue
        return port
    raise RuntimeError(f"no {in_a_row} free ports in a row between {_LOWEST} and {_HIGHEST}")
