"""The suite: fast tests first, strict events, no one's real credentials, and no secret left anywhere.

pytest-randomly shuffles the tests and prints its seed (`-p randomly -p "randomly_seed=…"`
repeats an order). At the end of the session everything that the tests wrote or
printed is searched for every secret they made; one found fails the session.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from rekeyd import logs
from tests import secret_registry
from tests.secret_registry import Leak, Scanner

LogLines = Callable[[], list[dict[str, Any]]]

_LEAKS = pytest.StashKey[list[Leak]]()
_FOLDER = pytest.StashKey[Path]()

# A test must not reach anybody's account or Vault by accident. `make live-aws` and `make live-vault` set REKEYD_LIVE.
_FOREIGN = ("AWS_", "VAULT_", "BAO_", "REKEYD_")
_KEPT = (secret_registry.VARIABLE, "REKEYD_LIVE")


# A find of hypothesis stops whoever runs `make explore`, never a build that changed nothing.
settings.register_profile("rekeyd", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("rekeyd")


def pytest_configure(config: pytest.Config) -> None:
    if "REKEYD_LIVE" not in os.environ:
        for name in [name for name in os.environ if name.startswith(_FOREIGN) and name not in _KEPT]:
            del os.environ[name]
        # Else botocore asks the network for a role of the machine.
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ[logs.STRICT_VARIABLE] = "1"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    # Workers of pytest-xdist share the registry of the process that started them.
    if secret_registry.VARIABLE not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="rekeyd-secrets-"))
        config.stash[_FOLDER] = folder
        os.environ[secret_registry.VARIABLE] = str(folder / "registry")
    secret_registry.remember_every_secret()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Runs after pytest-randomly; sorting is stable, so the order within each half stays random.
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What a test printed and logged goes beside the registry, to be searched at the end."""
    printed = "\n".join(text for _, text in report.sections)
    if printed and secret_registry.VARIABLE in os.environ:
        with (Path(os.environ[secret_registry.VARIABLE]).parent / "printed").open("a") as file:
            file.write(f"== {report.nodeid}\n{printed}\n")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = session.config.stash.get(_FOLDER, None)
    if folder is None or session.config.option.collectonly:
        return
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    leaks = secret_registry.search(factory.getbasetemp())
    leaks |= set(_in_output(Scanner(secret_registry.recorded("secret")), folder / "printed"))
    session.config.stash[_LEAKS] = sorted(leaks, key=str)
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    leaks = config.stash.get(_LEAKS, None)
    if leaks is None:
        return
    count = len(secret_registry.recorded("secret"))
    if not leaks:
        terminalreporter.write_line(f"{count} secrets made, none left in files, output or logs")
        return
    terminalreporter.section("secrets found where none may be", red=True)
    for leak in leaks:
        terminalreporter.write_line(str(leak))
    terminalreporter.write_line("(a file that is meant to hold one: tests.secret_registry.write_secret or allow)")


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(_FOLDER, None)
    if folder is not None:
        os.environ.pop(secret_registry.VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)


def _in_output(scanner: Scanner, file: Path) -> Iterator[Leak]:
    if not file.exists():
        return
    for part in file.read_text().split("== ")[1:]:
        test, _, printed = part.partition("\n")
        yield from scanner.search(f"output of {test}", printed.encode())


@pytest.fixture(autouse=True)
def _strict_logs() -> None:
    """Lines go to stderr, where pytest keeps them; one that is not a listed event raises."""
    logs.configure(style="json", level="debug", strict=True)


@pytest.fixture
def log_lines() -> LogLines:
    """Call it for the lines logged so far in this test, parsed."""
    stream = io.StringIO()
    logs.configure(style="json", level="debug", stream=stream, strict=True)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
