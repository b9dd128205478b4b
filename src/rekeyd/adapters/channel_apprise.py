"""Channels that Apprise speaks: Slack, Teams, PagerDuty, e-mail and many more, one for each URL of a file."""

import hashlib
import logging
import re
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rekeyd.adapters.secret_file import read_secret_lines
from rekeyd.core.brevity import cut, shortened
from rekeyd.core.secret import Secret
from rekeyd.errors import ConfigError, MessageRefusedError, TemporaryError
from rekeyd.ports import Message

_SETTING = "alarms.urls_file"


class AppriseChannel:
    """`rekeyd.ports.Channel`. Its name is the URL's schema and a few digits that tell two of a schema apart."""

    def __init__(self, url: Secret, *, setting: str = _SETTING) -> None:
        """ConfigError, naming `setting`: Apprise does not know such a URL."""
        self._apprise = _prepared()
        self.name = self.name_of(url)
        if not self._apprise.add(url.reveal()):
            raise ConfigError(
                f'{setting}: Apprise does not understand the line that begins with "{_schema(url)}:"',
                hint="https://github.com/caronc/apprise/wiki lists the forms",
            )

    @staticmethod
    def name_of(url: Secret) -> str:
        # 24 bits of a digest tell nothing of a token, and stay the same when lines are put in another order.
        return f"{_schema(url)}-{hashlib.sha256(url.reveal().encode()).hexdigest()[:6]}"

    def send(self, message: Message) -> None:
        said: list[str] = []
        _said.set(said)
        title, text = _fitting(message, next(iter(self._apprise)))
        # What a message says is never markup: without the format, mail would take it for HTML.
        taken = self._apprise.notify(
            title=title, body=text, notify_type=_kind(message.severity), body_format=_text_format()
        )
        if not taken:
            cause = f": {said[-1]}" if said else ""
            error = MessageRefusedError if said and said[-1] in _FAULTS_OF_THE_MESSAGE else TemporaryError
            raise error(f"the service did not take the message, or cannot be reached{cause}")


def apprise_channels(urls_file: Path) -> tuple[AppriseChannel, ...]:
    """ConfigError: the file cannot be read, has no URL, or one that Apprise does not know."""
    urls = read_secret_lines(urls_file, _SETTING)
    if not urls:
        raise ConfigError(f"{_SETTING}: {urls_file} has no URL")
    channels = {channel.name: channel for channel in map(AppriseChannel, urls)}
    return tuple(channels.values())


def _schema(url: Secret) -> str:
    return urlsplit(url.reveal()).scheme or "unknown"


def _kind(severity: str) -> Any:
    from apprise import NotifyType

    match severity:
        case "critical" | "high":
            return NotifyType.FAILURE
        case "resolved":
            return NotifyType.SUCCESS
        case _:
            return NotifyType.WARNING


def _text_format() -> Any:
    from apprise import NotifyFormat

    return NotifyFormat.TEXT


_MOST_TITLE = 250
"""Apprise's own limit, for services whose title is a part of the body and has none."""
_HEAD = 24
"""For what Apprise puts round such a title: a tag and the end of the line."""


def _fitting(message: Message, service: Any) -> tuple[str, str]:
    """Title and text that the service takes: Apprise itself sends what is too long, and it is refused for ever.

    Measured as the service gets it: an escaped text is longer. Where the URL says `overflow=`, Apprise does that.
    """
    if "overflow_mode" in vars(service):
        return message.title, message.text
    inside = service.title_maxlen <= 0 or service.overflow_amalgamate_title
    most = min(service.title_maxlen if service.title_maxlen > 0 else service.body_maxlen - _HEAD, _MOST_TITLE)
    title = cut(message.title, lambda text: _length(text, service) <= most)
    room = service.body_maxlen - (_length(title, service) + _HEAD if inside else 0)
    text = shortened(message.paragraphs, message.left, lambda text: _length(text, service) <= room)
    # Apprise sends no title without a text.
    return (title, text) if text else ("", title)


def _length(text: str, service: Any) -> int:
    from apprise.conversion import convert_between

    convert: Any = convert_between
    form = service.resolve_format(_text_format())
    return len(service.dialect_convert(convert(_text_format(), form, content=text), form))


# Apprise sends in threads of its own, and takes the context along: what was said goes into the sender's list.
_said: ContextVar[list[str]] = ContextVar("rekeyd_apprise_said")


class _Causes(logging.Handler):
    """Learns why from Apprise's log, which alone says it, and lets none of it out.

    Its lines name hosts and parts of addresses, and at DEBUG whole bodies: only our own words of `_CAUSES` and the
    number of a status are kept.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # a line that Apprise itself made wrong must not stop the message
            return
        if said.startswith(_EXCEPTION):
            _tell(next((ours for theirs, ours in _CAUSES if theirs in said.lower()), None))
        elif record.levelno >= logging.WARNING and (status := _STATUS.search(said)) is not None:
            _tell(_answered(status[1]))


def _tell(cause: str | None) -> None:
    sender = _said.get(None)
    if cause is not None and sender is not None:
        sender.append(cause)


def _answered(status: object) -> str:
    return f"it answered {status}"


_FAULTS_OF_THE_MESSAGE = frozenset(_answered(status) for status in (400, 413, 422))
_EXCEPTION = "Socket Exception: "
_STATUS = re.compile(r"\berror=([1-5]\d\d)\b")
# What Python's libraries say, in lower case, and what a person should read.
_CAUSES = (
    ("certificate verify failed", "its certificate is not trusted"),
    ("certificate_verify_failed", "its certificate is not trusted"),
    ("connection refused", "nobody listens there"),
    ("timed out", "no answer in time"),
    ("name or service not known", "there is no such host"),
    ("name resolution", "there is no such host"),
    ("(535,", "it refused user and password"),
    ("(530,", "it wants a user and a password"),
    ("starttls extension not supported", "it offers no STARTTLS"),
    ("smtp auth extension not supported", "it offers no login"),
    ("connection unexpectedly closed", "it closed the connection"),
)


def _prepared() -> Any:
    # Before the import, which logs as well.
    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [_Causes()], False
    logger.setLevel(logging.DEBUG)
    import apprise

    return apprise.Apprise(asset=apprise.AppriseAsset(app_id="rekeyd", app_desc="rekeyd alarms", async_mode=False))
