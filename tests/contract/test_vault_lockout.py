"""Vault's lockout of users on a real OpenBao, whose counter runs as fast as the test's clock."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.vault_settings import AppRoleAuth
from rekeyd.core.model import VaultAbsent, VaultUnreadable
from tests.contract.vault_approle import LOGIN, Logins
from tests.secret_registry import remember, write_secret
from tests.world.clock import VirtualClock

pytestmark = pytest.mark.slow

# Sixteen minutes are four seconds, so that the server, which counts in whole seconds, has rested its three.
SECONDS_A_MINUTE = 0.25
COUNTER_RESET = "3s"
LIMIT_SECONDS = 60


class FastClock(VirtualClock):
    """A quarter of a second of the machine's time is a minute."""

    def __init__(self) -> None:
        super().__init__(datetime.now(UTC))  # noqa: TID251 - the server's clock is the machine's
        self._began = time.monotonic()

    def now(self) -> datetime:
        return super().now() + timedelta(minutes=(time.monotonic() - self._began) / SECONDS_A_MINUTE)


def test_a_bad_secret_id_that_stays_for_an_hour_does_not_lock_the_role(logins: Logins, tmp_path: Path) -> None:
    mount = f"locking-{logins.stand.mount}"
    role = logins.stand.server.create_app_role("rekeyd", [logins.name], mount=mount)
    remember(role.secret_id)
    with logins.stand.server.client() as client:
        lockout = {"lockout_threshold": "5", "lockout_duration": "10m", "lockout_counter_reset_duration": COUNTER_RESET}
        client.adapter.post(f"/v1/sys/auth/{mount}/tune", json={"user_lockout_config": lockout})
    file = write_secret(tmp_path / "locking", "00000000-1111-2222-3333-wrongsecretid")
    logins.clock = FastClock()  # type: ignore[assignment]
    vault = logins.adapter(AppRoleAuth(role_id=role.role_id, secret_id_file=file, mount=mount))
    ends = time.monotonic() + LIMIT_SECONDS
    while logins.count < 6:
        assert time.monotonic() < ends
        vault.maintain()
        assert isinstance(vault.current(logins.place), VaultUnreadable)
        threading.Event().wait(0.02)
    assert [seen.status for seen in logins.proxy.calls(LOGIN)] == [400] * 6, "403 is what a locked role gets"
    write_secret(file, role.secret_id)
    assert vault.current(logins.place) == VaultAbsent(0), "and the good one is not refused"
    vault.close()
