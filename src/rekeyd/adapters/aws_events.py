"""The queue of events: Amazon SQS, read with rekeyd's own credentials in the queue's Region.

The URL names the queue; its host is where AWS serves the Region, so an `endpoint_url` for emulators holds here too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from rekeyd.adapters.aws_errors import Call, ask, blames_own_credentials
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.adapters.queue_name import queue_name

T = TypeVar("T")

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
LONGEST_WAIT = timedelta(seconds=20)
MOST_MESSAGES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueMessage:
    body: str
    receipt: str
    """To delete this delivery of it."""


class SqsQueue:
    """Thread-safe. Every method raises `rekeyd.errors` only."""

    def __init__(self, sessions: AwsSessions, url: str, *, region: str) -> None:
        """`region`: where the URL does not tell it. Raises `ValueError` for what is not the URL of a queue."""
        name = queue_name(url)
        self.arn = name.arn(sessions.partition, region)
        self._sessions = sessions
        self._url = url
        self._region = name.region or region
        self._account_id = name.account_id

    def receive(self, *, wait: timedelta = LONGEST_WAIT) -> tuple[QueueMessage, ...]:
        """At most `MOST_MESSAGES`, as soon as there are any; nothing after `wait`, of which at most 20 s count."""

        def read() -> tuple[QueueMessage, ...]:
            said = self._sessions.sqs(self._region).receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=MOST_MESSAGES,
                WaitTimeSeconds=int(min(wait, LONGEST_WAIT).total_seconds()),
            )
            messages = said.get("Messages", [])
            return tuple(QueueMessage(body=each.get("Body", ""), receipt=each["ReceiptHandle"]) for each in messages)

        return self._asked("sqs:ReceiveMessage", read)

    def delete(self, messages: Sequence[QueueMessage]) -> int:
        """At most `MOST_MESSAGES`. Returns how many could not be deleted; those come again."""
        entries = [{"Id": str(number), "ReceiptHandle": each.receipt} for number, each in enumerate(messages)]

        def send() -> int:
            said = self._sessions.sqs(self._region).delete_message_batch(
                QueueUrl=self._url,
                Entries=entries,  # type: ignore[arg-type]  # mypy takes the literals for any dict
            )
            return len(said.get("Failed", []))

        return self._asked("sqs:DeleteMessage", send)

    def waiting(self) -> int:
        """About how many messages nobody has taken yet. For `doctor`: it changes nothing."""

        def read() -> int:
            said = self._sessions.sqs(self._region).get_queue_attributes(
                QueueUrl=self._url, AttributeNames=["ApproximateNumberOfMessages"]
            )
            return int(said["Attributes"]["ApproximateNumberOfMessages"])

        return self._asked("sqs:GetQueueAttributes", read)

    def _asked(self, action: str, function: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return function()
            except Exception as error:
                if blames_own_credentials(error):
                    self._sessions.renew()
                raise

        return ask(Call(action=action, account_id=self._account_id), guarded)
