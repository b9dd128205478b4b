"""AWS Health, for its notices of exposed credentials.

Only accounts with a support plan are answered. Shapes are those of botocore's model; that an entity is the id of an
access key is what AWS's own example of such an event shows. Nothing of it was compared with AWS itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rekeyd.demo.emulator.api import ApiCall, Result
from rekeyd.demo.emulator.wire import AwsError
from rekeyd.demo.emulator.world import World, new_id

# Largest number of events that DescribeAffectedEntities takes.
MOST_EVENTS = 10


@dataclass(slots=True, kw_only=True)
class HealthEvent:
    arn: str
    account_id: str
    code: str
    entity: str
    since: datetime
    open: bool = True


class Health:
    """The service; no account has a support plan unless it stands in `plans`."""

    def __init__(self, world: World, *, page_size: int | None) -> None:
        self._world = world
        self._page_size = page_size
        self.plans: set[str] = set()
        self.events: list[HealthEvent] = []
        self.actions: dict[str, Callable[[ApiCall], Result]] = {
            "DescribeEvents": self.describe_events,
            "DescribeAffectedEntities": self.describe_affected_entities,
        }

    def report(self, account_id: str, code: str, entity: str, since: datetime) -> HealthEvent:
        arn = f"arn:{self._world.partition}:health:{self._world.region}::event/RISK/{code}/{new_id(code)}"
        event = HealthEvent(arn=arn, account_id=account_id, code=code, entity=entity, since=since)
        self.events.append(event)
        return event

    def describe_events(self, call: ApiCall) -> Result:
        wanted = call.params.get("filter") or {}
        statuses = wanted.get("eventStatusCodes") or ["open", "closed", "upcoming"]
        found: list[dict[str, object]] = [
            {
                "arn": event.arn,
                "service": "RISK",
                "eventTypeCode": event.code,
                "eventTypeCategory": "issue",
                "region": "global",
                # JSON services send seconds since 1970.
                "startTime": event.since.timestamp(),
                "lastUpdatedTime": event.since.timestamp(),
                "statusCode": "open" if event.open else "closed",
                "eventScopeCode": "ACCOUNT_SPECIFIC",
            }
            for event in self._own(call)
            if ("open" if event.open else "closed") in statuses and "RISK" in (wanted.get("services") or ["RISK"])
        ]
        return self._page(call, "events", found)

    def describe_affected_entities(self, call: ApiCall) -> Result:
        arns = (call.params.get("filter") or {}).get("eventArns") or []
        if not 1 <= len(arns) <= MOST_EVENTS:
            raise AwsError("ValidationError", f"eventArns must have 1 to {MOST_EVENTS} members")
        found: list[dict[str, object]] = [
            {
                "entityArn": f"arn:{self._world.partition}:health::{event.account_id}:entity/{event.entity}",
                "eventArn": event.arn,
                "entityValue": event.entity,
                "awsAccountId": event.account_id,
                "lastUpdatedTime": event.since.timestamp(),
                "statusCode": "IMPAIRED",
            }
            for event in self._own(call)
            if event.arn in arns
        ]
        return self._page(call, "entities", found)

    def _own(self, call: ApiCall) -> list[HealthEvent]:
        if call.caller.account_id not in self.plans:
            raise AwsError("SubscriptionRequiredException", "")
        return [event for event in self.events if event.account_id == call.caller.account_id]

    def _page(self, call: ApiCall, member: str, found: list[dict[str, object]]) -> Result:
        start = int(call.params.get("nextToken") or 0)
        stop = start + (self._page_size or 100)
        return {member: found[start:stop]} | ({"nextToken": f"{stop:04}"} if stop < len(found) else {})
