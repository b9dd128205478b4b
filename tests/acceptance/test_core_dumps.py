"""P7: what dies with a pair in its memory leaves no core file, whatever limit it has."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from rekeyd.demo.emulator import Hold, VaultProxy
from tests.acceptance.stand import Stand

_PR_GET_DUMPABLE = 3  # linux/prctl.h

# As under a supervisor that forbids the program to change its limits, and gives it core files without end.
_UNLIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
def forbidden(*_): raise PermissionError
resource.setrlimit = forbidden
"""
_REKEYD = (sys.executable, "-c", f"{_UNLIMITED}from rekeyd.cli.main import main; main()")
_CREDENTIAL_PROCESS = (sys.executable, "-c", f"{_UNLIMITED}from rekeyd.cli.credential_process import main; main()")
_ORDINARY = (sys.executable, "-c", f"{_UNLIMITED}print('here', flush=True); sys.stdin.read()")


def _dumps(pid: int) -> bool:
    """Whether the kernel dumps core when that child of ours is aborted."""
    os.kill(pid, signal.SIGABRT)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == signal.SIGABRT
    return ended.si_code == os.CLD_DUMPED


@pytest.fixture
def _would_dump(tmp_path: Path) -> None:
    """Without this, no core file says nothing about the program."""
    with subprocess.Popen(_ORDINARY, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ordinary:
        assert ordinary.stdout is not None
        ordinary.stdout.readline()
        dumped = _dumps(ordinary.pid)
    for file in tmp_path.glob("core*"):
        file.unlink()
    if not dumped:
        pytest.skip("NOT TESTED: core files. This machine dumps no core of an ordinary process either (ulimit -Hc)")


@contextmanager
def _daemon(stand: Stand) -> Iterator[int]:
    running = stand.start("run", program=_REKEYD)
    running.wait_for_event("daemon.became_ready")
    yield running.pid


@contextmanager
def _rotate_now(stand: Stand) -> Iterator[int]:
    """With a new pair in its memory."""
    rule = stand.aws.fault("CreateAccessKey", do=Hold(), when="answered")
    running = stand.start("rotate-now", "ci", "--json", program=_REKEYD)
    assert rule.hit.wait(60), running.err
    yield running.pid
    rule.cancel()


@contextmanager
def _credential_process(stand: Stand) -> Iterator[int]:
    """On its way to a pair."""
    with VaultProxy(stand.bao.address) as vault:
        rule = vault.fault("GET */data/*", do=Hold(), when="answered")
        arguments = ("--mount", stand.mount, "--token-file", str(stand.token_file), stand.vault_path("ci"))
        with subprocess.Popen(
            [*_CREDENTIAL_PROCESS, *arguments],
            env={"PATH": os.defpath, "HOME": str(stand.folder), "VAULT_ADDR": vault.address},
            cwd=stand.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert rule.hit.wait(60)
            yield process.pid
            rule.cancel()


@pytest.mark.usefixtures("_would_dump")
@pytest.mark.parametrize(
    "program", [_daemon, _rotate_now, _credential_process], ids=["daemon", "rotate-now", "rekeyd-credential-process"]
)
def test_an_aborted_program_leaves_no_core_file(
    stand: Stand, program: Callable[[Stand], AbstractContextManager[int]]
) -> None:
    stand.user("ci")
    with program(stand) as pid:
        assert not _dumps(pid)
    assert [file for file in stand.folder.rglob("core*") if file.is_file()] == []


def test_whoever_forbids_core_dumps_is_not_dumpable() -> None:
    asked = f"import ctypes; print(ctypes.CDLL(None).prctl({_PR_GET_DUMPABLE}, 0, 0, 0, 0))"
    forbidding = f"from rekeyd.adapters.hardening import forbid_core_dumps; forbid_core_dumps(); {asked}"
    said = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        for code in (asked, forbidding)
    ]
    assert said == ["1", "0"]
