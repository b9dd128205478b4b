"""What systemd is told, as datagrams on a socket of ours."""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.sd_notify import Supervisor
from tests.conftest import LogLines


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def supervisor(bound: socket.socket, **more: str) -> Supervisor:
    return Supervisor({"NOTIFY_SOCKET": bound.getsockname(), **more}, pid=77)


def heard(bound: socket.socket) -> list[str]:
    return bound.recv(4096).decode().split("\n")


def test_ready_comes_with_a_status_in_any_alphabet(bound: socket.socket) -> None:
    assert supervisor(bound).ready("überwacht 日本")
    assert heard(bound) == ["READY=1", "STATUS=überwacht 日本"]


def test_a_line_break_in_a_status_begins_no_other_assignment(bound: socket.socket) -> None:
    supervisor(bound).status("well\nMAINPID=1")
    assert heard(bound) == ["STATUS=well MAINPID=1"]


def test_a_reload_tells_its_time_on_the_monotonic_clock(bound: socket.socket) -> None:
    supervisor(bound).reloading()
    first, second = heard(bound)
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


def test_an_abstract_socket_is_found() -> None:
    name = f"rekeyd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        assert Supervisor({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert heard(listening) == ["WATCHDOG=1"]


def test_without_a_supervisor_nothing_is_sent_and_nothing_fails() -> None:
    alone = Supervisor({})
    assert not alone.ready("well")
    assert alone.ping_every is None


def test_a_supervisor_that_is_gone_is_logged_and_ends_nothing(tmp_path: Path, log_lines: LogLines) -> None:
    assert not Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).stopping()
    assert [line["event"] for line in log_lines()] == ["supervisor.lost"]


@pytest.mark.parametrize(
    ("environ", "every"),
    [
        ({"WATCHDOG_USEC": "3000000"}, timedelta(seconds=1)),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "77"}, timedelta(seconds=1)),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_pinged_three_times_a_period_if_it_means_this_process(
    environ: dict[str, str], every: timedelta | None
) -> None:
    assert Supervisor(environ, pid=77).ping_every == every
