"""The program `rekeyd`: what stands before a command."""

from typing import Annotated

import typer

from rekeyd.cli import output
from rekeyd.cli.options import ConfigOption, JsonOption, LogLevelOption, Session, given_before

app = typer.Typer(
    name="rekeyd",
    # Rich help would take longer to import than most commands take to run.
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer's callback
    if wanted:
        from importlib.metadata import version

        output.line(f"rekeyd {version('rekeyd')}")
        raise typer.Exit


@app.callback()
def _before_command(
    *,
    config: ConfigOption = None,
    json: JsonOption = False,
    log_level: LogLevelOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="The version.", show_default=False)
    ] = False,
) -> None:
    """Rotate the access keys of AWS IAM users into Vault or OpenBao, and watch for root user access keys.

    Exit codes: 0 done, 1 something failed (nothing is lost), 2 usage or configuration, 3 a critical finding is
    open, 4 the state needs a person, 5 another process works on it.
    """
    del version
    given_before(Session(config=config, json=json, log_level=log_level))
