"""A generic webhook: each message is one POST of JSON, signed, so that the receiver knows who it is from.

    X-Rekeyd-Message: the message's id, the same when it is sent again
    X-Rekeyd-Signature: t=SECONDS,v1=HEX   HEX = HMAC-SHA256(secret, "SECONDS." + body), as lower case hex

2xx means taken; anything else, a redirect too, means not taken. docs/webhook-receiver.py is an example receiver.
"""

import hashlib
import hmac
import ipaddress
import json
from datetime import UTC
from pathlib import Path
from urllib.parse import urlsplit

import requests

from rekeyd import __version__
from rekeyd.adapters.secret_file import read_secret_line
from rekeyd.core.secret import Secret
from rekeyd.errors import ConfigError, Error, MessageRefusedError, RefusedError, TemporaryError
from rekeyd.ports import Message

_TIMEOUT = (5, 10)
"""Seconds to connect, and to answer."""
# A receiver that says one of these will say it again until a person acts.
_REFUSALS = frozenset({401, 403, 404, 405, 410, 415})
_FAULTS_OF_THE_MESSAGE = frozenset({400, 413, 422})
"""These may mean the message: too long, or not as it should be."""


class Webhook:
    """`rekeyd.ports.Channel`. ConfigError: a file cannot be read, or the address is not safe."""

    def __init__(self, *, url_file: Path, secret_file: Path) -> None:
        self.name = "webhook"
        self._url = read_secret_line(url_file, "alarms.webhook_url_file")
        self._secret = read_secret_line(secret_file, "alarms.webhook_secret_file")
        parts = urlsplit(self._url.reveal())
        if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(parts.hostname)):
            raise ConfigError("alarms.webhook_url_file: the address must begin with https://")

    def send(self, message: Message) -> None:
        body = json.dumps(
            {**message.document, "title": message.title, "text": message.text}, ensure_ascii=False
        ).encode()
        stamp = str(int(message.at.astimezone(UTC).timestamp()))
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": f"rekeyd/{__version__}",
            "X-Rekeyd-Message": message.id,
            "X-Rekeyd-Signature": f"t={stamp},v1={signature(self._secret, stamp, body)}",
        }
        status = _posted(self._url.reveal(), body, headers)
        if not 200 <= status < 300:
            raise _error_of(status)(f"the webhook answered {status}")


def _error_of(status: int) -> type[Error]:
    if status in _FAULTS_OF_THE_MESSAGE:
        return MessageRefusedError
    return RefusedError if status in _REFUSALS else TemporaryError


def _loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def signature(secret: Secret, stamp: str, body: bytes) -> str:
    return hmac.new(secret.reveal().encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _posted(url: str, body: bytes, headers: dict[str, str]) -> int:
    """The status. The library's errors name the address, so neither they nor their causes go on."""
    kind = ""
    try:
        # A redirect would carry the message to whom nobody named.
        answer = requests.post(url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False)
        return answer.status_code
    except (requests.RequestException, OSError, ValueError) as error:
        kind = type(error).__name__
    raise TemporaryError(f"the webhook cannot be reached ({kind})")
