"""The entry point: runs a command and ends the process as DESIGN §8 promises."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import ExitCode, code_of, error_document
from rekeyd.cli.program import app
from rekeyd.errors import Error

# Each registers its commands with `app`; in this order `--help` shows them.
_COMMANDS = (
    "run",
    "rotate",
    "rollback",
    "move",
    "doctor",
    "plan",
    "explain",
    "audit",
    "status",
    "alarms",
    "sessions",
    "root",
    "history",
    "report",
    "brake",
    "config",
    "policy",
    "demo",
)
for _name in _COMMANDS:
    import_module(f"rekeyd.cli.{_name}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = ended_with(given)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain again while it ends.
        sys.stdout = None
    sys.exit(code)


def ended_with(given: list[str]) -> int:
    """The exit code. An error is said on stderr, and with `--json` it is the document on stdout."""
    as_json = "--json" in given
    try:
        ended = app(given or ["--help"], standalone_mode=False, prog_name="rekeyd")
    except Error as error:
        return _failed(code_of(error), error.code, error.message, error.hint, as_json=as_json)
    except typer.TyperException as error:
        hint = "rekeyd --help, or rekeyd COMMAND --help"
        return _failed(ExitCode.USAGE, "usage", error.format_message(), hint, as_json=as_json)
    except (typer.Abort, KeyboardInterrupt):
        return _failed(ExitCode.FAILED, "interrupted", "interrupted", None, as_json=as_json)
    except BrokenPipeError:
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001 - the last resort: a traceback without values, and the promised exit code
        from rekeyd.core.events import Event
        from rekeyd.logs import get_logger

        get_logger().error(Event.COMMAND_FAILED, exc_info=error)
        message = f"{type(error).__name__} was not foreseen; the log on stderr says where"
        return _failed(ExitCode.FAILED, "unforeseen", message, "please report it", as_json=as_json)
    return int(ended or 0)


def _failed(code: ExitCode, name: str, message: str, hint: str | None, *, as_json: bool) -> int:
    if as_json:
        output.document(error_document(name, message, hint))
    elif message:
        output.say(f"error: {message}")
        if hint is not None:
            output.say(f"hint: {hint}")
    return int(code)
