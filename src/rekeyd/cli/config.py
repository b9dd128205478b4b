"""`rekeyd config`: write, check and show the configuration. Nothing is asked of AWS or Vault."""

import os
from typing import TYPE_CHECKING

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command, group
from rekeyd.cli.program import app

if TYPE_CHECKING:
    from rekeyd.config import ConfigProblemsError

config = group("Write, check and show the configuration.")
app.add_typer(config, name="config")


@command(config, "init")
def init(session: Session) -> ExitCode:
    """Print a configuration to begin with: every setting with its default, in observe mode."""
    from rekeyd.config import example

    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "toml": example()})
    else:
        output.raw(example())
    return ExitCode.DONE


@command(config, "check")
def check(session: Session) -> ExitCode:
    """Check the configuration and name every mistake with its place. Exit code 2 if there is one."""
    from rekeyd.config import ConfigProblemsError, load

    path = session.config_path
    try:
        load(path, os.environ)
    except ConfigProblemsError as error:
        if not session.json:
            raise
        output.document(_mistakes(error))
        return ExitCode.USAGE
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "config": str(path), "problems": []})
    else:
        output.line(f"{path} is in order")
    return ExitCode.DONE


@command(config, "show")
def show(session: Session) -> ExitCode:
    """Print the settings in force: file, environment and defaults together."""
    from rekeyd.config import as_toml, effective, load

    loaded = load(session.config_path, os.environ)
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "config": effective(loaded)})
    else:
        output.raw(as_toml(loaded))
    return ExitCode.DONE


@command(config, "schema")
def schema(session: Session) -> ExitCode:
    """Print the JSON Schema of the file, for editors."""
    del session
    from rekeyd.config import schema as schema_of_file

    output.document(schema_of_file())
    return ExitCode.DONE


def _mistakes(error: "ConfigProblemsError") -> dict[str, object]:
    from rekeyd.cli.exits import error_document

    return error_document(error.code, error.message, error.hint) | {
        "problems": [problem.as_json() for problem in error.problems]
    }
