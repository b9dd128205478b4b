"""`rekeyd doctor`: is everything there that rekeyd needs? One plain verdict each."""

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app


@command(app, "doctor")
def doctor(session: Session) -> ExitCode:
    """Check configuration, AWS, Vault, journal, channels and clocks. Changes nothing.

    Each channel is sent a message that is marked as a test.
    Exit code 0 if rekeyd can work, 1 if a check failed. A warning fails nothing, nor does what was skipped.
    """
    from rekeyd.errors import ConfigError

    try:
        config = session.load()
    except ConfigError as error:
        # The mistakes are what doctor was asked for, so it is a verdict and not a usage error.
        return _report(
            session, [{"name": "configuration", "verdict": "failed", "message": error.message, "hint": error.hint}]
        )
    from rekeyd.cli.checks import Doctor
    from rekeyd.cli.verdicts import ok

    checks = [ok("configuration", f"{session.config_path} is right"), *Doctor(config).checks()]
    return _report(session, [check.entry() for check in checks])


def _report(session: Session, entries: list[dict[str, str | None]]) -> ExitCode:
    good = all(entry["verdict"] != "failed" for entry in entries)
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "ok": good, "checks": entries})
    else:
        for entry in entries:
            output.line(f"{entry['verdict']!s:<8} {entry['name']}: {entry['message']}")
            if entry["hint"] is not None and entry["verdict"] != "ok":
                output.line(f"         {entry['hint']}")
    return ExitCode.DONE if good else ExitCode.FAILED
