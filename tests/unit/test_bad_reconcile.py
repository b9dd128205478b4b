"""After an answer of IAM that is none, no key is made, deactivated or deleted: the real adapter, up to the decision."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AwsSettings
from rekeyd.core.model import AccountId, UseUnknown
from rekeyd.core.state import State
from rekeyd.errors import Error
from rekeyd.ports import Iam, Sts
from tests.bad_server import MANY, Server, a_server, own_credentials, within_time
from tests.contract.vault_stand import SteadyClock
from tests.rig import ACCOUNT, DAY, Rig, policy
from tests.unit.test_bad_input import IDENTITY, KEY_ID, aws_bodies, aws_statuses, xml

CHANGES = ("CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey")
NEXT = {"rotation": "CreateAccessKey", "deactivation": "UpdateAccessKey", "deletion": "DeleteAccessKey"}
"""Where a life of a key is stopped, and what is sent next when all answers are good."""
READS = ("GetUser", "ListAccessKeys", "GetAccessKeyLastUsed")


@dataclass(frozen=True)
class HalfReal:
    """The world's cloud, whose IAM is asked over HTTP."""

    real: AwsCloud
    sts: Sts

    def iam(self, account_id: AccountId) -> Iam:
        return self.real.iam(account_id)


def _stopped_before(step: str) -> Rig:
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    if step != "rotation":
        ends = State.OVERLAP if step == "deactivation" else State.QUARANTINE
        worked = rig.settle(until=lambda worked: worked.outcome is not None and worked.outcome.state == ends)
        again = rig.again_at(worked)
        assert again is not None
        rig.world.clock.advance_to(again + 15 * DAY)
    return rig


def _truth(rig: Rig) -> dict[str, bytes]:
    """What the world's IAM would say, as AWS spells it."""
    user = rig.world.state(ACCOUNT, "ci")
    who = f"<UserName>ci</UserName><UserId>{user.user_id}</UserId><Arn>{user.principal.arn}</Arn><Path>/</Path>"
    made = "<CreateDate>2025-01-01T00:00:00Z</CreateDate>"
    keys = "".join(
        f"<member><UserName>ci</UserName><AccessKeyId>{key.id}</AccessKeyId><Status>{key.status.value}</Status>"
        f"<CreateDate>{key.created_at:%Y-%m-%dT%H:%M:%SZ}</CreateDate></member>"
        for key in rig.world.keys(ACCOUNT, "ci")
    )
    said = {
        "GetUser": f"<User>{who}{made}</User>",
        "ListAccessKeys": f"<IsTruncated>false</IsTruncated><AccessKeyMetadata>{keys}</AccessKeyMetadata>",
        "GetAccessKeyLastUsed": "<UserName>ci</UserName><AccessKeyLastUsed><ServiceName>N/A</ServiceName>"
        "<Region>N/A</Region></AccessKeyLastUsed>",
    }
    answers = {f"Action={action}": xml(action, result).encode() for action, result in said.items()}
    return {**answers, "Action=GetCallerIdentity": IDENTITY}


@pytest.fixture(scope="module")
def aws() -> Iterator[tuple[Server, AwsCloud]]:
    with a_server() as server, own_credentials():
        yield (
            server,
            AwsCloud(AwsSettings(region="us-east-1", endpoint_url=server.address), SteadyClock(), instance="x"),
        )


def _reconciled(aws: tuple[Server, AwsCloud], step: str, bad: str | None) -> list[str]:
    """The changes that were sent after all reads but this one were answered well."""
    server, real = aws
    rig = _stopped_before(step)
    server.known = _truth(rig)
    if bad is not None:
        del server.known[f"Action={bad}"]
    server.sent.clear()
    world: Any = rig.world
    world.cloud = HalfReal(real, rig.world.sts)
    rig.boot()
    with within_time():
        rig.look("ci")
    rig.close_journal()
    return [change for asked, _ in server.sent for change in CHANGES if f"Action={change}" in asked]


def _is_no_answer(aws: tuple[Server, AwsCloud], read: str) -> bool:
    """Whether the adapter makes nothing of what the server says."""
    server, real = aws
    server.known = {"Action=GetCallerIdentity": IDENTITY}
    iam = real.iam(ACCOUNT)
    try:
        if read == "GetUser":
            iam.get_user("ci")
        elif read == "ListAccessKeys":
            iam.list_access_keys("ci")
        else:
            return isinstance(iam.last_use(KEY_ID), UseUnknown)
    except Error:
        return True
    return False


@pytest.mark.parametrize("step", NEXT)
def test_after_good_answers_the_change_is_sent(aws: tuple[Server, AwsCloud], step: str) -> None:
    aws[0].answers(503, "text/xml", b"")
    assert NEXT[step] in _reconciled(aws, step, bad=None)


@pytest.mark.parametrize("step", NEXT)
@given(read=st.sampled_from(READS), status=aws_statuses, body=aws_bodies)
@hypothesis_settings(MANY, max_examples=8)
def test_after_an_answer_that_is_none_no_key_is_changed(
    aws: tuple[Server, AwsCloud], step: str, read: str, status: int, body: bytes
) -> None:
    aws[0].answers(status, "text/xml", body)
    if not _is_no_answer(aws, read):
        return
    sent = _reconciled(aws, step, bad=read)
    if read == "GetAccessKeyLastUsed" and step == "rotation":
        return  # a new key takes nothing from anybody
    assert sent == []
