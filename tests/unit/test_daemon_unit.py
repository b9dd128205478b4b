"""The systemd unit: systemd understands every line of it, and it fits what the daemon does."""

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.config import parse_duration
from rekeyd.config.models import FleetSettings

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "rekeyd.service"

# Exposure times ten; 11 is what a daemon with internet sockets and no root directory of its own comes to.
MOST_EXPOSED = 11

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def _analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def _setting(name: str) -> str:
    (value,) = [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]
    return value


@needs_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    # A program and a user that exist here stand in for those of an installation.
    text = UNIT.read_text().replace("/opt/rekeyd/bin/rekeyd", "/bin/true")
    (tmp_path / "rekeyd.service").write_text(text.replace("=rekeyd\nGroup=rekeyd", "=daemon\nGroup=daemon"))
    # Without recursive-errors it ends with 0 whatever it finds.
    ran = _analyze("verify", "--recursive-errors=no", "--man=no", str(tmp_path / "rekeyd.service"))
    assert (ran.returncode, ran.stderr.strip()) == (0, "")


@needs_systemd
def test_it_is_as_closed_as_a_daemon_with_sockets_can_be() -> None:
    ran = _analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(UNIT))
    assert ran.returncode == 0, ran.stdout[-300:]


def test_systemd_waits_longer_for_the_end_than_the_daemon_does() -> None:
    assert parse_duration(_setting("TimeoutStopSec")) >= FleetSettings().stop_timeout + timedelta(seconds=15)


def test_a_wrong_configuration_is_not_tried_again() -> None:
    assert _setting("RestartPreventExitStatus") == "2"
    assert _setting("Restart") == "on-failure"


def test_it_is_supervised_by_what_the_daemon_sends() -> None:
    assert _setting("Type") == "notify"
    assert parse_duration(_setting("WatchdogSec")) >= timedelta(seconds=30)
    assert _setting("ExecReload") == "/bin/kill -HUP $MAINPID"
