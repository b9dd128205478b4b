"""The IAM actions that must be truer than moto's; the rest goes to moto.

Each action is a function of the world and a call and returns the members of its
result (None: an empty answer), or raises AwsError.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rekeyd.demo.emulator.api import ApiCall, Result, aware
from rekeyd.demo.emulator.report import Reports
from rekeyd.demo.emulator.trail import Trail
from rekeyd.demo.emulator.wire import AwsError, SummaryMap
from rekeyd.demo.emulator.world import StoredKey, World

# IAM's default page; MaxItems may ask for 1 to 1000.
DEFAULT_PAGE = 100


class Iam:
    """IAM's control plane over one world."""

    def __init__(self, world: World, reports: Reports, trail: Trail, *, page_size: int | None, key_quota: int) -> None:
        self.world = world
        self.reports = reports
        self.trail = trail
        self.page_size = page_size
        """Answers have at most so many entries, whatever MaxItems asks; None: as asked."""
        self.key_quota = key_quota
        self.organization_features: dict[str, frozenset[str]] = {}
        """Management account: features of centralised root access."""
        self.actions: dict[str, Callable[[ApiCall], Result]] = {
            "CreateAccessKey": self.create_access_key,
            "UpdateAccessKey": self.update_access_key,
            "DeleteAccessKey": self.delete_access_key,
            "ListAccessKeys": self.list_access_keys,
            "GetAccessKeyLastUsed": self.get_access_key_last_used,
            "ListUsers": self.list_users,
            "GetUser": self.get_user,
            "ListUserTags": self.list_user_tags,
            "CreateUser": self.create_user,
            "DeleteUser": self.delete_user,
            "UpdateUser": self.update_user,
            "GetAccountSummary": self.get_account_summary,
            "GenerateCredentialReport": self.generate_credential_report,
            "GetCredentialReport": self.get_credential_report,
            "ListOrganizationsFeatures": self.list_organizations_features,
            "SimulatePrincipalPolicy": self.simulate_principal_policy,
        }

    def handler(self, call: ApiCall) -> Callable[[ApiCall], Result] | None:
        """None: moto answers."""
        if call.action == "GetAccountAuthorizationDetails":
            # Groups, roles and policies are moto's own; only users come by the thousand.
            filters = [value for name, value in call.params.items() if name.startswith("Filter.member.")]
            return self.get_account_authorization_details if filters == ["User"] else None
        return self.actions.get(call.action)

    # -- access keys

    def create_access_key(self, call: ApiCall) -> Result:
        owner = self._owner(call)
        account_id = call.caller.account_id
        if len(self.world.keys_of(account_id, owner)) >= self.key_quota:
            error = AwsError("LimitExceeded", f"Cannot exceed quota for AccessKeysPerUser: {self.key_quota}")
            self.trail.record(call, _owner_name(owner), key=None, error=error)
            raise error
        key = self.world.make_key(account_id, owner)
        self.trail.record(call, _owner_name(owner), key=key)
        return {
            "AccessKey": _named(key)
            | {
                "AccessKeyId": key.id,
                "Status": "Active",
                "SecretAccessKey": key.secret_access_key,
                "CreateDate": key.created_at,
            }
        }

    def update_access_key(self, call: ApiCall) -> Result:
        status = call.text("Status")
        if status not in {"Active", "Inactive", "Expired"}:
            raise AwsError("ValidationError", "Value at 'status' failed to satisfy enum value set")
        owner = self._owner(call)
        key = self.world.find_key(call.caller.account_id, owner, call.text("AccessKeyId"))
        if key.status != status:
            self.world.change_key(key, status)
        self.trail.record(call, _owner_name(owner), key=key)
        return None

    def delete_access_key(self, call: ApiCall) -> Result:
        owner = self._owner(call)
        key = self.world.find_key(call.caller.account_id, owner, call.text("AccessKeyId"))
        self.world.change_key(key, "Deleted")
        self.trail.record(call, _owner_name(owner), key=key)
        return None

    def list_access_keys(self, call: ApiCall) -> Result:
        owner = self._owner(call)
        at = self.world.clock.now() - self.world.delays.list_lag
        found = [
            _named(key) | {"AccessKeyId": key.id, "Status": status, "CreateDate": key.created_at}
            for key, status in self.world.keys_seen(call.caller.account_id, owner, at)
        ]
        return self._page(call, "AccessKeyMetadata", found)

    def get_access_key_last_used(self, call: ApiCall) -> Result:
        key = self.world.keys.get(call.text("AccessKeyId"))
        if key is None or not key.exists or key.account_id != call.caller.account_id:
            raise AwsError("NoSuchEntity", f"The Access Key with id {call.text('AccessKeyId')} cannot be found.")
        use = key.last_use(self.world.clock.now(), self.world.delays)
        if use is None:
            return _named(key) | {"AccessKeyLastUsed": {"ServiceName": "N/A", "Region": "N/A"}}
        seen = {"LastUsedDate": use.at, "ServiceName": use.service, "Region": use.region}
        return _named(key) | {"AccessKeyLastUsed": seen}

    # -- users

    def list_users(self, call: ApiCall) -> Result:
        prefix = str(call.params.get("PathPrefix") or "/")
        users = self._users(call.caller.account_id)
        return self._page(call, "Users", [_user(user) for user in users if user.path.startswith(prefix)])

    def get_user(self, call: ApiCall) -> Result:
        owner = self._owner(call)
        if owner is None:
            # A root answer has neither UserName nor Path.
            root = self.world.root(call.caller.account_id)
            account_id = call.caller.account_id
            arn = self.world.arn("iam", account_id, "root")
            return {"User": {"UserId": account_id, "Arn": arn, "CreateDate": root.created_at}}
        tags = {"Tags": owner.tags} if owner.tags else {}
        return {"User": _user(owner) | tags}

    def list_user_tags(self, call: ApiCall) -> Result:
        user = self.world.user(call.caller.account_id, call.text("UserName"))
        return self._page(call, "Tags", user.tags or [])

    def get_account_authorization_details(self, call: ApiCall) -> Result:
        users = self._users(call.caller.account_id)
        page = self._page(call, "UserDetailList", users)
        details = [_user_detail(user) for user in page["UserDetailList"]]
        rest: dict[str, object] = {"GroupDetailList": [], "RoleDetailList": [], "Policies": []}
        return page | {"UserDetailList": details} | rest

    def create_user(self, call: ApiCall) -> Result:
        tags = [
            {"Key": str(key), "Value": str(call.params.get(name.removesuffix("Key") + "Value", ""))}
            for name, key in call.params.items()
            if name.startswith("Tags.member.") and name.endswith(".Key")
        ]
        path = str(call.params.get("Path") or "/")
        user = self.world.make_user(call.caller.account_id, call.text("UserName"), path, tags)
        return {"User": _user(user) | ({"Tags": tags} if tags else {})}

    def delete_user(self, call: ApiCall) -> Result:
        user = self.world.user(call.caller.account_id, call.text("UserName"))
        if user.access_keys:
            raise AwsError("DeleteConflict", "Cannot delete entity, must delete access keys first.")
        self.world.iam(call.caller.account_id).delete_user(user.name)
        return None

    def update_user(self, call: ApiCall) -> Result:
        account_id = call.caller.account_id
        user = self.world.user(account_id, call.text("UserName"))
        new_name = call.params.get("NewUserName")
        taken = self.world.find_user(account_id, new_name) if new_name else None
        if taken is not None and taken is not user:
            raise AwsError("EntityAlreadyExists", f"User with name {new_name} already exists.")
        self.world.rename_user(account_id, user, new_name, call.params.get("NewPath"))
        return None

    # -- the account

    def get_account_summary(self, call: ApiCall) -> Result:
        account_id = call.caller.account_id
        root = self.world.root(account_id)
        summary = dict(self.world.iam(account_id).account_summary.summary_map)
        summary |= {
            # An inactive root key counts too.
            "AccountAccessKeysPresent": int(bool(self.world.keys_of(account_id, None))),
            "AccountMFAEnabled": int(root.mfa),
            "AccountPasswordPresent": int(root.password),
            "AccountSigningCertificatesPresent": int(root.certificate),
            "AccessKeysPerUserQuota": self.key_quota,
        }
        return {"SummaryMap": SummaryMap(summary)}

    def generate_credential_report(self, call: ApiCall) -> Result:
        state = self.reports.generate(call.caller.account_id)
        described = {"Description": "No report exists. Starting a new report generation task"}
        return {"State": state} | (described if state == "STARTED" else {})

    def get_credential_report(self, call: ApiCall) -> Result:
        content, generated_at = self.reports.get(call.caller.account_id)
        return {"Content": content, "ReportFormat": "text/csv", "GeneratedTime": generated_at}

    def list_organizations_features(self, call: ApiCall) -> Result:
        features = self.organization_features.get(call.caller.account_id)
        if features is None:
            raise AwsError("OrganizationNotFoundException", "The request was rejected: no organization.", 404)
        return {"OrganizationId": "o-emulated000", "EnabledFeatures": sorted(features)}

    # -- policies

    def simulate_principal_policy(self, call: ApiCall) -> Result:
        """As the gate would decide. Tags of the resource are those of the request: AWS looks up none either."""
        may = self._may_anything(call.caller.account_id, call.text("PolicySourceArn"))
        tags = {
            str(name).removeprefix("aws:ResourceTag/"): str(call.params.get(f"{stem}.ContextKeyValues.member.1"))
            for name, stem in _context_keys(call)
        }
        results = [
            self._evaluation(call, action, resource, tags, may=may)
            for resource in _listed(call, "ResourceArns") or ["*"]
            for action in _listed(call, "ActionNames")
        ]
        return self._page(call, "EvaluationResults", results)

    def _may_anything(self, account_id: str, source: str) -> bool:
        """Roles and administrators; the gate knows nothing between that and nothing."""
        kind, _, name = source.rpartition(":")[2].partition("/")
        if kind == "role" and (source in self.world.roles or name == "admin"):
            return True
        if kind == "user":
            return self.world.user(account_id, name.rpartition("/")[2]).id in self.world.admins
        if kind == "role":
            raise AwsError("NoSuchEntity", f"The role with name {name} cannot be found.")
        raise AwsError("InvalidInput", "Invalid Entity Arn: only users, groups and roles can be simulated")

    def _evaluation(
        self, call: ApiCall, action: str, resource: str, tags: Mapping[str, str], *, may: bool
    ) -> dict[str, object]:
        service, _, verb = action.partition(":")
        user_name = resource.rpartition("/")[2] if ":user/" in resource else None
        denials = self.world.denials_of(call.caller.account_id, service, verb, user_name)
        missing = [
            f"aws:ResourceTag/{d.unless_tag[0]}" for d in denials if d.unless_tag and d.unless_tag[0] not in tags
        ]
        if any(denial.unless_tag is None for denial in denials):
            decision = "explicitDeny"
        elif not may or any(not denial.spares(tags) for denial in denials):
            decision = "implicitDeny"
        else:
            decision = "allowed"
        return {
            "EvalActionName": action,
            "EvalResourceName": resource,
            "EvalDecision": decision,
            "MatchedStatements": [],
            "MissingContextValues": missing,
        }

    # -- parts

    def _owner(self, call: ApiCall) -> Any:
        """The user that is meant; without UserName the caller, None being root."""
        name = call.params.get("UserName")
        if name:
            return self.world.user(call.caller.account_id, str(name))
        if call.caller.is_root or (call.caller.session is not None and call.caller.session.task is not None):
            return None
        if call.caller.key is None:
            raise AwsError("ValidationError", "Must specify userName when calling with non-User credentials")
        return call.caller.key.owner

    def _users(self, account_id: str) -> list[Any]:
        return sorted(self.world.iam(account_id).users.values(), key=lambda user: user.name.casefold())

    def _page(self, call: ApiCall, name: str, entries: Sequence[Any]) -> dict[str, Any]:
        """Marker is the position; IAM's is opaque, so nobody may read it."""
        asked = int(call.params.get("MaxItems") or DEFAULT_PAGE)
        size = asked if self.page_size is None else min(asked, self.page_size)
        marker = str(call.params.get("Marker") or "")
        if marker and not marker.startswith("page-"):
            raise AwsError("ValidationError", "Invalid Marker")
        begins = int(marker.removeprefix("page-") or 0)
        ends = begins + size
        page: dict[str, Any] = {name: list(entries[begins:ends]), "IsTruncated": ends < len(entries)}
        if page["IsTruncated"]:
            page["Marker"] = f"page-{ends}"
        return page


