"""The consumer process notices exactly what a program using rotated keys would."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rekeyd.demo.emulator import HUB, EmulatedAws, SeededKey
from rekeyd.demo.openbao import OpenBaoServer
from tests.secret_registry import remember, write_secret

pytestmark = pytest.mark.slow

LIMIT = 30.0


@pytest.fixture(scope="module")
def bao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer() as server:
        yield server


@pytest.fixture
def aws() -> Iterator[EmulatedAws]:
    with EmulatedAws(on_secret=remember) as emulated:
        yield emulated


class Running:
    def __init__(self, aws: EmulatedAws, bao: OpenBaoServer, folder: Path, *paths: str) -> None:
        self.status_file, self.failures_file = folder / "status.json", folder / "failures.jsonl"
        write_secret(folder / "token", bao.root_token + "\n")
        given = [argument for path in paths for argument in ("--path", f"secret/data/{path}")]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "rekeyd.demo.consumer", "--vault-addr", bao.address, *given),
                *("--token-file", str(folder / "token"), "--sts-endpoint", aws.url, "--interval", "0.02"),
                *("--status", str(self.status_file), "--failures", str(self.failures_file)),
            ],
            env={"PATH": os.defpath, "HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def status(self) -> Any:
        return json.loads(self.status_file.read_text()) if self.status_file.exists() else {}

    def waits_for(self, holds: Callable[[Any], bool]) -> Any:
        ends = time.monotonic() + LIMIT
        while time.monotonic() < ends:
            status = self.status()
            if status and holds(status):
                return status
            threading.Event().wait(0.02)
        raise AssertionError(f"not seen in {LIMIT} s: {self.status()}")

    def finish(self) -> Any:
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=LIMIT)
        assert (self.process.returncode, out) == (0, b"")
        return self.status()


def put(bao: OpenBaoServer, path: str, key: SeededKey) -> None:
    pair = {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key}
    bao.write(path, pair)


def test_a_careful_rotation_is_not_noticed_and_a_careless_one_is(
    aws: EmulatedAws, bao: OpenBaoServer, tmp_path: Path
) -> None:
    user = aws.create_user(HUB, "svc", key_age=timedelta(days=90))
    new = aws.add_key(HUB, "svc")
    put(bao, "consumer/svc", user.key)
    running = Running(aws, bao, tmp_path, "consumer/svc", "consumer/none")
    path, none = "secret/data/consumer/svc", "secret/data/consumer/none"
    running.waits_for(lambda status: status["paths"][path]["calls"] >= 3)
    put(bao, "consumer/svc", new)
    seen = running.waits_for(lambda status: new.access_key_id in status["paths"][path]["key_ids"])
    assert seen["failures"] == 0
    # A key that Vault still serves:
    aws.deactivate_key(new.access_key_id)
    running.waits_for(lambda status: status["failures"] >= 2)
    final = running.finish()
    assert final["done"]
    assert final["paths"][path]["key_ids"] == [user.key.access_key_id, new.access_key_id]
    assert final["paths"][path]["versions"] == [1, 2]
    assert final["paths"][path]["arns"] == [user.arn]
    assert (final["paths"][none]["calls"], final["paths"][none]["absent"] > 0) == (0, True)
    lines = [json.loads(line) for line in running.failures_file.read_text().splitlines()]
    assert len(lines) == final["failures"]
    assert {(line["access_key_id"], line["code"], line["vault_version"]) for line in lines} == {
        (new.access_key_id, "InvalidClientTokenId", 2)
    }


def test_a_vault_that_is_down_and_a_throttled_sts_are_nobodys_failure(
    aws: EmulatedAws, bao: OpenBaoServer, tmp_path: Path
) -> None:
    from rekeyd.demo.emulator import Drop, Http, Throttle

    user = aws.create_user(HUB, "svc2", key_age=timedelta(days=90))
    put(bao, "consumer/svc2", user.key)
    aws.fault("GetCallerIdentity", nth=2, do=Throttle())
    aws.fault("GetCallerIdentity", nth=3, do=Drop())
    aws.fault("GetCallerIdentity", nth=4, do=Http(503))
    running = Running(aws, bao, tmp_path, "consumer/svc2")
    running.waits_for(lambda status: status["disturbances"] == 3 and status["calls"] >= 2)
    bao.seal()
    try:
        running.waits_for(lambda status: status["disturbances"] > 5)
    finally:
        bao.unseal()
    final = running.finish()
    assert final["failures"] == 0
    assert not running.failures_file.exists()
