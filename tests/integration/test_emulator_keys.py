"""The emulated AWS accepts exactly the keys that AWS would, when AWS would."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rekeyd.demo.emulator import HUB, Delays, EmulatedAws, SeededKey, WorldClock
from tests.secret_registry import remember

NOW = datetime(2026, 11, 23, 12, 0, 0, 400_000, tzinfo=UTC)
OTHER = "222222222222"
S = timedelta(seconds=1)


@pytest.fixture
def aws() -> Iterator[EmulatedAws]:
    delays = Delays(propagation=10 * S, revocation=4 * S, region_lag={"eu-central-1": 5 * S})
    with EmulatedAws(clock=WorldClock(stands_at=NOW), delays=delays, on_secret=remember) as emulated:
        yield emulated


def refusal(call: Callable[[], object]) -> tuple[str, int]:
    """Error code and HTTP status with which a call is refused."""
    with pytest.raises(ClientError, match="An error occurred") as caught:
        call()
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def identity(aws: EmulatedAws, key: SeededKey, **more: Any) -> Callable[[], Any]:
    return aws.client_with("sts", key.access_key_id, key.secret_access_key, **more).get_caller_identity  # type: ignore[no-any-return]


def create(aws: EmulatedAws, name: str) -> SeededKey:
    made = aws.client("iam").create_access_key(UserName=name)["AccessKey"]
    return SeededKey(access_key_id=made["AccessKeyId"], secret_access_key=made["SecretAccessKey"])


def test_a_settled_key_is_its_user(aws: EmulatedAws) -> None:
    user = aws.create_user(OTHER, "svc", path="/apps/", key_age=timedelta(days=100))
    seen = identity(aws, user.key)()
    assert (seen["Arn"], seen["UserId"], seen["Account"]) == (user.arn, user.user_id, OTHER)
    assert user.arn == f"arn:aws:iam::{OTHER}:user/apps/svc"


@pytest.mark.parametrize("service", ["sts", "iam"])
def test_an_unknown_key_is_refused(aws: EmulatedAws, service: str) -> None:
    client = aws.client_with(service, "AKIAUNKNOWN000000000", "x" * 40)
    call = client.get_caller_identity if service == "sts" else client.list_users
    assert refusal(call) == ("InvalidClientTokenId", 403)


def test_a_wrong_secret_is_a_wrong_signature(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    wrong = SeededKey(access_key_id=user.key.access_key_id, secret_access_key="not-the-secret")
    assert refusal(identity(aws, wrong)) == ("SignatureDoesNotMatch", 403)


def test_a_new_key_is_accepted_from_its_propagation_on_and_not_before(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc")
    call = identity(aws, create(aws, "svc"))
    aws.clock.advance(10 * S - timedelta(microseconds=1))
    assert refusal(call) == ("InvalidClientTokenId", 403)
    aws.clock.advance(timedelta(microseconds=1))
    assert call()["Account"] == HUB


def test_regions_learn_of_a_key_at_their_own_time(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc")
    key = create(aws, "svc")
    aws.clock.advance(10 * S)
    assert identity(aws, key)()["Account"] == HUB
    assert refusal(identity(aws, key, region="eu-central-1")) == ("InvalidClientTokenId", 403)
    aws.clock.advance(5 * S)
    assert identity(aws, key, region="eu-central-1")()["Account"] == HUB


@pytest.mark.parametrize("end", ["deactivate_key", "delete_key"])
def test_an_ended_key_works_until_its_revocation_arrives(aws: EmulatedAws, end: str) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    getattr(aws, end)(user.key.access_key_id)
    call = identity(aws, user.key)
    aws.clock.advance(4 * S - timedelta(microseconds=1))
    assert call()["Arn"] == user.arn
    aws.clock.advance(timedelta(microseconds=1))
    assert refusal(call) == ("InvalidClientTokenId", 403)


def test_a_reactivated_key_waits_like_a_new_one(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    aws.deactivate_key(user.key.access_key_id)
    aws.clock.advance(60 * S)
    iam = aws.client("iam")
    iam.update_access_key(UserName="svc", AccessKeyId=user.key.access_key_id, Status="Active")
    aws.clock.advance(9 * S)
    assert refusal(identity(aws, user.key)) == ("InvalidClientTokenId", 403)
    aws.clock.advance(1 * S)
    assert identity(aws, user.key)()["Arn"] == user.arn


def test_the_third_key_is_refused_also_when_one_is_inactive(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    aws.deactivate_key(user.key.access_key_id)
    create(aws, "svc")
    assert refusal(lambda: create(aws, "svc")) == ("LimitExceeded", 409)
    assert len(aws.keys(HUB, "svc")) == 2


def test_another_hand_can_leave_three_keys(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc", key_age=3 * S)
    aws.add_key(HUB, "svc", age=2 * S)
    aws.add_key(HUB, "svc", age=S, active=False)
    shown = aws.client("iam").list_access_keys(UserName="svc")["AccessKeyMetadata"]
    assert [key["Status"] for key in shown] == ["Active", "Active", "Inactive"]


def test_create_dates_have_whole_seconds(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc")
    made = aws.client("iam").create_access_key(UserName="svc")["AccessKey"]
    assert made["CreateDate"] == NOW.replace(microsecond=0)


def test_user_names_are_found_in_any_case_and_answered_in_their_own(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "Svc", key_age=S)
    iam = aws.client("iam")
    assert iam.get_user(UserName="sVC")["User"]["UserName"] == "Svc"
    assert iam.list_access_keys(UserName="SVC")["AccessKeyMetadata"][0]["UserName"] == "Svc"
    assert refusal(lambda: iam.create_user(UserName="SVC")) == ("EntityAlreadyExists", 409)


def test_a_deleted_key_is_not_there_to_be_deleted_again(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    iam = aws.client("iam")
    iam.delete_access_key(UserName="svc", AccessKeyId=user.key.access_key_id)
    again = lambda: iam.delete_access_key(UserName="svc", AccessKeyId=user.key.access_key_id)  # noqa: E731
    assert refusal(again) == ("NoSuchEntity", 404)


def test_a_key_of_another_user_is_not_found_under_this_one(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc", key_age=S)
    other = aws.create_user(HUB, "other", key_age=S)
    iam = aws.client("iam")
    call = lambda: iam.delete_access_key(UserName="svc", AccessKeyId=other.key.access_key_id)  # noqa: E731
    assert refusal(call) == ("NoSuchEntity", 404)


def test_a_role_must_name_the_user_and_a_user_need_not(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S, admin=True)
    assert refusal(aws.client("iam").create_access_key) == ("ValidationError", 400)
    own = aws.client_with("iam", user.key.access_key_id, user.key.secret_access_key)
    assert own.create_access_key()["AccessKey"]["UserName"] == "svc"


def test_a_managed_users_own_key_may_only_ask_who_it_is(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    own = aws.client_with("iam", user.key.access_key_id, user.key.secret_access_key)
    assert refusal(lambda: own.list_access_keys(UserName="svc")) == ("AccessDenied", 403)


def test_a_user_with_keys_is_not_deleted(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc", key_age=S)
    assert refusal(lambda: aws.client("iam").delete_user(UserName="svc")) == ("DeleteConflict", 409)


def test_a_user_made_again_has_another_id_and_none_of_the_keys(aws: EmulatedAws) -> None:
    first = aws.create_user(HUB, "svc", key_age=S)
    aws.delete_user(HUB, "svc")
    second = aws.create_user(HUB, "svc")
    assert (first.arn, first.user_id != second.user_id) == (second.arn, True)
    assert aws.keys(HUB, "svc") == []
    assert aws.key(first.key.access_key_id).status == "Deleted"


def test_a_renamed_user_keeps_id_keys_and_tags(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S, tags={"team": "a"})
    aws.rename_user(HUB, "svc", new_name="svc2", new_path="/x/")
    found = aws.client("iam").get_user(UserName="svc2")["User"]
    assert (found["UserId"], found["Tags"]) == (user.user_id, [{"Key": "team", "Value": "a"}])
    assert identity(aws, user.key)()["Arn"] == f"arn:aws:iam::{HUB}:user/x/svc2"


def test_an_expired_session_is_told_so(aws: EmulatedAws) -> None:
    arn = aws.add_role(OTHER, "rekeyd")
    hub = aws.create_user(HUB, "daemon", key_age=S, admin=True)
    sts = aws.client_with("sts", hub.key.access_key_id, hub.key.secret_access_key)
    lent = sts.assume_role(RoleArn=arn, RoleSessionName="one")["Credentials"]
    pair = SeededKey(access_key_id=lent["AccessKeyId"], secret_access_key=lent["SecretAccessKey"])
    call = identity(aws, pair, token=lent["SessionToken"])
    assert call()["Arn"] == f"arn:aws:sts::{OTHER}:assumed-role/rekeyd/one"
    assert refusal(identity(aws, pair, token="other")) == ("InvalidClientTokenId", 403)
    aws.clock.advance(timedelta(hours=1))
    assert refusal(call) == ("ExpiredToken", 403)


def test_an_old_signature_is_refused_where_that_is_asked_for(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    call = identity(aws, user.key)
    assert call()["Arn"] == user.arn
    # The client signs with the machine's time, this world stands elsewhere.
    aws.delays.signature_age = timedelta(minutes=15)
    aws.clock.advance(timedelta(days=3650))
    assert refusal(call) == ("SignatureDoesNotMatch", 403)


def test_lists_may_lag_behind_changes(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    aws.clock.advance(60 * S)
    aws.delays.list_lag = 10 * S
    created = create(aws, "svc")
    aws.deactivate_key(user.key.access_key_id)
    iam = aws.client("iam")

    def listed() -> dict[str, str]:
        found = iam.list_access_keys(UserName="svc")["AccessKeyMetadata"]
        return {key["AccessKeyId"]: key["Status"] for key in found}

    assert listed() == {user.key.access_key_id: "Active"}
    aws.clock.advance(10 * S)
    assert listed() == {user.key.access_key_id: "Inactive", created.access_key_id: "Active"}


def test_errors_have_the_genuine_form(aws: EmulatedAws) -> None:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(aws.url, data=b"Action=GetCallerIdentity&Version=2011-06-15")  # noqa: S310
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        urllib.request.urlopen(request)  # noqa: S310
    with caught.value as error:
        assert error.headers["Content-Type"] == "text/xml"
        body = error.read().decode()
    assert "<Code>MissingAuthenticationToken</Code>" in body
    assert "<RequestId>" in body


def test_every_secret_made_can_be_listed_for_searching(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=S)
    made = create(aws, "svc")
    assert {user.key.secret_access_key, made.secret_access_key} <= set(aws.secrets)
    assert aws.secret_of(made.access_key_id) == made.secret_access_key


def test_a_daemons_environment_is_enough_for_a_client(aws: EmulatedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    for as_role in (False, True):
        for name, value in aws.daemon_environment(as_role=as_role).items():
            monkeypatch.setenv(name, value)
        assert boto3.Session().client("sts").get_caller_identity()["Account"] == HUB
        assert "Users" in boto3.Session().client("iam").list_users()


def test_only_one_world_lives_in_a_process(aws: EmulatedAws) -> None:
    with pytest.raises(RuntimeError, match="has not been stopped"):
        EmulatedAws()
