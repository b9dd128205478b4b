"""CloudTrail's LookupEvents beside a rotation: what an exposed key began, and when the root user was last used.

    AwsTrail(sessions, account_id).roles_of(key_id, since=…)  -> RolesSeen
    AwsTrail(sessions, account_id).root_used_at(since=…)      -> datetime | None

* IAM's events, and those of sign-in, are in one Region of the partition; STS's are where it was called. Asked are that
  Region and `aws.region`: what happened elsewhere is not seen here.
* Events come about 15 minutes late, and LookupEvents takes two calls a second: what is asked is bounded.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rekeyd.adapters.aws_errors import Call, ask
from rekeyd.adapters.aws_session import AwsSessions
from rekeyd.core.cloudtrail import is_root_user
from rekeyd.core.model import AccessKeyId, AccountId
from rekeyd.core.sessions import AssumedRole, role_assumed, session_made

# Two calls a second: a look at one key takes half a minute at most, one at the root user ten seconds.
_MOST_KEYS = 20
_MOST_PAGES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RolesSeen:
    """Oldest first."""

    roles: tuple[AssumedRole, ...]
    regions: tuple[str, ...]
    """Where was asked."""
    complete: bool
    """False: there was more than was asked for."""


class AwsTrail:
    """As rekeyd's role in that account."""

    def __init__(self, sessions: AwsSessions, account_id: AccountId) -> None:
        self._sessions = sessions
        self._account_id = account_id

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self._sessions.iam_region, self._sessions.settings.region)))

    def roles_of(self, key_id: AccessKeyId, *, since: datetime) -> RolesSeen:
        """Roles assumed with the key, or with sessions that began with it, since then."""
        roles: list[AssumedRole] = []
        to_ask, asked, complete = [key_id], set[AccessKeyId](), True
        while to_ask:
            if len(asked) == _MOST_KEYS:
                complete = False
                break
            signer = to_ask.pop(0)
            asked.add(signer)
            for region in self.regions:
                pages = 0
                for page in self._pages(region, "AccessKeyId", signer, since):
                    pages += 1
                    for at, event in page:
                        made = session_made(event)
                        if made is None or made in asked or made in to_ask:
                            continue
                        role = role_assumed(event, signed_by=signer, at=at)
                        if role is not None:
                            roles.append(role)
                        to_ask.append(made)
                    if pages == _MOST_PAGES:
                        complete = False
                        break
        return RolesSeen(roles=tuple(sorted(roles, key=lambda r: r.at)), regions=self.regions, complete=complete)

    def root_used_at(self, *, since: datetime) -> datetime | None:
        """The newest call or sign-in of the root user itself since then. None: there was none in these Regions.

        Newest first, so the first that counts ends it: sessions of AssumeRoot, which are not the root user, and what
        an AWS service did by itself are passed over.
        """
        newest = (self._root_used_in(region, since) for region in self.regions)
        return max((at for at in newest if at is not None), default=None)

    def _root_used_in(self, region: str, since: datetime) -> datetime | None:
        for number, page in enumerate(self._pages(region, "Username", "root", since), 1):
            for at, event in page:
                if is_root_user(event):
                    return at
            if number == _MOST_PAGES:
                return None
        return None

    def _pages(
        self, region: str, key: Any, value: str, since: datetime
    ) -> Iterator[list[tuple[datetime, Mapping[str, Any]]]]:
        call = Call(action="cloudtrail:LookupEvents", account_id=self._account_id)
        more: dict[str, Any] = {}

        def read() -> tuple[list[tuple[datetime, Mapping[str, Any]]], str | None]:
            page: Any = self._sessions.trail(self._account_id, region).lookup_events(
                LookupAttributes=[{"AttributeKey": key, "AttributeValue": value}], StartTime=since, **more
            )
            events = [(e["EventTime"].astimezone(UTC), _record(e["CloudTrailEvent"])) for e in page["Events"]]
            return events, page.get("NextToken")

        while True:
            events, token = ask(call, read)
            yield events
            if not token:
                return
            more = {"NextToken": token}


def _record(text: str) -> Mapping[str, Any]:
    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise TypeError("an event is no record")
    return parsed
