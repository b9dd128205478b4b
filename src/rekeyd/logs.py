"""Logs: one line an event, the event from the closed list, and never a secret.

    log = get_logger()
    with bound(pass_id=pass_id, account_id=account_id):
        log.info(Event.KEY_DEACTIVATED, access_key_id=old.id, reason=reason)

Lines go to stderr, as JSON or for a console, with RFC 3339 UTC times. Tracebacks
carry no local variables: a frame may hold a secret. What libraries log is let
through from WARNING on, as ``library.logged``, whatever the level asked for:
botocore at DEBUG prints the answer of CreateAccessKey.

``bound`` is for ``pass_id``, ``account_id``, ``principal`` and ``rotation_id``: it holds
for every line of the block, in this thread or task only.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from rekeyd.core.events import Event, Level, as_markdown
from rekeyd.core.secret import MASK, Secret

STRICT_VARIABLE = "REKEYD_STRICT_EVENTS"
"""Set to 1, an event outside the list raises (so the tests run, also the processes they start)."""

_LISTED = frozenset(event.value for event in Event)

# Names whose values are withheld. Key *ids* are no secrets and are needed in every line.
_SECRET_NAMES = frozenset(
    {"secret", "secret_access_key", "secretaccesskey", "secret_key", "password", "token", "vault_token", "client_token"}
    | {"secret_id", "session_token", "authorization", "x-vault-token"}
)

# Belt and braces only. Each pattern needs a prefix that marks a secret, so that ids, hashes and paths never match:
# Vault service, batch and recovery tokens (https://developer.hashicorp.com/vault/docs/concepts/tokens, 1.10 and
# before), and a value right after the words "secret access key".
_SECRET_TEXT = re.compile(
    r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}"
    r"|(?<![\w.])[sbr]\.[A-Za-z0-9]{24}(?![\w.])"
    r"|(?i:(?<=secretaccesskey)|(?<=secret_access_key)|(?<=secret_key))([\"'\s:=><]{1,6})[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"
)


class UnlistedEventError(ValueError):
    """A line was logged whose event is not in `Event`: a mistake in the code."""


def configure(
    *, style: str = "json", level: str = "info", stream: TextIO | None = None, strict: bool | None = None
) -> None:
    """Set up logging for the process; call it again to change it (SIGHUP).

    `style`: "json" or "console". `level`: a `Level`, in lower or upper case. `stream`: stderr unless given.
    `strict`: raise on an unlisted event; None means what $REKEYD_STRICT_EVENTS says.
    Raises `ValueError` for an unknown style or level.
    """
    threshold = logging.getLevelNamesMapping()[Level(level.lower()).upper()]
    target = sys.stderr if stream is None else stream
    if style not in ("json", "console"):
        raise ValueError(f"unknown log style {style!r}: json or console")
    structlog.configure(
        processors=[*_processors(strict=_strict(strict)), *_rendering(style, target)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(target),
        # The loggers of modules are made at import; a reload must reach them.
        cache_logger_on_first_use=False,
    )
    _take_over_libraries()


def get_logger() -> FilteringBoundLogger:
    """A logger for a module; it follows later calls of `configure`."""
    return cast("FilteringBoundLogger", structlog.get_logger())


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Add these fields to every line of the block; None removes a field for the block."""
    given = {name: value for name, value in fields.items() if value is not None}
    hidden = [name for name, value in fields.items() if value is None]
    before = structlog.contextvars.get_contextvars()
    structlog.contextvars.unbind_contextvars(*hidden)
    try:
        with structlog.contextvars.bound_contextvars(**given):
            yield
    finally:
        restored = {name: before[name] for name in hidden if name in before}
        structlog.contextvars.bind_contextvars(**restored)


def redacted(value: object) -> object:
    """The value fit to be printed: secrets in it, by type, by name or by their marks, are masked."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda found: f"{found.group(1) or ''}{MASK}", value)
    if isinstance(value, Mapping):
        return {
            name: MASK if str(name).lower() in _SECRET_NAMES and item is not None else redacted(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    return value


def _strict(strict: bool | None) -> bool:  # noqa: FBT001 -- passed through
    return os.environ.get(STRICT_VARIABLE) == "1" if strict is None else strict


def _processors(*, strict: bool) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _EventCheck(strict=strict),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _render_exception,
        _redact,
    ]


def _rendering(style: str, target: TextIO) -> list[Processor]:
    if style == "json":
        return [structlog.processors.JSONRenderer(ensure_ascii=False, default=_plain)]
    return [
        structlog.dev.ConsoleRenderer(colors=target.isatty(), pad_event_to=24),
    ]


def _plain(value: object) -> str:
    # repr() of a foreign object may show anything; its type is enough to find the mistake.
    return str(value) if isinstance(value, os.PathLike) or hasattr(value, "isoformat") else f"<{type(value).__name__}>"


class _EventCheck:
    def __init__(self, *, strict: bool) -> None:
        self._strict = strict

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        event = str(line.get("event"))
        if event in _LISTED:
            line["event"] = event
            return line
        if self._strict:
            raise UnlistedEventError(f"{event!r} is not in rekeyd.core.events.Event")
        # In production a line that is wrongly named is worth more than a step that ends by an error.
        line["unlisted"] = True
        return line


def _render_exception(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Frames and messages, no locals and no source beyond the line itself."""
    given = line.pop("exc_info", None)
    if not given:
        return line
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        rendered = traceback.TracebackException.from_exception(error, capture_locals=False, compact=True)
        line["exception"] = "".join(rendered.format()).rstrip()
    return line


def _redact(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    first = {name: line[name] for name in ("timestamp", "level", "event") if name in line}
    return cast("MutableMapping[str, Any]", redacted(first | dict(line)))


class _LibraryHandler(logging.Handler):
    """Carries the lines of libraries (APScheduler, uvicorn, botocore) into our own log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            level = Level.CRITICAL if record.levelno >= logging.CRITICAL else None
            level = level or (Level.ERROR if record.levelno >= logging.ERROR else Level.WARNING)
            send = getattr(get_logger(), level.value)
            send(Event.LIBRARY_LOGGED, logger=record.name, message=message, exc_info=record.exc_info or None)
        except Exception:  # noqa: BLE001 -- logging.Handler's contract: a line that cannot be written ends nothing
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        # logging's own handleError prints the arguments of the record, which may hold anything.
        with_name = f"a log line of {record.name} could not be written\n"
        if sys.stderr is not None:
            sys.stderr.write(with_name)


def _take_over_libraries() -> None:
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _LibraryHandler)]:
        root.removeHandler(handler)
    handler = _LibraryHandler(level=logging.WARNING)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _main() -> None:
    sys.stdout.write(as_markdown())


if __name__ == "__main__":
    _main()
