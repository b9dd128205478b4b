"""An example of a receiver of rekeyd's webhook: it takes nothing that is not signed, old, or told already.

    python3 webhook-receiver.py /path/to/webhook-secret 8080

Only Python's own library is used; put it behind something that speaks TLS. What it does with an alarm is one line of
`taken`; a real receiver opens a ticket, or rings somebody.
"""

import hashlib
import hmac
import json
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MOST_BYTES = 5_000_000
OLDEST = 300
"""Seconds. An older message was recorded by somebody, and is sent again by him; rekeyd signs each try anew."""


def is_genuine(secret: bytes, header: str, body: bytes, *, now: float) -> bool:
    """Whether `X-Rekeyd-Signature: t=SECONDS,v1=HEX` was made with the secret, for this body, a short while ago."""
    parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    stamp, given = parts.get("t", ""), parts.get("v1", "")
    if not stamp.isdigit() or abs(now - int(stamp)) > OLDEST:
        return False
    expected = hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    # Compared in constant time, so that nobody can guess it digit by digit.
    return hmac.compare_digest(expected.encode(), given.encode())


class Receiver(ThreadingHTTPServer):
    """`messages` are those that were taken, newest last."""

    def __init__(self, secret: bytes, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.secret = secret
        self.messages: list[dict[str, Any]] = []
        self.seen: OrderedDict[str, None] = OrderedDict()

    def taken(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        sys.stdout.write(f"{message['title']}\n")
        sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MOST_BYTES:
            self._answer(413)
            return
        body = self.rfile.read(length)
        if not is_genuine(self.server.secret, self.headers.get("X-Rekeyd-Signature", ""), body, now=time.time()):
            self._answer(403)
            return
        message = json.loads(body)
        # The id is the same when rekeyd did not hear our answer and sends again.
        if message["id"] not in self.server.seen:
            self.server.seen[message["id"]] = None
            if len(self.server.seen) > 10_000:
                self.server.seen.popitem(last=False)
            self.server.taken(message)
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: what was taken is printed."""


if __name__ == "__main__":
    Receiver(Path(sys.argv[1]).read_bytes().strip(), ("127.0.0.1", int(sys.argv[2]))).serve_forever()
