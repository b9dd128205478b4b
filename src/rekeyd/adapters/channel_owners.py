"""Ways to the owners of users: Apprise URLs with `{owner}` in them, and the signed webhook, which names the owner.

An owner is what somebody wrote into a tag, so it is taken for nothing but an address: letters, digits and `. _ + - @`,
which no header, no list of addresses and no URL can be broken with. E-mail asks for an address of that form.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit

from rekeyd.adapters.channel_apprise import AppriseChannel
from rekeyd.adapters.secret_file import read_secret_lines
from rekeyd.core.secret import Secret
from rekeyd.errors import ConfigError, Error
from rekeyd.ports import Channel, Message

if TYPE_CHECKING:
    from rekeyd.adapters.channel_webhook import Webhook

_SETTING = "owners.urls_file"
_PLACEHOLDER = "{owner}"
_WEBHOOK = "owner-webhook"

# RFC 5321 allows more, and nobody uses it: 64 octets before the @, 255 after it.
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(?:@[A-Za-z0-9][A-Za-z0-9.-]{0,253}[A-Za-z0-9])?", re.ASCII)
_EXAMPLE = "owner@example.org"


def is_owner(text: str) -> bool:
    """Whether it can be told anything: an e-mail address, or a plain name."""
    return _OWNER.fullmatch(text) is not None and ".." not in text


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSettings:
    urls_file: Path | None = None
    webhook_url_file: Path | None = None
    """None: owners are not told by webhook."""
    webhook_secret_file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Template:
    """An Apprise URL with a placeholder; it holds a secret."""

    name: str
    url: Secret

    @classmethod
    def read(cls, url: Secret) -> Self:
        """ConfigError: no placeholder, or nothing that Apprise knows."""
        if _PLACEHOLDER not in url.reveal():
            raise ConfigError(f"{_SETTING}: a line has no {_PLACEHOLDER}, so it would tell one place for all owners")
        AppriseChannel(_filled(url, _EXAMPLE), setting=_SETTING)
        return cls(f"owner-{AppriseChannel.name_of(url)}", url)

    def takes(self, owner: str) -> bool:
        return "@" in owner or not urlsplit(self.url.reveal()).scheme.startswith("mailto")


@dataclass(frozen=True, slots=True)
class _OwnersUrl:
    """`rekeyd.ports.Channel` to one owner."""

    name: str
    url: Secret

    def send(self, message: Message) -> None:
        AppriseChannel(self.url, setting=_SETTING).send(message)


@dataclass(frozen=True, slots=True)
class _OwnersWebhook:
    """The webhook of all alarms, under the name of one owner, whom the message names."""

    name: str
    webhook: "Webhook"

    def send(self, message: Message) -> None:
        self.webhook.send(message)


class OwnerWays:
    """`rekeyd.ports.OwnerChannels`. What cannot be set up is a problem that people are told of, never an error."""

    def __init__(self, settings: OwnerSettings) -> None:
        self._templates: Mapping[str, _Template] = {}
        self._webhook: Webhook | None = None
        self.problem: str | None = None
        try:
            if settings.urls_file is not None:
                self._templates = _templates(settings.urls_file)
            self._webhook = _webhook(settings)
        except Error as error:
            self.problem = error.message

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._templates, *((_WEBHOOK,) if self._webhook is not None else ()))

    def names_for(self, owner: str) -> tuple[str, ...]:
        if not is_owner(owner):
            return ()
        ways = [name for name, template in self._templates.items() if template.takes(owner)]
        return tuple(f"{way}:{owner}" for way in (*ways, *((_WEBHOOK,) if self._webhook is not None else ())))

    def channel(self, name: str) -> Channel | None:
        way, _, owner = name.partition(":")
        if not is_owner(owner):
            return None
        if way == _WEBHOOK and self._webhook is not None:
            return _OwnersWebhook(name, self._webhook)
        template = self._templates.get(way)
        return None if template is None else _OwnersUrl(name, _filled(template.url, owner))


def _webhook(settings: OwnerSettings) -> "Webhook | None":
    """ConfigError: a file cannot be read, or the address is not safe."""
    from rekeyd.adapters.channel_webhook import Webhook

    if settings.webhook_url_file is None or settings.webhook_secret_file is None:
        return None
    return Webhook(url_file=settings.webhook_url_file, secret_file=settings.webhook_secret_file)


def _templates(urls_file: Path) -> Mapping[str, _Template]:
    found = {template.name: template for template in map(_Template.read, read_secret_lines(urls_file, _SETTING))}
    if not found:
        raise ConfigError(f"{_SETTING}: {urls_file} has no URL")
    return found


def _filled(url: Secret, owner: str) -> Secret:
    return Secret(url.reveal().replace(_PLACEHOLDER, quote(owner, safe="")))
