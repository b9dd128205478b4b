"""Amazon SNS, published to with rekeyd's own credentials in the topic's Region."""

import json
from typing import Any

from rekeyd.adapters.aws_errors import Call, ask, blames_own_credentials
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.model import AccountId
from rekeyd.ports import Message

# https://docs.aws.amazon.com/sns/latest/api/API_Publish.html: less than 100 ASCII characters, one line; 256 KiB.
_MOST_SUBJECT = 99
_MOST_BYTES = 250_000


class SnsChannel:
    """`rekeyd.ports.Channel`. Subscribers to e-mail get the text, all others as JSON the document."""

    def __init__(self, sessions: AwsSessions, topic_arn: str) -> None:
        self.name = "sns"
        self._sessions = sessions
        self._topic_arn = topic_arn
        _, _, _, self._region, account_id, self._topic = topic_arn.split(":", 5)
        self._call = Call(action="sns:Publish", account_id=AccountId(account_id))

    def send(self, message: Message) -> None:
        extra: dict[str, Any] = {}
        if self._topic.endswith(".fifo"):
            extra = {"MessageGroupId": "rekeyd", "MessageDeduplicationId": message.id}

        def publish() -> None:
            try:
                client = self._sessions.sns(self._region)
                client.publish(
                    TopicArn=self._topic_arn,
                    Subject=_subject(message.title),
                    Message=_body(message),
                    MessageStructure="json",
                    MessageAttributes={
                        "severity": {"DataType": "String", "StringValue": message.severity},
                        "message_id": {"DataType": "String", "StringValue": message.id},
                    },
                    **extra,
                )["MessageId"]
            except Exception as error:
                if blames_own_credentials(error):
                    self._sessions.renew()
                raise

        ask(self._call, publish)


def _subject(title: str) -> str:
    plain = title.encode("ascii", "replace").decode()
    return plain if len(plain) <= _MOST_SUBJECT else plain[: _MOST_SUBJECT - 3] + "..."


def _body(message: Message) -> str:
    text = message.text
    document = json.dumps(message.document, ensure_ascii=False)
    whole = _structured(text, document)
    if len(whole.encode()) <= _MOST_BYTES:
        return whole
    # The storm of storms: programs get the count, and look for themselves.
    return _structured(text[:50_000], json.dumps({**message.document, "alarms": []}, ensure_ascii=False))


def _structured(text: str, document: str) -> str:
    return json.dumps({"default": document, "email": text, "sms": text[:140]}, ensure_ascii=False)
