"""Rights, password policy and the owner of a key, as the adapter reads them over HTTP."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AwsSettings
from rekeyd.adapters.clock import SystemClock
from rekeyd.core.model import AccessKeyId, AccountId
from rekeyd.core.rights import NO_PASSWORD_POLICY
from rekeyd.demo.emulator import EmulatedAws
from rekeyd.errors import AccessDeniedError, RefusedError

pytestmark = pytest.mark.slow

ACCOUNT = AccountId("111122223333")
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


@pytest.fixture(scope="module")
def aws() -> Iterator[EmulatedAws]:
    with EmulatedAws(hub=ACCOUNT) as emulated:
        yield emulated


@pytest.fixture
def cloud(aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch) -> AwsCloud:
    for name, value in aws.daemon_environment().items():
        monkeypatch.setenv(name, value)
    return AwsCloud(AwsSettings(region="us-east-1", endpoint_url=aws.url), SystemClock(), instance="test")


def test_administrators_and_quarantined_users_are_told_from_the_others(aws: EmulatedAws, cloud: AwsCloud) -> None:
    iam = aws.client("iam")
    for name in ("plain", "inline", "attached", "grouped", "leaked"):
        aws.create_user(ACCOUNT, name)
    iam.put_user_policy(UserName="inline", PolicyName="all", PolicyDocument=json.dumps(EVERYTHING))
    iam.attach_user_policy(UserName="attached", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    iam.create_group(GroupName="admins")
    made = iam.create_policy(PolicyName="own", PolicyDocument=json.dumps(EVERYTHING))
    iam.attach_group_policy(GroupName="admins", PolicyArn=made["Policy"]["Arn"])
    iam.add_user_to_group(GroupName="admins", UserName="grouped")
    iam.attach_user_policy(UserName="leaked", PolicyArn="arn:aws:iam::aws:policy/AWSCompromisedKeyQuarantineV3")
    found = {each.user_name: each for each in cloud.iam(ACCOUNT).user_rights().values()}
    assert {name: each.administrator_by for name, each in found.items() if each.administrator_by} == {
        "inline": "all",
        "attached": "AdministratorAccess",
        "grouped": "own",
    }
    assert [name for name, each in found.items() if each.quarantined_by] == ["leaked"]


def test_the_password_policy_is_read_and_none_is_awss_default(aws: EmulatedAws, cloud: AwsCloud) -> None:
    assert cloud.iam(ACCOUNT).password_policy() == NO_PASSWORD_POLICY
    aws.client("iam").update_account_password_policy(MinimumPasswordLength=16, PasswordReusePrevention=24)
    policy = cloud.iam(ACCOUNT).password_policy()
    assert (policy.minimum_length, policy.reuse_prevention) == (16, 24)


def test_a_password_policy_that_may_not_be_read_names_the_permission(aws: EmulatedAws, cloud: AwsCloud) -> None:
    denial = aws.deny(ACCOUNT, "GetAccountPasswordPolicy")
    with pytest.raises(AccessDeniedError, match="iam:GetAccountPasswordPolicy"):
        cloud.iam(ACCOUNT).password_policy()
    denial.lift()


def test_whose_key_it_is(aws: EmulatedAws, cloud: AwsCloud) -> None:
    user = aws.create_user(ACCOUNT, "owner", key_age=timedelta(days=1))
    key_id = AccessKeyId(user.key.access_key_id)
    assert cloud.sts.account_of_key(key_id) == ACCOUNT
    assert cloud.iam(ACCOUNT).owner_of_key(key_id) == "owner"
    root = AccessKeyId(aws.add_root_key(ACCOUNT).access_key_id)
    assert cloud.iam(ACCOUNT).owner_of_key(root) is None
    with pytest.raises(RefusedError, match="GetAccessKeyInfo"):
        cloud.sts.account_of_key(AccessKeyId("AKIAUNKNOWNUNKNOWN00"))