def _listed(call: ApiCall, name: str) -> list[str]:
    """`Name.member.1`, `Name.member.2`, … of a request."""
    found: list[str] = []
    while (value := call.params.get(f"{name}.member.{len(found) + 1}")) is not None:
        found.append(str(value))
    return found


def _context_keys(call: ApiCall) -> Iterator[tuple[str, str]]:
    """The name of each context entry, and how its parameters begin."""
    for number in itertools.count(1):
        stem = f"ContextEntries.member.{number}"
        name = call.params.get(f"{stem}.ContextKeyName")
        if name is None:
            return
        yield str(name), stem


def _owner_name(owner: Any) -> str | None:
    return None if owner is None else str(owner.name)


def _named(key: StoredKey) -> dict[str, object]:
    """Root answers have no UserName."""
    return {} if key.user_name is None else {"UserName": key.user_name}


def _user(user: Any) -> dict[str, object]:
    shown: dict[str, object] = {
        "Path": user.path,
        "UserName": user.name,
        "UserId": user.id,
        "Arn": user.arn,
        "CreateDate": aware(user.create_date),
    }
    if user.password_last_used:
        shown["PasswordLastUsed"] = aware(user.password_last_used)
    return shown


def _user_detail(user: Any) -> dict[str, object]:
    shown = _user(user) | {
        "GroupList": user.group_list,
        "AttachedManagedPolicies": user.attached_managed_policies,
        "Tags": user.tags or [],
    }
    if user.user_policy_list:
        shown["UserPolicyList"] = user.user_policy_list
    return shown
