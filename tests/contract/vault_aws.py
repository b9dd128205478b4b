"""OpenBao with the one login method it lacks: Vault's `aws` method (iam), in front of a real server.

It does what Vault's own does: checks that the server id is among the signed headers, sends the signed request on to
STS as it came, and believes STS about who signed it.
"""

import base64
import http.client
import http.server
import json
import re
import threading
from typing import Any, Self
from urllib.parse import urlsplit

from rekeyd.demo.emulator import EmulatedAws
from rekeyd.demo.openbao import OpenBaoServer
from tests.secret_registry import remember

LOGIN = "/v1/auth/aws/login"


class AwsMethod(http.server.ThreadingHTTPServer):
    """Listens on loopback; everything but the login goes to `bao`."""

    daemon_threads = True

    def __init__(self, bao: OpenBaoServer, aws: EmulatedAws, *, region: str, server_id: str, policy: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bao, self.aws = bao, aws
        self.sts_host = f"sts.{region}.amazonaws.com"
        self.server_id = server_id
        self.policy = policy
        self.bound_arn = ""
        """Who may log in."""
        self.refusals: list[str] = []
        self.roles: list[str] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def log_in(self, body: dict[str, str]) -> str | None:
        """The token; None: refused, and `refusals` says why."""
        url = base64.b64decode(body["iam_request_url"]).decode()
        headers: dict[str, str] = json.loads(base64.b64decode(body["iam_request_headers"]))
        by_name = {name.lower(): value for name, value in headers.items()}
        signed = re.search(r"SignedHeaders=([^,]+)", by_name.get("authorization", ""))
        why = None
        if urlsplit(url).netloc != self.sts_host:
            why = f"signed for {urlsplit(url).netloc}"
        elif by_name.get("x-vault-aws-iam-server-id") != self.server_id:
            why = "no server id"
        elif signed is None or "x-vault-aws-iam-server-id" not in signed[1].split(";"):
            why = "the server id is not signed"
        elif (arn := self._caller(body, headers)) != self.bound_arn:
            why = f"{arn} is not bound"
        if why is not None:
            self.refusals.append(why)
            return None
        self.roles.append(body["role"])
        return remember(self.bao.create_token([self.policy], ttl="1h"))

    def _caller(self, body: dict[str, str], headers: dict[str, str]) -> str | None:
        connection = http.client.HTTPConnection(urlsplit(self.aws.url).netloc, timeout=10)
        try:
            connection.request(
                body["iam_http_request_method"], "/", base64.b64decode(body["iam_request_body"]), headers=headers
            )
            answer = connection.getresponse().read().decode()
        finally:
            connection.close()
        found = re.search(r"<Arn>([^<]+)</Arn>", answer)
        return None if found is None else found[1]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AwsMethod

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != LOGIN:
            return self._forward(body)
        token = self.server.log_in(json.loads(body))
        if token is None:
            return self._say(400, {"errors": ["error making upstream request"]})
        return self._say(200, {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True}})

    def do_GET(self) -> None:
        self._forward(b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""

    def _forward(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.server.bao.address).netloc, timeout=10)
        try:
            kept = {name: value for name, value in self.headers.items() if name.startswith(("X-Vault", "Content-Type"))}
            connection.request(self.command, self.path, body or None, headers=kept)
            answer = connection.getresponse()
            self._say(answer.status, json.loads(answer.read() or b"null"))
        finally:
            connection.close()

    def _say(self, status: int, answer: Any) -> None:
        content = b"" if status == 204 else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
