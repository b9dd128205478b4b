"""What AWS Health knows of exposed access keys of an account.

    AwsHealth(sessions, iam).notices()  -> tuple[ExposureNotice, ...] | None

* Its API answers accounts with a support plan of Business or better only; without one the answer is None.
* A notice names an access key, or a user by its ARN; what else it names is passed on as it is, for people.
* A notice about keys that are gone or not Active any more is none.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from rekeyd.adapters.aws_errors import Call, ask, code_of, turned
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.cloudtrail import EXPOSURE_CODES
from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus
from rekeyd.core.posture import ExposureNotice
from rekeyd.errors import AccessDeniedError, NotFoundError

if TYPE_CHECKING:
    from rekeyd.ports import Iam

# https://docs.aws.amazon.com/health/latest/APIReference/API_DescribeEvents.html
_NO_PLAN = "SubscriptionRequiredException"
# https://docs.aws.amazon.com/health/latest/APIReference/API_EntityFilter.html
_MOST_EVENTS = 10

_KEY_ID = re.compile(r"AKIA\w{12,124}", re.ASCII)
_USER_ARN = re.compile(r"arn:[a-z-]+:iam::\d{12}:user/(?:[^/]+/)*([\w+=,.@-]{1,64})", re.ASCII)
_LONGEST_ENTITY = 128


class AwsHealth:
    """As rekeyd's role in that account."""

    def __init__(self, sessions: AwsSessions, account_id: AccountId, iam: "Iam") -> None:
        self._sessions = sessions
        self._account_id = account_id
        self._iam = iam

    def notices(self) -> tuple[ExposureNotice, ...] | None:
        """Of open events. None: the account has no support plan for it. Raises `rekeyd.errors` only."""
        events = self._events()
        if events is None:
            return None
        found: list[ExposureNotice] = []
        arns = list(events)
        for begin in range(0, len(arns), _MOST_EVENTS):
            for entity in self._entities(arns[begin : begin + _MOST_EVENTS]):
                code, since = events[entity["eventArn"]]
                notice = self._notice(code, since, str(entity.get("entityValue") or ""))
                if notice is not None:
                    found.append(notice)
        return tuple(found)

    def _events(self) -> Mapping[str, tuple[str, datetime]] | None:
        """Code and beginning, by ARN."""
        wanted = {"services": ["RISK"], "eventStatusCodes": ["open"]}
        try:
            pages = list(self._pages("DescribeEvents", "describe_events", "events", wanted))
        except _NoPlanError:
            return None
        return {
            each["arn"]: (str(each["eventTypeCode"]), each["startTime"].astimezone(UTC))
            for each in pages
            if str(each["eventTypeCode"]).startswith(EXPOSURE_CODES)
        }

    def _entities(self, arns: list[str]) -> Iterator[Any]:
        yield from self._pages(
            "DescribeAffectedEntities", "describe_affected_entities", "entities", {"eventArns": arns}
        )

    def _pages(self, action: str, method: str, member: str, wanted: Mapping[str, Any]) -> Iterator[Any]:
        call = Call(action=f"health:{action}", account_id=self._account_id)
        more: dict[str, str] = {}

        def read() -> tuple[list[Any], str | None]:
            client = self._sessions.health(self._account_id)
            try:
                page = getattr(client, method)(filter=wanted, **more)
            except ClientError as error:
                if code_of(error) == _NO_PLAN:
                    return [], _NO_PLAN
                raise
            # Indexed: a missing list is a broken answer, not "none".
            token = page.get("nextToken")
            if token:
                turned({"nextToken": token}, more)
            return page[member], token

        while True:
            entries, token = ask(call, read)
            if token == _NO_PLAN:
                raise _NoPlanError
            yield from entries
            if not token:
                return
            more = {"nextToken": token}

    def _notice(self, code: str, since: datetime, entity: str) -> ExposureNotice | None:
        """None: nothing of it is Active any more."""
        user_name, key_ids = self._exposed(entity, since)
        if user_name is not None and not key_ids:
            return None
        return ExposureNotice(
            code=code, since=since, entity=_plain(entity), user_name=user_name or None, key_ids=key_ids
        )

    def _exposed(self, entity: str, since: datetime) -> tuple[str | None, tuple[AccessKeyId, ...]]:
        """The user, and those of its Active keys that are meant. ("", ()): gone; (None, ()): nobody who can be told."""
        by_arn = _USER_ARN.fullmatch(entity)
        try:
            if _KEY_ID.fullmatch(entity) is not None:
                user_name = self._iam.owner_of_key(AccessKeyId(entity))
            else:
                user_name = None if by_arn is None else by_arn[1]
            if user_name is None:
                return None, ()
            keys = self._iam.list_access_keys(user_name)
        except NotFoundError:
            return "", ()
        except AccessDeniedError:
            return None, ()
        active = [key for key in keys if key.status is KeyStatus.ACTIVE]
        # IAM's dates are whole seconds.
        meant = [key for key in active if (key.created_at <= since if by_arn is not None else key.id == entity)]
        return user_name, tuple(key.id for key in meant)


class _NoPlanError(Exception):
    pass


def _plain(entity: str) -> str:
    """For people: of one line, and no longer than a name can be."""
    return "".join(sign if sign.isprintable() else "?" for sign in entity[:_LONGEST_ENTITY])
