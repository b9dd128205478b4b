"""The life of one key, through the AWS adapter, on a user that the test made. `make live-aws` runs it for real."""

from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AwsSettings
from rekeyd.core.model import AccessKeyId, KeyStatus, Proof, UseUnknown
from rekeyd.demo.emulator import HUB
from rekeyd.errors import LeaseLostError, LimitExceededError, NotFoundError
from tests.acceptance.stand import eventually
from tests.contract.aws_sides import MachineClock, emulated
from tests.live.conftest import AwsSandbox
from tests.live.sandbox import ACCOUNT, WrongSandboxError, checked_account

UNKNOWN_KEY = AccessKeyId("AKIAXXXXXXXXXXXXXXXX")


def passes() -> None:
    """A guard of a holder that still holds."""


def test_a_key_is_made_proven_deactivated_refused_and_deleted(aws: AwsSandbox) -> None:
    iam, sts, name = aws.cloud.iam(aws.account_id), aws.cloud.sts, aws.user_name
    user = eventually(lambda: iam.get_user(name), "the user")
    made = iam.create_access_key(name, operation_id="live-1", guard=passes)
    key_id = made.pair.access_key_id
    eventually(lambda: sts.prove(made.pair, user) is Proof.ACCEPTED, "AWS's acceptance of the new key")
    eventually(lambda: [key.id for key in iam.list_access_keys(name)] == [key_id], "the key in the list")
    iam.update_access_key(name, key_id, KeyStatus.INACTIVE, guard=passes)
    eventually(lambda: sts.prove(made.pair, user) is not Proof.ACCEPTED, "AWS's refusal of the inactive key")
    iam.delete_access_key(name, key_id, guard=passes)
    eventually(lambda: iam.list_access_keys(name) == (), "an empty list")


def test_a_third_key_is_refused(aws: AwsSandbox) -> None:
    iam, name = aws.cloud.iam(aws.account_id), aws.user_name
    for number in (1, 2):
        iam.create_access_key(name, operation_id=f"live-{number}", guard=passes)
    with pytest.raises(LimitExceededError, match=name):
        iam.create_access_key(name, operation_id="live-3", guard=passes)


def test_a_key_that_is_not_there_is_deleted_and_not_updated(aws: AwsSandbox) -> None:
    iam, name = aws.cloud.iam(aws.account_id), aws.user_name
    eventually(lambda: iam.get_user(name), "the user")
    iam.delete_access_key(name, UNKNOWN_KEY, guard=passes)
    with pytest.raises(NotFoundError, match=name):
        iam.update_access_key(name, UNKNOWN_KEY, KeyStatus.INACTIVE, guard=passes)
    assert isinstance(iam.last_use(UNKNOWN_KEY), UseUnknown)


def test_a_guard_that_raises_keeps_a_key_from_being_made(aws: AwsSandbox) -> None:
    iam, name = aws.cloud.iam(aws.account_id), aws.user_name
    eventually(lambda: iam.get_user(name), "the user")

    def stops() -> None:
        raise LeaseLostError("another holder")

    with pytest.raises(LeaseLostError, match="another holder"):
        iam.create_access_key(name, operation_id="live-1", guard=stops)
    assert iam.list_access_keys(name) == ()


def test_what_a_scan_reads_is_readable(aws: AwsSandbox) -> None:
    iam = aws.cloud.iam(aws.account_id)
    assert iam.account_summary().users >= 1
    assert aws.user_name in {user.user_name for user in iam.list_users()}
    assert iam.credential_report(max_wait=timedelta(minutes=2)).generated_at.tzinfo is not None


def test_another_account_than_the_named_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated(monkeypatch):
        sts = AwsCloud(AwsSettings(region="us-east-1"), MachineClock(), instance="live").sts
        assert checked_account({ACCOUNT: HUB}, sts) == HUB
        with pytest.raises(WrongSandboxError, match="not set"):
            checked_account({}, sts)
        with pytest.raises(Exception, match="999988887777"):
            checked_account({ACCOUNT: "999988887777"}, sts)


def test_the_makefile_offers_the_live_suites() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "\nlive-aws:" in makefile
    assert "\nlive-vault:" in makefile
