"""Who may come in: signature, key status as its Region knows it, session, permission, rate.

There is no policy evaluation. Role sessions and users seeded with `admin=True`
may do everything, other users and their sessions only what needs no permission,
AssumeRoot sessions only what their task allows; `deny()` takes away the rest.
One condition is evaluated: an inline policy of a user that denies everything to
sessions issued before a moment (aws:TokenIssueTime).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from moto.utilities.utils import get_partition

from rekeyd.demo.emulator.serving import Received
from rekeyd.demo.emulator.wire import AwsError, Signed, signature_matches
from rekeyd.demo.emulator.world import Caller, Session, StoredKey, World

# These need no permission, and no policy can deny the first.
FREE_ACTIONS = frozenset({"GetCallerIdentity", "GetSessionToken"})


@dataclass(slots=True, kw_only=True)
class Bucket:
    """A token bucket on the world's clock."""

    action: str
    account_id: str | None
    per_second: float
    burst: float
    tokens: float
    filled_at: datetime
    active: bool = True

    def lift(self) -> None:
        self.active = False

    def take(self, now: datetime) -> bool:
        """False: the request is throttled."""
        gained = max((now - self.filled_at).total_seconds(), 0.0) * self.per_second
        self.tokens = min(self.tokens + gained, self.burst)
        self.filled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Gate:
    def __init__(self, world: World) -> None:
        self._world = world
        self.buckets: list[Bucket] = []

    def authenticate(self, received: Received, signed: Signed) -> Caller:
        """Raises the error that AWS answers for such a signature."""
        if signed.access_key_id is None or signed.region is None:
            raise AwsError("MissingAuthenticationToken", "Request is missing Authentication Token")
        if get_partition(signed.region) != self._world.partition:
            raise _unknown_key()
        session = self._world.sessions.get(signed.access_key_id)
        if session is not None:
            return self._session_caller(received, signed, session)
        key = self._world.keys.get(signed.access_key_id)
        now = self._world.clock.now()
        if key is None or not key.usable(now, self._world.delays, signed.region):
            raise _unknown_key()
        self._check_signature(received, signed, key.secret_access_key)
        self._world.record_use(key, signed.service, signed.region)
        return self._key_caller(key)

    def authorize(self, caller: Caller, service: str, action: str, user_name: str | None) -> None:
        allowed = self._allowed(caller, action)
        if action == "GetCallerIdentity":
            denied = any(
                denial.active
                and denial.action.removeprefix("sts:") == action
                and denial.account_id in (None, caller.account_id)
                and denial.user_name in (None, caller.user_name)
                for denial in self._world.denials
            )
        else:
            denied = self._world.denied(caller.account_id, service, action, user_name)
        revoked = action != "GetCallerIdentity" and caller.session is not None and _revoked(caller.session)
        if denied or revoked or not allowed:
            raise AwsError(
                "AccessDenied",
                f"User: {caller.arn} is not authorized to perform: {service}:{action} on resource: * "
                f"because no identity-based policy allows the {service}:{action} action",
            )

    def throttle(self, account_id: str | None, service: str, action: str) -> None:
        now = self._world.clock.now()
        for bucket in self.buckets:
            if not bucket.active or bucket.account_id not in (None, account_id):
                continue
            if not (fnmatchcase(action, bucket.action) or fnmatchcase(f"{service}:{action}", bucket.action)):
                continue
            if not bucket.take(now):
                raise AwsError("Throttling", "Rate exceeded")

    def _allowed(self, caller: Caller, action: str) -> bool:
        if caller.session is not None:
            session = caller.session
            if session.user is not None:
                return action in FREE_ACTIONS or session.user.id in self._world.admins
            return session.task is None or action in session.task | FREE_ACTIONS
        if caller.is_root or action in FREE_ACTIONS:
            return True
        return caller.user_id in self._world.admins

    def _session_caller(self, received: Received, signed: Signed, session: Session) -> Caller:
        if signed.session_token != session.token:
            raise _unknown_key()
        self._check_signature(received, signed, session.secret_access_key)
        if self._world.clock.now() >= session.expires_at:
            raise AwsError("ExpiredToken", "The security token included in the request is expired")
        return Caller(account_id=session.account_id, arn=session.arn, user_id=session.user_id, session=session)

    def _key_caller(self, key: StoredKey) -> Caller:
        if key.owner is None:
            arn = self._world.arn("iam", key.account_id, "root")
            return Caller(account_id=key.account_id, arn=arn, user_id=key.account_id, key=key)
        return Caller(account_id=key.account_id, arn=key.owner.arn, user_id=key.owner.id, key=key)

    def _check_signature(self, received: Received, signed: Signed, secret_access_key: str) -> None:
        if not signature_matches(received, signed, secret_access_key):
            raise AwsError(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your AWS Secret Access Key and signing method. Consult the service documentation for details.",
            )
        limit = self._world.delays.signature_age
        if limit is None:
            return
        try:
            signed_at = datetime.strptime(signed.signed_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise AwsError("SignatureDoesNotMatch", "Date must be in ISO-8601 'basic format'") from None
        now = self._world.clock.now()
        if abs(now - signed_at) > limit:
            raise AwsError(
                "SignatureDoesNotMatch",
                f"Signature expired: {signed.signed_at} is now earlier than {now - limit:%Y%m%dT%H%M%SZ} "
                f"({now:%Y%m%dT%H%M%SZ} - {limit.total_seconds() / 60:g} min.)",
            )


def _revoked(session: Session) -> bool:
    """Whether the user's inline policies deny everything to sessions as old as this one. moto keeps them as text."""
    if session.user is None:
        return False
    return any(
        _denies_before(statement, session.issued_at)
        for document in session.user.policies.values()
        for statement in _listed(json.loads(document).get("Statement", []))
    )


def _denies_before(statement: Mapping[str, object], issued_at: datetime) -> bool:
    condition = statement.get("Condition")
    if statement.get("Effect") != "Deny" or statement.get("Action") != "*" or not isinstance(condition, Mapping):
        return False
    before = condition.get("DateLessThan", {}).get("aws:TokenIssueTime")
    return before is not None and issued_at < datetime.fromisoformat(before)


def _listed(value: object) -> list[Mapping[str, object]]:
    return [value] if isinstance(value, Mapping) else list(value) if isinstance(value, list) else []


def _unknown_key() -> AwsError:
    # The same for unknown, deleted and inactive keys.
    return AwsError("InvalidClientTokenId", "The security token included in the request is invalid.")
