"""Account authorization details, as rights of users. How they are judged stands in `rekeyd.core.rights`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rekeyd.core.rights import UserRights, administrator_by, quarantined_by, sessions_revoked_before


def rights_of(users: Sequence[Any], groups: Sequence[Any], policies: Sequence[Any]) -> Mapping[str, UserRights]:
    """By ARN. `policies`: the customer managed ones, with all their versions."""
    documents = {policy["Arn"]: _default_version(policy) for policy in policies}
    by_name = {group["GroupName"]: group for group in groups}
    rights: dict[str, UserRights] = {}
    for user in users:
        own = [user, *(by_name[name] for name in user.get("GroupList", []) if name in by_name)]
        attached = [policy["PolicyArn"] for each in own for policy in each.get("AttachedManagedPolicies", [])]
        rights[user["Arn"]] = UserRights(
            user_name=user["UserName"],
            administrator_by=administrator_by(attached, _documents(own, attached, documents)),
            quarantined_by=quarantined_by(policy["PolicyArn"] for policy in user.get("AttachedManagedPolicies", [])),
            sessions_revoked_before=sessions_revoked_before(_documents([user], (), {})),
        )
    return rights


def _documents(own: Sequence[Any], attached: Sequence[str], documents: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for arn in attached:
        if arn in documents:
            yield arn.rpartition("/")[2], documents[arn]
    for each in own:
        for inline in (*each.get("UserPolicyList", []), *each.get("GroupPolicyList", [])):
            yield inline["PolicyName"], inline.get("PolicyDocument")


def _default_version(policy: Any) -> Any:
    versions = policy.get("PolicyVersionList", [])
    return next((each.get("Document") for each in versions if each.get("IsDefaultVersion")), None)
