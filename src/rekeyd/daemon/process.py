"""The daemon as a process: configuration, signals, exit code.

    SIGTERM, SIGINT   finish or safely park the steps in flight, then exit 0; 1 if `fleet.stop_timeout` was too short
    a second one      exit 1 at once; the next start looks at what was in flight
    SIGHUP            read the configuration again; a wrong one is logged and the old one stays

Exit codes: 0 stopped · 1 failed · 2 the configuration is wrong, or the credentials are an AWS root user's.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import rekeyd
from rekeyd import logs
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.hardening import forbid_core_dumps
from rekeyd.app import opened
from rekeyd.config import Config, listen_address, load
from rekeyd.core.events import Event
from rekeyd.daemon.daemon import EXIT_CONFIGURATION, EXIT_FAILED, Daemon, Ended, Wish
from rekeyd.errors import ConfigError, Error, StoppingError
from rekeyd.logs import get_logger
from rekeyd.web.server import HttpServer

log = get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(config_path: Path, *, log_level: str) -> int:
    """Serve until asked to stop; returns the exit code. Call it in the main thread of a process of its own: it takes
    over the process's signals, logs and limits, and ends the process itself when something in it does not end."""
    logs.configure(level=log_level)
    # Before any other thread is there: they all inherit the mask, and one of them waits for what it masks.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    clock = SystemClock()
    try:
        forbid_core_dumps()
        config = load(config_path, os.environ)
        logs.configure(style=config.logging.format.value, level=log_level)
        ended = _served(config, config_path, clock, log_level)
    except ConfigError as error:
        return _failed(error, EXIT_CONFIGURATION)
    except StoppingError:
        return 0
    except Error as error:
        return _failed(error, EXIT_FAILED)
    if ended.in_flight:
        _leave_at_once(ended.code)
    return ended.code


def _served(config: Config, config_path: Path, clock: SystemClock, log_level: str) -> Ended:
    log.info(Event.CONFIG_LOADED, file=str(config_path))
    host, port = listen_address(config.http.listen)
    with opened(config, actor="daemon", clock=clock, heart=False) as app:
        log.info(Event.JOURNAL_OPENED, instance=app.journal.instance, holder=app.journal.holder)
        daemon = Daemon(app, config_path, log_level=log_level)
        with HttpServer(daemon, host=host, port=port):
            _listen_for_signals(daemon, clock)
            log.info(Event.DAEMON_STARTED, version=rekeyd.__version__, pid=os.getpid(), mode=config.fleet.mode.value)
            ended = daemon.serve()
            if ended.code == EXIT_FAILED:
                # Whoever hangs may hold what an orderly end waits for. The kernel frees the leases.
                _leave_at_once(ended.code)
        daemon.close()
        return ended


def _listen_for_signals(daemon: Daemon, clock: SystemClock) -> None:
    """In a thread: a handler would run between any two steps of the main thread, which may hold a lock."""

    def listen() -> None:
        while True:
            if signal.sigwait(_SIGNALS) == signal.SIGHUP:
                daemon.wishes.put(Wish.RELOAD)
            elif clock.stopping.is_set():
                _leave_at_once(EXIT_FAILED)
            else:
                clock.stop()
                daemon.wishes.put(Wish.STOP)

    threading.Thread(target=listen, name="rekeyd-signals", daemon=True).start()


def _failed(error: Error, code: int) -> int:
    log.critical(Event.DAEMON_FAILED, error=error.message, hint=error.hint)
    return code


def _leave_at_once(code: int) -> NoReturn:
    """Without waiting for threads."""
    sys.stderr.flush()
    os._exit(code)
