"""What the URL of an SQS queue tells: account, Region and name. Configuration reads it too, so it imports little."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from rekeyd.core.model import AccountId

# sqs.eu-central-1.amazonaws.com · sqs-fips.… · eu-central-1.queue.… · vpce-….sqs.eu-central-1.vpce.…
_REGION = re.compile(r"(?:^|\.)(?:sqs(?:-fips)?\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.(?:vpce\.)?amazonaws\.")
_PATH = re.compile(r"/(\d{12})/([\w-]{1,80}(?:\.fifo)?)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueName:
    account_id: AccountId
    name: str
    region: str | None
    """None: its host is none of AWS's."""

    def arn(self, partition: str, region: str) -> str:
        """`region`: where the URL does not tell it."""
        return f"arn:{partition}:sqs:{self.region or region}:{self.account_id}:{self.name}"


def queue_name(url: str) -> QueueName:
    """Raises `ValueError` for what is not the URL of a queue."""
    parts = urlsplit(url)
    named = _PATH.fullmatch(parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or named is None or parts.query or parts.fragment:
        raise ValueError("is not the URL of an SQS queue")
    found = _REGION.search(parts.hostname)
    region = None if found is None else found[1] or found[2]
    return QueueName(account_id=AccountId(named[1]), name=named[2], region=region)
