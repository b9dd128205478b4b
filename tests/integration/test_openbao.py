"""A real OpenBao: how it starts, serves and ends, and the faulty way to it."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests

from rekeyd.demo.emulator import (
    Drop,
    HoldBack,
    Http,
    LateDuplicate,
    Redirect,
    Sealed,
    StaleRead,
    Throttle,
    Truncate,
    VaultError,
    VaultProxy,
)
from rekeyd.demo.openbao import OpenBaoServer

pytestmark = pytest.mark.slow

POLICY = 'path "secret/data/apps/*" { capabilities = ["create", "read", "update"] }'


@pytest.fixture(scope="module")
def bao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer() as server:
        yield server


@pytest.fixture
def proxy(bao: OpenBaoServer) -> Iterator[VaultProxy]:
    with VaultProxy(bao.address) as between:
        yield between


@pytest.fixture
def kv(bao: OpenBaoServer, proxy: VaultProxy) -> Iterator[Any]:
    """KV v2 of a client that speaks through the proxy, on its own mount."""
    mount = f"kv-{time.monotonic_ns()}"
    bao.enable_kv(mount)
    client = hvac.Client(url=proxy.address, token=bao.root_token, timeout=10)
    client.session.trust_env = False
    yield Kv(client, mount)
    client.session.close()


class Kv:
    def __init__(self, client: Any, mount: str) -> None:
        self.client = client
        self.mount = mount

    def write(self, path: str, value: str, cas: int) -> Any:
        return self.client.secrets.kv.v2.create_or_update_secret(
            path, {"value": value}, cas=cas, mount_point=self.mount
        )

    def read(self, path: str, version: int | None = None) -> Any:
        return self.client.secrets.kv.v2.read_secret_version(
            path, version=version, mount_point=self.mount, raise_on_deleted_version=True
        )["data"]


def test_a_secret_written_is_read(bao: OpenBaoServer) -> None:
    assert bao.read("apps/none") is None
    assert bao.write("apps/one", {"a": "1"}, cas=0) == 1
    found = bao.read("apps/one")
    assert found is not None
    assert (found.version, found.data, found.custom_metadata) == (1, {"a": "1"}, {})
    with pytest.raises(hvac.exceptions.InvalidRequest, match="did not match"):
        bao.write("apps/one", {"a": "2"}, cas=0)


def test_a_token_can_do_what_its_policy_says(bao: OpenBaoServer) -> None:
    bao.write_policy("apps", POLICY)
    with bao.client(bao.create_token(["apps"], ttl="20m")) as client:
        client.secrets.kv.v2.create_or_update_secret("apps/two", {"a": "1"}, cas=0)
        with pytest.raises(hvac.exceptions.Forbidden, match="permission denied"):
            client.secrets.kv.v2.create_or_update_secret("other/two", {"a": "1"}, cas=0)


def test_an_app_role_logs_in(bao: OpenBaoServer) -> None:
    bao.write_policy("apps", POLICY)
    role = bao.create_app_role("rekeyd", ["apps"], token_ttl="5m")
    with bao.client("") as client:
        made = client.auth.approle.login(role.role_id, role.secret_id, mount_point=role.mount)
    assert made["auth"]["lease_duration"] == 300
    assert role.secret_id not in repr(role)


def test_a_version_1_mount_can_be_had(bao: OpenBaoServer) -> None:
    bao.enable_kv("old", version=1)
    with bao.client() as client:
        client.secrets.kv.v1.create_or_update_secret("a", {"b": "1"}, mount_point="old")
        assert client.secrets.kv.v1.read_secret("a", mount_point="old")["data"] == {"b": "1"}


def test_a_sealed_server_says_so_and_keeps_what_it_had() -> None:
    with OpenBaoServer() as own:
        own.write("a", {"b": "1"})
        own.seal()
        with pytest.raises(hvac.exceptions.VaultDown, match="sealed"):
            own.read("a")
        own.unseal()
        assert own.read("a") is not None


def test_a_durable_server_survives_its_death() -> None:
    with OpenBaoServer(durable=True) as own:
        own.write("a", {"b": "1"})
        address = own.address
        own.kill()
        with pytest.raises(requests.ConnectionError, match="refused"):
            own.read("a")
        own.restart()
        found = own.read("a")
        assert found is not None
        assert (own.address, found.data) == (address, {"b": "1"})


def test_the_audit_file_has_the_request_and_not_the_value() -> None:
    with OpenBaoServer(audit=True) as own:
        own.write("audited", {"value": "very-secret-value"})
        audit = own.audit_path.read_text()
    assert "secret/data/audited" in audit
    assert "very-secret-value" not in audit


def test_nothing_of_the_server_stays_behind_or_shows_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = OpenBaoServer().start()
    assert own.root_token.encode() not in Path(f"/proc/{own.pid}/cmdline").read_bytes()
    pid, home = own.pid, own.home
    own.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert not home.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_server_dies_with_who_started_it() -> None:
    code = (
        "import os, signal; from rekeyd.demo.openbao import OpenBaoServer; s = OpenBaoServer().start(); "
        "print(s.pid, s.home, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert parent.returncode == -signal.SIGKILL
    pid, home = parent.stdout.split()
    assert eventually(lambda: not alive(int(pid)))
    for file in Path(home).iterdir():
        file.unlink()
    Path(home).rmdir()


@pytest.mark.parametrize(("when", "versions"), [("before", 0), ("after", 1)])
def test_a_write_may_be_lost_with_or_without_its_effect(
    bao: OpenBaoServer, proxy: VaultProxy, kv: Any, when: Any, versions: int
) -> None:
    proxy.fault("POST kv-*/data/*", when=when, do=Drop())
    with pytest.raises(requests.ConnectionError, match="Connection aborted"):
        kv.write("a", "one", 0)
    found = bao.read("a", mount=kv.mount)
    assert (0 if found is None else found.version) == versions


@pytest.mark.parametrize(
    ("do", "raised"),
    [
        (Sealed(), hvac.exceptions.VaultDown),
        (Throttle(), hvac.exceptions.RateLimitExceeded),
        (VaultError(412), hvac.exceptions.UnexpectedError),
        (VaultError(429), hvac.exceptions.RateLimitExceeded),
        (VaultError(472), hvac.exceptions.UnexpectedError),
        (VaultError(473), hvac.exceptions.UnexpectedError),
        (VaultError(500, ("internal error",)), hvac.exceptions.InternalServerError),
        (Http(502, "html"), hvac.exceptions.BadGateway),
    ],
)
def test_vaults_own_errors_come_in_their_form(proxy: VaultProxy, kv: Any, do: Any, raised: type[Exception]) -> None:
    proxy.fault("GET kv-*/data/a", do=do)
    with pytest.raises(raised, match="on get"):
        kv.read("a")


def test_a_portals_page_is_not_a_write(bao: OpenBaoServer, proxy: VaultProxy, kv: Any) -> None:
    proxy.fault("POST *", do=Http(200, "html"))
    assert isinstance(kv.write("a", "one", 0), requests.Response)
    assert bao.read("a", mount=kv.mount) is None


def test_half_a_document_is_not_a_dict(proxy: VaultProxy, kv: Any) -> None:
    proxy.fault("POST *", when="after", do=Truncate(announce_length=False))
    assert not isinstance(kv.write("a", "one", 0), dict)


def test_a_redirect_leads_to_the_other_host(bao: OpenBaoServer, proxy: VaultProxy, kv: Any) -> None:
    with VaultProxy(bao.address) as other:
        proxy.fault("POST *", do=Redirect(other.address))
        assert kv.write("a", "one", 0)["data"]["version"] == 1
        assert [seen.op for seen in other.requests] == [f"POST {kv.mount}/data/a"]
    (seen,) = proxy.requests
    assert (seen.status, seen.acted) == (307, False)


def test_a_late_first_write_arrives_after_its_retry_and_check_and_set_refuses_it(
    bao: OpenBaoServer, proxy: VaultProxy, kv: Any
) -> None:
    proxy.fault("POST *", do=LateDuplicate())
    with pytest.raises(requests.ConnectionError, match="Connection aborted"):
        kv.write("a", "first", 0)
    assert kv.write("a", "retry", 0)["data"]["version"] == 1
    found = bao.read("a", mount=kv.mount)
    assert found is not None
    assert (found.version, found.data) == (1, {"value": "retry"})


def test_a_write_kept_back_lands_when_the_test_says(bao: OpenBaoServer, proxy: VaultProxy, kv: Any) -> None:
    rule = proxy.fault("POST *", do=HoldBack())
    with pytest.raises(requests.ConnectionError, match="Connection aborted"):
        kv.write("a", "late", 0)
    assert bao.read("a", mount=kv.mount) is None
    assert [answer.status for answer in rule.deliver()] == [200]
    assert bao.read("a", mount=kv.mount) is not None


def test_a_stale_read_shows_what_was_before_the_write(proxy: VaultProxy, kv: Any) -> None:
    kv.write("a", "one", 0)
    stale = proxy.fault("GET kv-*", forever=True, do=StaleRead())
    kv.write("a", "two", 1)
    kv.write("fresh", "one", 0)
    assert kv.read("a")["data"] == {"value": "one"}
    assert kv.read("a", version=1)["data"] == {"value": "one"}
    with pytest.raises(hvac.exceptions.InvalidPath, match="on get"):
        kv.read("a", version=2)
    with pytest.raises(hvac.exceptions.InvalidPath, match="on get"):
        kv.read("fresh")
    stale.cancel()
    assert kv.read("a")["data"] == {"value": "two"}


def test_names_with_odd_characters_pass_the_proxy_unchanged(bao: OpenBaoServer, proxy: VaultProxy, kv: Any) -> None:
    for name in ("a+b=c,d.e@f_g-h", "with space", "per%cent", "ques?tion", "ümlaut"):
        assert kv.write(name, name, 0)["data"]["version"] == 1
        found = bao.read(name, mount=kv.mount)
        assert found is not None
        assert found.data == {"value": name}
        assert proxy.requests[-1].op == f"POST {kv.mount}/data/{name}"


def test_the_proxys_journal_has_neither_token_nor_value(bao: OpenBaoServer, proxy: VaultProxy, kv: Any) -> None:
    kv.write("a", "very-secret-value", 0)
    journal = repr(proxy.requests)
    assert bao.root_token not in journal
    assert "very-secret-value" not in journal
    assert [(seen.op, seen.status) for seen in proxy.calls("POST *")] == [(f"POST {kv.mount}/data/a", 200)]


def test_an_upstream_that_is_gone_is_a_bad_gateway(bao: OpenBaoServer) -> None:
    with VaultProxy("http://127.0.0.1:9") as proxy:
        client = hvac.Client(url=proxy.address, token="t")
        with pytest.raises(hvac.exceptions.BadGateway, match="unreachable"):
            client.secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)
        proxy.upstream = bao.address
        with pytest.raises(hvac.exceptions.Forbidden, match="permission denied"):
            client.secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)
        client.session.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(holds: Callable[[], bool], limit_seconds: float = 20.0) -> bool:
    ends = time.monotonic() + limit_seconds
    while time.monotonic() < ends:
        if holds():
            return True
        threading.Event().wait(0.02)
    return False
