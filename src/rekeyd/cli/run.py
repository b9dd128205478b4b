"""`rekeyd run`: the daemon in the foreground, as systemd and Kubernetes start it."""

from rekeyd.cli.exits import ExitCode
from rekeyd.cli.options import LogLevel, Session, command
from rekeyd.cli.program import app


@command(app, "run")
def run(session: Session) -> ExitCode:
    """Run the daemon until SIGTERM or SIGINT. SIGHUP reads the configuration again."""
    # Before the daemon does it with one log line: a person at a terminal gets every mistake on a line of its own.
    session.load(default_level=LogLevel.INFO)
    from rekeyd import daemon

    level = (session.log_level or LogLevel.INFO).value
    return ExitCode(daemon.run(session.config_path, log_level=level))
