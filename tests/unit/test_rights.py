"""Who is an administrator, by the policies that IAM shows, and what the password policy lacks."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from rekeyd.adapters.aws_rights import rights_of
from rekeyd.core.rights import NO_PASSWORD_POLICY, PasswordItem, allows_everything, weaknesses

ARN = "arn:aws:iam::111122223333:user/ci"
ADMINISTRATOR = "arn:aws:iam::aws:policy/AdministratorAccess"
OWN = "arn:aws:iam::111122223333:policy/everything"


def policy(*, action: Any = "*", resource: Any = "*", effect: str = "Allow") -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": effect, "Action": action, "Resource": resource}]}


DOCUMENTS: dict[str, tuple[Any, bool]] = {
    "everything everywhere": (policy(), True),
    "all of IAM": (policy(action=["s3:Get*", "IAM:*"]), True),
    "spelled with a colon": (policy(action="*:*"), True),
    "a single statement, not in a list": ({"Statement": policy()["Statement"][0]}, True),
    "all but a few actions": ({"Statement": {"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}}, True),
    "as text": (json.dumps(policy()), True),
    "as IAM sends it": (quote(json.dumps(policy())), True),
    "everything on one bucket": (policy(resource="arn:aws:s3:::b/*"), False),
    "one service": (policy(action="s3:*"), False),
    "everything denied": (policy(effect="Deny"), False),
    "no policy": ("<html>", False),
    "nothing": (None, False),
}


@pytest.mark.parametrize(("document", "everything"), DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_which_policies_make_an_administrator(document: Any, everything: bool) -> None:
    assert allows_everything(document) is everything


def user(**more: Any) -> dict[str, Any]:
    return {"Arn": ARN, "UserName": "ci", **more}


def attached(arn: str) -> list[dict[str, str]]:
    return [{"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn}]


def managed(document: Any, *, default: bool = True) -> dict[str, Any]:
    return {"Arn": OWN, "PolicyVersionList": [{"Document": document, "IsDefaultVersion": default}]}


WAYS: dict[str, tuple[dict[str, Any], list[Any], list[Any], str | None]] = {
    "by AWS's own policy": (user(AttachedManagedPolicies=attached(ADMINISTRATOR)), [], [], "AdministratorAccess"),
    "by a policy of that name that is not AWS's": (
        user(AttachedManagedPolicies=attached("arn:aws:iam::111122223333:policy/AdministratorAccess")),
        [],
        [],
        None,
    ),
    "by an inline policy": (user(UserPolicyList=[{"PolicyName": "mine", "PolicyDocument": policy()}]), [], [], "mine"),
    "by a managed policy": (user(AttachedManagedPolicies=attached(OWN)), [], [managed(policy())], "everything"),
    "by an old version of one": (
        user(AttachedManagedPolicies=attached(OWN)),
        [],
        [managed(policy(), default=False)],
        None,
    ),
    "by a group": (
        user(GroupList=["admins"]),
        [{"GroupName": "admins", "AttachedManagedPolicies": attached(ADMINISTRATOR)}],
        [],
        "AdministratorAccess",
    ),
    "by a group's inline policy": (
        user(GroupList=["admins"]),
        [{"GroupName": "admins", "GroupPolicyList": [{"PolicyName": "all", "PolicyDocument": policy()}]}],
        [],
        "all",
    ),
    "by somebody else's group": (
        user(GroupList=["devs"]),
        [{"GroupName": "admins", "AttachedManagedPolicies": attached(ADMINISTRATOR)}],
        [],
        None,
    ),
    "not at all": (user(), [], [], None),
}


@pytest.mark.parametrize(("shown", "groups", "policies", "by"), WAYS.values(), ids=WAYS.keys())
def test_how_a_user_becomes_an_administrator(
    shown: dict[str, Any], groups: list[Any], policies: list[Any], by: str | None
) -> None:
    assert rights_of([shown], groups, policies)[ARN].administrator_by == by


@pytest.mark.parametrize("version", ["V2", "V3", "V4"])
def test_every_version_of_the_quarantine_policy_is_known(version: str) -> None:
    shown = user(AttachedManagedPolicies=attached(f"arn:aws:iam::aws:policy/AWSCompromisedKeyQuarantine{version}"))
    rights = rights_of([shown], [], [])[ARN]
    assert rights.quarantined_by == f"AWSCompromisedKeyQuarantine{version}"
    assert rights.administrator_by is None


def test_an_account_without_a_password_policy_lacks_both_items() -> None:
    assert weaknesses(NO_PASSWORD_POLICY) == {
        PasswordItem.LENGTH: "8 characters are enough, and 14 should be the least",
        PasswordItem.REUSE: "no former passwords are refused, and 24 should be",
    }
