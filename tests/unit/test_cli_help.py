"""Every command documents itself, takes the global options on both sides, and costs nothing to ask about."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from rekeyd.cli.main import ended_with
from rekeyd.cli.program import app


def _commands(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield name, command
    for child, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*name, child))


COMMANDS = dict(_commands(typer.main.get_command(app)))
LEAVES = [name for name, command in COMMANDS.items() if not getattr(command, "commands", {})]


@pytest.mark.parametrize("name", list(COMMANDS), ids=" ".join)
def test_every_command_and_option_says_what_it_is_for(name: tuple[str, ...]) -> None:
    command = COMMANDS[name]
    assert command.help
    undocumented = [param.name for param in command.params if not getattr(param, "help", None)]
    assert not undocumented


@pytest.mark.parametrize("name", list(COMMANDS), ids=" ".join)
def test_help_of_every_command_goes_to_stdout(name: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_with([*name, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Usage: rekeyd")
    assert printed.err == ""


@pytest.mark.parametrize("name", LEAVES, ids=" ".join)
def test_global_options_are_taken_after_every_command(name: tuple[str, ...]) -> None:
    given = {option for param in COMMANDS[name].params for option in param.opts}
    assert {"--config", "--json", "--log-level"} <= given


def test_the_commands_of_the_first_version_are_there() -> None:
    assert {" ".join(name) for name in LEAVES} >= {
        *("run", "rotate-now", "plan", "status", "explain", "audit", "alarms list", "history", "rollback", "demo"),
        *("brake show", "brake release", "config init", "config check", "config show", "config schema"),
        *("policy aws", "policy vault"),
    }


@pytest.mark.parametrize(
    ("given", "place"),
    [(["--config", "/nowhere/a.toml", "plan"], "a"), (["plan", "--config", "/nowhere/b.toml"], "b")],
    ids=["before", "after"],
)
def test_the_configuration_is_named_before_or_after_the_command(
    given: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended_with(given) == 2
    assert f"/nowhere/{place}.toml: no such file" in capsys.readouterr().err


def test_what_stands_after_the_command_counts_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_with(["--config", "/nowhere/a.toml", "plan", "--config", "/nowhere/b.toml"]) == 2
    assert "/nowhere/b.toml" in capsys.readouterr().err


def test_the_configuration_comes_from_the_environment_when_no_option_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REKEYD_CONFIG", "/nowhere/c.toml")
    assert ended_with(["plan"]) == 2
    assert "/nowhere/c.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [["--json", "plan", "--config", "/nowhere/a.toml"], ["plan", "--json", "--nonsense"], ["nonsense", "--json"]],
    ids=["configuration", "option", "command"],
)
def test_with_json_an_error_is_a_document_on_stdout(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_with(given) == 2
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["schema_version"] == 1
    assert set(content["error"]) == {"code", "message", "hint"}
    assert content["error"]["code"] in ("configuration", "usage")


@pytest.mark.parametrize(
    ("given", "said"),
    {
        "nobody is named": ([], "nobody is named"),
        "users beside --all-due": (["ci", "--all-due"], "beside --all-due"),
        "--replace for two users": (["a", "b", "--replace", "AKIAOLD"], "exactly one user"),
        "--replace in an emergency": (["a", "--replace", "AKIAOLD", "--emergency"], "contradict"),
    }.values(),
    ids=["nobody", "both", "two", "emergency"],
)
def test_rotate_now_refuses_what_cannot_go_together(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended_with(["rotate-now", *given, "--config", "/nowhere/a.toml"]) == 2
    printed = capsys.readouterr().err
    assert said in printed or ("hint" in printed and said in printed.replace("\n", " "))


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from rekeyd.cli.main import ended_with\n"
        "assert ended_with(['--help']) == 0\n"
        "heavy = {'boto3', 'botocore', 'hvac', 'requests', 'sqlalchemy', 'alembic', 'moto', 'pydantic', 'rich', "
        "'apscheduler', 'structlog', 'starlette', 'uvicorn'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"
