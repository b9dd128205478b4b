"""Channels that Apprise speaks: Slack, Teams, PagerDuty, e-mail and many more, one for each URL of a file."""

import hashlib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rekeyd.adapters.secret_file import read_secret_lines
from rekeyd.core.secret import Secret
from rekeyd.errors import ConfigError, TemporaryError
from rekeyd.ports import Message

_SETTING = "alarms.urls_file"


class AppriseChannel:
    """`rekeyd.ports.Channel`. Its name is the URL's schema and a few digits that tell two of a schema apart."""

    def __init__(self, url: Secret) -> None:
        """ConfigError: Apprise does not know such a URL."""
        self._apprise = _prepared()
        schema = urlsplit(url.reveal()).scheme or "unknown"
        # 24 bits of a digest tell nothing of a token, and stay the same when lines are put in another order.
        self.name = f"{schema}-{hashlib.sha256(url.reveal().encode()).hexdigest()[:6]}"
        if not self._apprise.add(url.reveal()):
            raise ConfigError(
                f'{_SETTING}: Apprise does not understand the line that begins with "{schema}:"',
                hint="https://github.com/caronc/apprise/wiki lists the forms",
            )

    def send(self, message: Message) -> None:
        taken = self._apprise.notify(title=message.title, body=message.text, notify_type=_kind(message.severity))
        if not taken:
            # Why, Apprise only logs, with parts of the address.
            raise TemporaryError("the service did not take the message, or cannot be reached")


def apprise_channels(urls_file: Path) -> tuple[AppriseChannel, ...]:
    """ConfigError: the file cannot be read, has no URL, or one that Apprise does not know."""
    urls = read_secret_lines(urls_file, _SETTING)
    if not urls:
        raise ConfigError(f"{_SETTING}: {urls_file} has no URL")
    channels = {channel.name: channel for channel in map(AppriseChannel, urls)}
    return tuple(channels.values())


def _kind(severity: str) -> Any:
    from apprise import NotifyType

    match severity:
        case "critical" | "high":
            return NotifyType.FAILURE
        case "resolved":
            return NotifyType.SUCCESS
        case _:
            return NotifyType.WARNING


def _prepared() -> Any:
    import apprise

    # Its lines name hosts and parts of addresses, and at DEBUG whole bodies.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    return apprise.Apprise(asset=apprise.AppriseAsset(app_id="rekeyd", app_desc="rekeyd alarms", async_mode=False))
