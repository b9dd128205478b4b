"""STS: who am I, sessions of roles, and sessions of another account's root user."""

from collections.abc import Callable
from datetime import timedelta

from rekeyd.demo.emulator.api import ApiCall, Result
from rekeyd.demo.emulator.trail import Trail
from rekeyd.demo.emulator.wire import AwsError
from rekeyd.demo.emulator.world import Session, World

# A session made from another session ends after one hour, whatever its role allows.
CHAINED_LIMIT = timedelta(hours=1)
# GetSessionToken and GetFederationToken: 12 hours, and at most 36.
USER_SESSION = timedelta(hours=12)
LONGEST_USER_SESSION = timedelta(hours=36)
# AssumeRoot's longest and default session.
ROOT_SESSION = timedelta(seconds=900)
_AUDIT = frozenset(
    {
        "ListAccessKeys",
        "ListSigningCertificates",
        "GetLoginProfile",
        "ListMFADevices",
        "GetUser",
        "GetAccessKeyLastUsed",
    }
)
# Actions of each task policy, from the policy documents that AWS publishes.
# No task deactivates a key: a root key can only be deleted.
TASK_POLICIES = {
    "IAMAuditRootUserCredentials": _AUDIT | {"GetAccountSummary"},
    "IAMDeleteRootUserCredentials": _AUDIT
    | {
        "DeleteAccessKey",
        "DeleteSigningCertificate",
        "DeleteLoginProfile",
        "DeactivateMFADevice",
        "DeleteVirtualMFADevice",
    },
}


class Sts:
    """STS over one world."""

    def __init__(self, world: World, trail: Trail) -> None:
        self.world = world
        self.trail = trail
        self.members: dict[str, frozenset[str]] = {}
        """Management account with centralised root access: its member accounts."""
        self.actions: dict[str, Callable[[ApiCall], Result]] = {
            "GetCallerIdentity": self.get_caller_identity,
            "GetAccessKeyInfo": self.get_access_key_info,
            "AssumeRole": self.assume_role,
            "AssumeRoot": self.assume_root,
            "GetSessionToken": self.get_session_token,
            "GetFederationToken": self.get_federation_token,
        }

    def get_caller_identity(self, call: ApiCall) -> Result:
        return {"Arn": call.caller.arn, "UserId": call.caller.user_id, "Account": call.caller.account_id}

    def get_access_key_info(self, call: ApiCall) -> Result:
        key = self.world.keys.get(call.text("AccessKeyId"))
        if key is None:
            raise AwsError("ValidationError", "Invalid access key")
        return {"Account": key.account_id}

    def assume_role(self, call: ApiCall) -> Result:
        arn = call.text("RoleArn")
        name = call.text("RoleSessionName")
        role = self.world.roles.get(arn)
        # AWS does not say whether the role is missing, does not trust, or wants another external id.
        refused = AwsError(
            "AccessDenied", f"User: {call.caller.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}"
        )
        if role is None or call.caller.is_root or call.caller.account_id not in role.trusted_accounts:
            raise refused
        if role.external_id is not None and call.params.get("ExternalId") != role.external_id:
            raise refused
        lasts = timedelta(seconds=int(call.params.get("DurationSeconds") or 3600))
        if lasts > role.max_session:
            raise AwsError(
                "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            )
        if call.caller.session is not None and lasts > CHAINED_LIMIT:
            raise AwsError(
                "ValidationError",
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
            )
        account_id = arn.split(":")[4]
        role_name = arn.rpartition("/")[2]
        session = self.world.open_session(
            account_id=account_id,
            arn=self.world.arn("sts", account_id, f"assumed-role/{role_name}/{name}"),
            user_id=f"{role.role_id}:{name}",
            lasts=lasts,
        )
        self.trail.record_session(call, session, {"roleArn": arn, "roleSessionName": name})
        assumed = {"AssumedRoleId": session.user_id, "Arn": session.arn}
        return {"Credentials": _credentials(session), "AssumedRoleUser": assumed, "PackedPolicySize": 6}

    def get_session_token(self, call: ApiCall) -> Result:
        session = self._user_session(call, name=None)
        return {"Credentials": _credentials(session)}

    def get_federation_token(self, call: ApiCall) -> Result:
        session = self._user_session(call, name=call.text("Name"))
        federated = {"FederatedUserId": session.user_id, "Arn": session.arn}
        return {"Credentials": _credentials(session), "FederatedUser": federated}

    def _user_session(self, call: ApiCall, *, name: str | None) -> Session:
        """Only a user's own key can ask for one; it lives for 12 hours unless asked otherwise, at most 36."""
        key = call.caller.key
        if key is None or key.owner is None:
            raise AwsError("AccessDenied", f"Cannot call {call.action} with session credentials")
        lasts = timedelta(seconds=int(call.params.get("DurationSeconds") or USER_SESSION.total_seconds()))
        if lasts > LONGEST_USER_SESSION:
            raise AwsError("ValidationError", "Value at 'durationSeconds' must be less than or equal to 129600")
        account_id = key.account_id
        federated = None if name is None else self.world.arn("sts", account_id, f"federated-user/{name}")
        session = self.world.open_session(
            account_id=account_id,
            arn=federated or key.owner.arn,
            user_id=key.owner.id if name is None else f"{account_id}:{name}",
            lasts=lasts,
            user=key.owner,
        )
        self.trail.record_session(call, session, {} if name is None else {"name": name})
        return session

    def assume_root(self, call: ApiCall) -> Result:
        target = call.text("TargetPrincipal").removeprefix(f"arn:{self.world.partition}:iam::").removesuffix(":root")
        # A nested parameter of the Query protocol.
        task = str(call.params.get("TaskPolicyArn.arn") or "")
        actions = TASK_POLICIES.get(task.rpartition("/")[2])
        if actions is None:
            raise AwsError("ValidationError", f"{task} is not a supported task policy")
        members = self.members.get(call.caller.account_id, frozenset())
        if call.caller.is_root or target not in members:
            raise AwsError(
                "AccessDenied",
                f"User: {call.caller.arn} is not authorized to perform: sts:AssumeRoot on resource: {target}",
            )
        lasts = timedelta(seconds=int(call.params.get("DurationSeconds") or ROOT_SESSION.total_seconds()))
        if lasts > ROOT_SESSION:
            raise AwsError("ValidationError", "Value at 'durationSeconds' must be less than or equal to 900")
        session = self.world.open_session(
            account_id=target,
            arn=self.world.arn("iam", target, "root"),
            user_id=target,
            lasts=lasts,
            task=frozenset(actions),
        )
        return {"Credentials": _credentials(session)}


def _credentials(session: Session) -> dict[str, object]:
    return {
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret_access_key,
        "SessionToken": session.token,
        "Expiration": session.expires_at,
    }
