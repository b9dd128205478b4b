"""The system user beside the unit (tests/unit/test_daemon_unit.py): it is the one that the unit runs as, and lasts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = (SYSTEMD / "rekeyd.service").read_text()
USERS = SYSTEMD / "rekeyd.sysusers.conf"


def _settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, flags=re.MULTILINE)


def test_the_unit_runs_as_a_user_that_stays_so_that_an_operator_can_be_it() -> None:
    assert _settings("User") == _settings("Group") == ["rekeyd"]
    # It would give the user another number, or none, while the daemon is down.
    assert _settings("DynamicUser") == []


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="NOT CHECKED: no systemd-sysusers here")
def test_systemd_makes_that_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    arguments = ["systemd-sysusers", f"--root={tmp_path}", str(USERS)]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    (line,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    name, _, uid, _, _, home, shell = line.split(":")
    assert [name] == _settings("User")
    assert 0 < int(uid) < 1000
    assert home == f"/var/lib/{_settings('StateDirectory')[0]}"
    assert shell == "/usr/sbin/nologin"
