"""The endpoints, asked over real HTTP of a server on a free port."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from rekeyd.errors import ConfigError, Error, JournalError
from rekeyd.web.pages import application
from rekeyd.web.server import HttpServer
from tests.conftest import LogLines
from tests.secret_registry import write_secret

TOKEN = "correct-horse-battery-staple"


@dataclass
class Shown:
    """A daemon that is as the test says."""

    problems: list[str] = field(default_factory=list)
    stall: list[str] = field(default_factory=list)
    token: Path | None = None
    error: Error | None = None

    def stalled(self) -> Sequence[str]:
        return self.stall

    def not_ready(self) -> Sequence[str]:
        return self.problems

    def exposition(self) -> bytes:
        return b"rekeyd_up 1\n"

    def status(self) -> Mapping[str, Any]:
        if self.error is not None:
            raise self.error
        return {"schema_version": 1, "as_of": "2026-01-01T00:00:00Z", "findings": [], "accounts": [], "principals": []}

    def token_file(self) -> Path | None:
        return self.token


def _password(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@contextmanager
def served(daemon: Shown, host: str = "127.0.0.1") -> Iterator[HttpServer]:
    with HttpServer(daemon, host=host, port=0) as server:
        yield server


def ask(
    server: HttpServer, path: str, *, method: str = "GET", token: str | None = None, host: str | None = None
) -> Answer:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {} if token is None else {"Authorization": token}
    try:
        connection.request(method, path, headers=headers | ({} if host is None else {"Host": host}))
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, answer.read().decode())
    finally:
        connection.close()


def test_port_0_takes_a_free_port_and_tells_which() -> None:
    with served(Shown()) as server:
        assert server.port > 0
        assert server.address == f"127.0.0.1:{server.port}"
        assert ask(server, "/healthz").status == 200


def test_a_port_that_is_taken_is_an_error_of_the_configuration() -> None:
    with served(Shown()) as server, pytest.raises(ConfigError, match=f"127.0.0.1:{server.port} cannot be listened on"):
        HttpServer(Shown(), host="127.0.0.1", port=server.port)


def test_health_is_the_heart_and_readiness_is_everything() -> None:
    with served(Shown(problems=["Vault is sealed"])) as server:
        assert ask(server, "/healthz").document == {"status": "ok", "problems": []}
        ready = ask(server, "/readyz")
        assert ready.status == 503
        assert ready.document == {"status": "failing", "problems": ["Vault is sealed"]}


def test_a_heart_that_stopped_says_so() -> None:
    with served(Shown(stall=["the heart stands still"])) as server:
        health = ask(server, "/healthz")
    assert health.status == 503
    assert health.document["problems"] == ["the heart stands still"]


def test_metrics_come_in_the_text_format_without_a_token() -> None:
    with served(Shown()) as server:
        answer = ask(server, "/metrics")
    assert answer.body == "rekeyd_up 1\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_on_loopback_the_api_answers_without_a_token() -> None:
    with served(Shown()) as server:
        answer = ask(server, "/api/v1/status")
    assert (answer.status, answer.document) == (200, Shown().status())
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


def test_beyond_loopback_the_api_is_closed_without_a_token_file_and_the_probes_are_open() -> None:
    with served(Shown(), host="0.0.0.0") as server:  # noqa: S104 - what is tested
        refused = ask(server, "/api/v1/status")
        assert refused.status == 403
        assert "http.token_file" in refused.document["error"]["message"]
        assert ask(server, "/readyz").status == 200


def test_a_start_beyond_loopback_without_a_token_file_is_warned_of_and_with_one_is_not(
    tmp_path: Path, log_lines: LogLines
) -> None:
    token = write_secret(tmp_path / "token", TOKEN)
    for daemon, host in ((Shown(), "127.0.0.1"), (Shown(token=token), "0.0.0.0"), (Shown(), "0.0.0.0")):  # noqa: S104
        with served(daemon, host=host):
            pass
    warned = [line for line in log_lines() if line["event"] == "api.closed"]
    assert [(line["level"], line["address"].partition(":")[0]) for line in warned] == [("warning", "0.0.0.0")]  # noqa: S104


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer", 401),
        ("Bearer \xff", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
    ],
)
def test_with_a_token_file_only_its_token_opens_the_api(tmp_path: Path, given: str | None, status: int) -> None:
    daemon = Shown(token=write_secret(tmp_path / "token", TOKEN))
    with served(daemon) as server:
        answer = ask(server, "/api/v1/status", token=given)
    assert answer.status == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_a_token_that_is_replaced_counts_at_once(tmp_path: Path) -> None:
    file = write_secret(tmp_path / "token", TOKEN)
    with served(Shown(token=file)) as server:
        write_secret(file, "another-long-token-0123")
        assert ask(server, "/api/v1/status", token=f"Bearer {TOKEN}").status == 401
        assert ask(server, "/api/v1/status", token="Bearer another-long-token-0123").status == 200


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_file_that_is_missing_or_empty_opens_nothing(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with served(Shown(token=file)) as server:
        answer = ask(server, "/api/v1/status", token="Bearer ")
    assert answer.status == 503
    assert "token_file" in answer.document["error"]["message"]


def test_a_journal_that_cannot_be_read_is_told_in_the_form_of_every_error() -> None:
    with served(Shown(error=JournalError("the disk is gone", hint="look"))) as server:
        answer = ask(server, "/api/v1/status")
    assert answer.status == 503
    assert answer.document == {
        "schema_version": 1,
        "error": {"code": "journal", "message": "the disk is gone", "hint": "look"},
    }


def test_nothing_can_be_changed_and_what_is_not_there_is_told() -> None:
    paths = [getattr(route, "path", "") for route in application(Shown(), on_loopback=True).routes]
    with served(Shown()) as server:
        assert {ask(server, path, method="POST").status for path in paths} == {405}
        assert ask(server, "/api/v2").status == 404


@pytest.mark.parametrize("path", ["/", "/api/v1/status"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9744", 200),
        ("127.0.0.1", 200),
        ("[::1]:9744", 200),
        ("rekeyd.attacker.example", 403),
        ("127.0.0.1.attacker.example:9744", 403),
        ("10.0.0.7", 403),
    ],
)
def test_on_loopback_only_a_name_of_this_machine_is_answered_without_a_token(path: str, host: str, status: int) -> None:
    with served(Shown()) as server:
        assert ask(server, path, host=host).status == status


def test_with_the_token_any_name_is_answered(tmp_path: Path) -> None:
    with served(Shown(token=write_secret(tmp_path / "token", TOKEN))) as server:
        assert ask(server, "/", token=f"Bearer {TOKEN}", host="rekeyd.example.org").status == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        (_password("ann", "wrong"), 401),
        (_password("ann", f"{TOKEN}x"), 401),
        (f"Basic {TOKEN}", 401),
        ("Basic", 401),
        (_password("ann", TOKEN), 200),
        (_password("", TOKEN), 200),
        (f"Bearer {TOKEN}", 200),
    ],
)
def test_a_browser_gives_the_token_as_a_password(tmp_path: Path, given: str | None, status: int) -> None:
    with served(Shown(token=write_secret(tmp_path / "token", TOKEN))) as server:
        answer = ask(server, "/", token=given)
        assert answer.status == status
        assert answer.headers.get("www-authenticate", "").startswith("Basic") == (status == 401)
        # Programs use the header that is made for tokens.
        assert ask(server, "/api/v1/status", token=_password("ann", TOKEN)).status == 401


def test_a_journal_that_cannot_be_read_leaves_no_page() -> None:
    with served(Shown(error=JournalError("the disk is gone"))) as server:
        answer = ask(server, "/")
    assert (answer.status, answer.document["error"]["code"]) == (503, "journal")
