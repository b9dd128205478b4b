"""What every command takes: `--config`, `--json`, `--log-level`, before and after its name.

@command(app, "plan")
def plan(session: Session, user: …) -> ExitCode: ...
"""

import inspect
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli.exits import ExitCode

if TYPE_CHECKING:
    from rekeyd.config import Config

DEFAULT_CONFIG = Path("/etc/rekeyd/config.toml")
CONFIG_VARIABLE = "REKEYD_CONFIG"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"The configuration. [default: ${CONFIG_VARIABLE}, else {DEFAULT_CONFIG}]",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout instead of text.", show_default=False)
]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level",
        help="The least level that is logged to stderr. [default: info for run, else warning]",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The global options of this call."""

    config: Path | None = None
    json: bool = False
    log_level: LogLevel | None = None

    @property
    def config_path(self) -> Path:
        if self.config is not None:
            return self.config
        given = os.environ.get(CONFIG_VARIABLE)
        return Path(given) if given else DEFAULT_CONFIG

    def load(self, *, default_level: LogLevel = LogLevel.WARNING) -> "Config":
        """The configuration, checked; sets up logging by it. Raises ConfigProblemsError with every mistake."""
        from rekeyd import logs
        from rekeyd.config import load

        config = load(self.config_path, os.environ)
        # A person at a terminal reads lines; whatever collects logs elsewhere expects the configured form.
        style = "console" if sys.stderr.isatty() else config.logging.format.value
        logs.configure(style=style, level=(self.log_level or default_level).value)
        return config


_before: ContextVar[Session] = ContextVar("_before", default=Session())  # noqa: B039 - frozen


def given_before(session: Session) -> None:
    """Remember what stood before the command."""
    _before.set(session)


def given_so_far(*, config: Path | None = None, json: bool = False, log_level: LogLevel | None = None) -> Session:
    """What stood before the command, with what stands now."""
    before = _before.get()
    return replace(
        before, config=config or before.config, json=json or before.json, log_level=log_level or before.log_level
    )


def command(
    app: typer.Typer, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., ExitCode]], Callable[..., ExitCode]]:
    """Register a command whose first parameter is the Session; the global options are added to the others."""

    def register(function: Callable[..., ExitCode]) -> Callable[..., ExitCode]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def run(**given: Any) -> ExitCode:
            before = _before.get()
            session = replace(
                before,
                config=given.pop("config") or before.config,
                json=given.pop("json") or before.json,
                log_level=given.pop("log_level") or before.log_level,
            )
            return function(session, **given)

        parameters = [*own, *_GLOBAL]
        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        run.__module__ = function.__module__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, **settings)(run)
        return function

    return register


def _global(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_GLOBAL = (
    _global("config", ConfigOption, None),
    _global("json", JsonOption, default=False),
    _global("log_level", LogLevelOption, None),
)


def group(help_text: str) -> typer.Typer:
    """A group of commands, such as `config`."""
    return typer.Typer(help=help_text, rich_markup_mode=None, add_completion=False)
