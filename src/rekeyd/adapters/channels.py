"""The channels that the configuration names. One that cannot be set up is a channel that fails, never a silent gap."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.errors import Error
from rekeyd.ports import Channel, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """None: not wanted."""

    urls_file: Path | None = None
    sns_topic_arn: str | None = None
    webhook_url_file: Path | None = None
    webhook_secret_file: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokenChannel:
    """Takes nothing, and says why."""

    name: str
    error: Error

    def send(self, message: Message) -> None:  # noqa: ARG002
        raise type(self.error)(self.error.message, hint=self.error.hint)


def channels_of(settings: ChannelSettings, sessions: AwsSessions) -> tuple[Channel, ...]:
    """Reads the files; never raises for what is in them."""
    found: list[Channel] = []
    if (urls_file := settings.urls_file) is not None:
        from rekeyd.adapters.channel_apprise import apprise_channels

        found += _tried("apprise", lambda: apprise_channels(urls_file))
    if (topic_arn := settings.sns_topic_arn) is not None:
        from rekeyd.adapters.channel_sns import SnsChannel

        found.append(SnsChannel(sessions, topic_arn))
    url_file, secret_file = settings.webhook_url_file, settings.webhook_secret_file
    if url_file is not None and secret_file is not None:
        from rekeyd.adapters.channel_webhook import Webhook

        found += _tried("webhook", lambda: (Webhook(url_file=url_file, secret_file=secret_file),))
    return tuple(found)


def _tried(name: str, make: Callable[[], tuple[Channel, ...]]) -> tuple[Channel, ...]:
    try:
        return make()
    except Error as error:
        return (BrokenChannel(name, error),)
