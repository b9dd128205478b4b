"""Processes of the demo: started here, ended here, each by its own pid.

Each one has a session of its own, so that Ctrl-C reaches only the demo, and the
kernel ends it should the demo be killed: nothing is left running in any case.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

# prctl(PR_SET_PDEATHSIG = 1, SIGKILL), then the program itself under the same pid. A launcher and not preexec_fn,
# which may deadlock in a process with threads. It undoes _uninterrupted, which a child inherits.
_LAUNCHER = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, 9); "
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM)); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)

# The daemon stops within stop_timeout of its configuration; a consumer within its own time-out.
_END_LIMIT_SECONDS = 20.0


class Processes:
    """All processes of the demo but OpenBao, which looks after its own. A context manager: at its end all are gone."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, *arguments: str, log: Path | None = None, answers: bool = False) -> "subprocess.Popen[str]":
        """`python ARGUMENTS…`. Its stderr goes to `log`; its stdout too, or to the caller if it `answers`.

        To be called from the main thread: the process ends with the thread that started it.
        """
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), sys.executable, *arguments]
        with (log or Path(os.devnull)).open("ab") as stream, _uninterrupted():
            process = subprocess.Popen(  # noqa: S603 - our own programs with our own arguments
                command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if answers else stream,
                stderr=stream,
                text=True,
                start_new_session=True,
            )
            self._started.append(process)
        return process

    def end(self) -> None:
        """SIGTERM to all, in the reverse order of their start; SIGKILL to who does not listen. May be called twice."""
        running = [process for process in reversed(self._started) if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(timeout=_END_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=_END_LIMIT_SECONDS)
        for process in self._started:
            if process.stdout is not None:
                process.stdout.close()
        self._started.clear()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A signal comes before or after: a process that has been started is in the list of those to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
