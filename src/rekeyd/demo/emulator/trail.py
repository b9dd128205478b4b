"""CloudTrail's LookupEvents, for the calls that change access keys or make sessions.

Events are shown in one Region of the partition only (us-east-1 for `aws`) and
after `cloudtrail_lag`. `AccessKeyId` is the key that signed; a created key's id
is in responseElements. The newest event comes first.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rekeyd.demo.emulator.api import ApiCall, Result
from rekeyd.demo.emulator.wire import AwsError, stamp
from rekeyd.demo.emulator.world import Session, StoredKey, World

# Where IAM's events are delivered, by partition.
HOME_REGION = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
# Most events in one answer.
PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    account_id: str
    at: datetime
    shown: Mapping[str, object]


class Trail:
    """Events of all accounts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._events: list[_Event] = []

    def record(
        self, call: ApiCall, user_name: str | None, *, key: StoredKey | None, error: AwsError | None = None
    ) -> None:
        """One key-changing call; `key` None when it failed."""
        requested = {"userName": user_name} if user_name is not None else {}
        if call.action != "CreateAccessKey" and key is not None:
            requested["accessKeyId"] = key.id
        answered = None
        if call.action == "CreateAccessKey" and key is not None:
            made = {"accessKeyId": key.id, "status": "Active", "createDate": _console_date(key.created_at)}
            answered = {"accessKey": made | requested}
        self._record(call, requested, answered, user_name=user_name, key=key, error=error)

    def record_session(self, call: ApiCall, session: Session, requested: Mapping[str, object]) -> None:
        """A session that the caller got from STS."""
        credentials = {"accessKeyId": session.access_key_id, "expiration": _console_date(session.expires_at)}
        self._record(call, requested, {"credentials": credentials})

    def _record(
        self,
        call: ApiCall,
        requested: Mapping[str, object],
        answered: Mapping[str, object] | None,
        *,
        user_name: str | None = None,
        key: StoredKey | None = None,
        error: AwsError | None = None,
    ) -> None:
        now = self._world.clock.now()
        event_id = str(uuid.uuid4())
        detail: dict[str, object] = {
            "eventVersion": "1.10",
            "userIdentity": _identity(call),
            "eventTime": stamp(now),
            "eventSource": f"{call.service}.amazonaws.com",
            "eventName": call.action,
            "awsRegion": HOME_REGION.get(self._world.partition, self._world.region),
            "sourceIPAddress": "127.0.0.1",
            "userAgent": call.user_agent,
            "requestParameters": requested or None,
            "responseElements": answered,
            "eventID": event_id,
            "readOnly": False,
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": call.caller.account_id,
        }
        if error is not None:
            detail |= {"errorCode": f"{error.code}Exception", "errorMessage": error.message}
        self._keep(call, now, event_id, detail, user_name, key)

    def lookup(self, call: ApiCall) -> Result:
        if call.region != HOME_REGION.get(self._world.partition):
            return {"Events": []}
        visible = self._world.clock.now() - self._world.delays.cloudtrail_lag
        begins = _time(call.params.get("StartTime"))
        ends = _time(call.params.get("EndTime"))
        wanted = call.params.get("LookupAttributes") or []
        if len(wanted) > 1:
            raise AwsError("InvalidLookupAttributesException", "Only one lookup attribute is allowed", 400)
        found = [
            event.shown
            for event in reversed(self._events)
            if event.account_id == call.caller.account_id
            and event.at <= visible
            and (begins is None or event.at.replace(microsecond=0) >= begins)
            and (ends is None or event.at.replace(microsecond=0) <= ends)
            and all(_has(event.shown, each["AttributeKey"], each["AttributeValue"]) for each in wanted)
        ]
        start = int(call.params.get("NextToken") or 0)
        stop = start + min(int(call.params.get("MaxResults") or PAGE), PAGE)
        more = {"NextToken": str(stop)} if stop < len(found) else {}
        return {"Events": found[start:stop]} | more

    def _keep(
        self,
        call: ApiCall,
        now: datetime,
        event_id: str,
        detail: Mapping[str, object],
        user_name: str | None,
        key: StoredKey | None,
    ) -> None:
        resources = []
        if user_name is not None:
            resources.append({"ResourceType": "AWS::IAM::User", "ResourceName": user_name})
        if key is not None:
            resources.append({"ResourceType": "AWS::IAM::AccessKey", "ResourceName": key.id})
        shown = {
            "EventId": event_id,
            "EventName": call.action,
            "ReadOnly": "false",
            "AccessKeyId": _signer(call),
            # JSON services send seconds since 1970.
            "EventTime": now.replace(microsecond=0).timestamp(),
            "EventSource": f"{call.service}.amazonaws.com",
            "Username": _username(call),
            "Resources": resources,
            "CloudTrailEvent": json.dumps(detail),
        }
        self._events.append(_Event(account_id=call.caller.account_id, at=now, shown=shown))


def _identity(call: ApiCall) -> dict[str, object]:
    caller = call.caller
    kind = "IAMUser" if caller.key is not None else "AssumedRole"
    if caller.is_root or (caller.session is not None and caller.session.task is not None):
        kind = "Root"
    identity: dict[str, object] = {
        "type": kind,
        "principalId": caller.user_id,
        "arn": caller.arn,
        "accountId": caller.account_id,
        "accessKeyId": _signer(call),
    }
    if caller.user_name is not None:
        identity["userName"] = caller.user_name
    if caller.session is not None and caller.session.task is not None:
        # How AssumeRoot's sessions differ from the root user itself.
        identity["sessionContext"] = {"assumedRoot": "true"}
    return identity


def _signer(call: ApiCall) -> str:
    if call.caller.key is not None:
        return call.caller.key.id
    return call.caller.session.access_key_id if call.caller.session is not None else ""


def _username(call: ApiCall) -> str:
    """For roles the session name."""
    if call.caller.arn.endswith(":root"):
        return "root"
    return call.caller.user_name or call.caller.arn.rpartition("/")[2]


def _has(shown: Mapping[str, object], name: str, value: str) -> bool:
    match name:
        case "ResourceName" | "ResourceType":
            resources = shown["Resources"]
            return isinstance(resources, list) and any(each[name] == value for each in resources)
        case _:
            return shown.get(name) == value


def _time(value: object) -> datetime | None:
    return datetime.fromtimestamp(float(value), UTC) if isinstance(value, int | float) else None


def _console_date(at: datetime) -> str:
    """CloudTrail repeats dates of answers in its own form: `Nov 23, 2026 7:22:34 PM`."""
    hour = at.hour % 12 or 12
    return f"{at:%b} {at.day}, {at.year} {hour}:{at:%M:%S %p}"
