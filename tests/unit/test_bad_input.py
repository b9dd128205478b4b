"""Whatever a server answers: only our own errors come out, no call hangs, nothing is taken for a proof or a pair.

One small server gives every request the same answer: a good one in which something is bent, another kind of document,
or bytes. Answers to logins, and those that are JSON from AWS, are in test_bad_logins; what a reconcile does after one
in test_bad_reconcile. What `decide` makes of odd observations is in test_decide_promises; lines of a credential report
in test_aws_report; keys and values of a configuration below.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AwsSettings
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import TokenFileAuth, VaultSettings
from rekeyd.config import load
from rekeyd.core.model import (
    AccessKeyId,
    CreateIntent,
    KeyStatus,
    Place,
    Proof,
    RotationId,
    UseUnknown,
    VaultHeld,
    VaultHistory,
    VaultUnreadable,
)
from rekeyd.errors import ConfigError, Error, OutcomeUnknownError
from rekeyd.ports import CreatedKey, Mark
from tests.bad_server import HTML, MANY, Server, a_server, json_bodies, own_credentials, within_time
from tests.contract.vault_stand import NEW, OLD, SteadyClock, fields, note, pair, unguarded
from tests.rig import ACCOUNT
from tests.secret_registry import remember, write_secret
from tests.unit.test_decide import USER

# --- Vault ------------------------------------------------------------------------------------------------------------


def place(address: str) -> Place:
    return Place(
        address=address,
        namespace="",
        mount="secret",
        path="aws/1/ci",
        id_field="access_key_id",
        secret_field="secret_access_key",
    )


VERSION = {"created_time": "2026-01-01T00:00:00.5Z", "deletion_time": "", "destroyed": False, "version": 3}
DATA = {"data": {"data": fields(OLD), "metadata": {**VERSION, "custom_metadata": None}}}
METADATA = {
    "data": {
        "created_time": "2026-01-01T00:00:00Z",
        "current_version": 3,
        "oldest_version": 1,
        "max_versions": 10,
        "custom_metadata": {"rekeyd_version": "3"},
        "versions": {str(n): {k: v for k, v in VERSION.items() if k != "version"} for n in (1, 2, 3)},
    }
}
LOOKED_UP = {"data": {"ttl": 3600, "renewable": False, "expire_time": None, "policies": ["rekeyd"]}}
KNOWN = {
    "auth/token/lookup-self": LOOKED_UP,
    "sys/internal/ui/mounts/": {"data": {"type": "kv", "options": {"version": "2"}, "path": "secret/"}},
}
"""So that the bent answer is reached: who rekeyd is, and that the mount is one for secrets with versions."""
MARK = {"data": {"data": {"instance": "x", "incarnation": "y", "seq": "3", "event_hash": "z"}, "metadata": VERSION}}
REFUSED = {"errors": ["check-and-set parameter did not match the current version"]}
vault_bodies = json_bodies(DATA, METADATA, MARK, VERSION, REFUSED, LOOKED_UP)
vault_statuses = st.sampled_from([200, 200, 200, 204, 301, 307, 400, 403, 404, 405, 412, 429, 472, 473, 500, 502, 503])

VaultCall = Callable[[KvVault, Place, datetime], object]
VAULT_READS: dict[str, VaultCall] = {
    "current": lambda vault, at, _end: vault.current(at),
    "history": lambda vault, at, _end: vault.history(at),
    "read_pair": lambda vault, at, _end: vault.read_pair(at, 3),
    "check_writable": lambda vault, at, _end: vault.check_writable(at),
    "read_mark": lambda vault, _at, _end: vault.read_mark(),
    "check_mark": lambda vault, _at, _end: vault.check_mark(),
    "health": lambda vault, _at, _end: vault.health(),
    "maintain": lambda vault, _at, _end: vault.maintain(),
}
VAULT_CHANGES: dict[str, VaultCall] = {
    "publish": lambda vault, at, end: vault.publish(at, pair(NEW), cas=3, extra={}, guard=unguarded, give_up_at=end),
    "burn": lambda vault, at, _end: vault.burn(at, cas=3, guard=unguarded),
    "write_note": lambda vault, at, _end: vault.write_note(at, note(3)),
    "destroy": lambda vault, at, _end: vault.destroy(at, [1]),
    "write_mark": lambda vault, _at, _end: vault.write_mark(
        Mark(version=3, instance="x", incarnation="y", seq=3, event_hash="z")
    ),
}


@pytest.fixture(scope="module")
def vault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    with a_server() as server:
        yield server, write_secret(tmp_path_factory.mktemp("vault") / "token", "s.thetokenthatnobodysees34")


def _vault(address: str, token_file: Path) -> tuple[KvVault, SteadyClock]:
    clock = SteadyClock()
    made = VaultSettings(address=address, auth=TokenFileAuth(token_file=token_file), state_path="rekeyd/default")
    return KvVault(made, clock), clock


def _call_vault(
    stand: tuple[Server, Path], call: VaultCall, status: int, body: bytes, *, cut: bool, logged_in: bool
) -> object:
    server, token_file = stand
    server.known = {part: json.dumps(body).encode() for part, body in KNOWN.items()} if logged_in else {}
    server.answers(status, "application/json", body, cut=cut)
    vault, clock = _vault(server.address, token_file)
    try:
        with within_time():
            return call(vault, place(server.address), clock.in_time(10))
    finally:
        vault.close()


@pytest.mark.parametrize("name", VAULT_READS)
@given(status=vault_statuses, body=vault_bodies, cut=st.booleans(), logged_in=st.sampled_from([True, True, False]))
@MANY
def test_a_read_of_vault_gives_an_answer_or_an_error_of_ours(
    vault_server: tuple[Server, Path], name: str, status: int, body: bytes, *, cut: bool, logged_in: bool
) -> None:
    try:
        answer = _call_vault(vault_server, VAULT_READS[name], status, body, cut=cut, logged_in=logged_in)
    except Error:
        assert name not in ("current", "history"), "these say by their answer that they could not"
        return
    if cut or status >= 300:
        assert not isinstance(answer, VaultHeld | VaultHistory), "half an answer was believed"
    if isinstance(answer, VaultHeld):
        assert json.loads(body)["data"]["data"]["access_key_id"] == answer.access_key_id
        assert answer.created_at.tzinfo is not None


@pytest.mark.parametrize("name", VAULT_CHANGES)
@given(status=vault_statuses, body=vault_bodies, cut=st.booleans())
@MANY
def test_a_change_of_vault_ends_in_its_result_or_an_error_of_ours(
    vault_server: tuple[Server, Path], name: str, status: int, body: bytes, *, cut: bool
) -> None:
    try:
        answer = _call_vault(vault_server, VAULT_CHANGES[name], status, body, cut=cut, logged_in=True)
    except Error:
        return
    assert name != "publish" or answer is None, "an answer that never names our pair was taken for our publication"


def test_a_page_of_a_proxy_instead_of_vault_is_unreadable(vault_server: tuple[Server, Path]) -> None:
    server, _ = vault_server
    seen = _call_vault(vault_server, VAULT_READS["current"], 200, HTML, cut=False, logged_in=True)
    assert isinstance(seen, VaultUnreadable)
    assert "Sign in" not in seen.detail
    assert server.body == HTML


def test_a_good_answer_is_still_understood(vault_server: tuple[Server, Path]) -> None:
    body = json.dumps(DATA).encode()
    seen = _call_vault(vault_server, VAULT_READS["current"], 200, body, cut=False, logged_in=True)
    assert isinstance(seen, VaultHeld)
    assert (seen.access_key_id, seen.version) == (OLD, 3)


# --- AWS --------------------------------------------------------------------------------------------------------------

IDENTITY = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    b"<Arn>arn:aws:iam::111122223333:user/rekeyd</Arn><UserId>AIDAREKEYD</UserId><Account>111122223333</Account>"
    b"</GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
)
KEY = (
    "<UserName>ci</UserName><AccessKeyId>AKIAIOSFODNN7EXAMPLE</AccessKeyId><Status>Active</Status>"
    "<CreateDate>2026-01-01T00:00:00Z</CreateDate>"
)
MADE_SECRET = remember("aSecretThatNoAnswerMayLeaveBehind0123456")
RESULTS = {
    "GetUser": "<User><Path>/</Path><UserName>ci</UserName><UserId>AIDACI</UserId>"
    "<Arn>arn:aws:iam::111122223333:user/ci</Arn><CreateDate>2026-01-01T00:00:00Z</CreateDate></User>",
    "ListAccessKeys": f"<IsTruncated>false</IsTruncated><AccessKeyMetadata><member>{KEY}</member></AccessKeyMetadata>",
    "GetAccessKeyLastUsed": "<UserName>ci</UserName><AccessKeyLastUsed>"
    "<LastUsedDate>2026-01-01T00:00:00Z</LastUsedDate><ServiceName>s3</ServiceName><Region>us-east-1</Region></AccessKeyLastUsed>",
    "GetAccountSummary": "<SummaryMap><entry><key>AccountAccessKeysPresent</key><value>0</value></entry></SummaryMap>",
    "GetCredentialReport": "<Content>dXNlcixhcm4K</Content><ReportFormat>text/csv</ReportFormat>"
    "<GeneratedTime>2026-01-01T00:00:00Z</GeneratedTime>",
    "GetAccountAuthorizationDetails": "<IsTruncated>false</IsTruncated><UserDetailList><member><Path>/</Path>"
    "<UserName>ci</UserName><UserId>AIDACI</UserId><Arn>arn:aws:iam::111122223333:user/ci</Arn>"
    "<Tags><member><Key>team</Key><Value>payments</Value></member></Tags></member></UserDetailList>",
    "CreateAccessKey": f"<AccessKey>{KEY}<SecretAccessKey>{MADE_SECRET}</SecretAccessKey></AccessKey>",
    "UpdateAccessKey": "",
    "GetCallerIdentity": "<Arn>arn:aws:iam::111122223333:user/ci</Arn><UserId>AIDACI</UserId>"
    "<Account>111122223333</Account>",
}
WORDS = [
    "",
    "true",
    "-1",
    "9" * 30,
    "Frozen",
    "2026-13-45T99:99:99Z",
    "AKIA",
    "&lt;",
    "<x/>",
    "</Result>",
    "\u00e9",
    "N/A",
]


def xml(action: str, result: str) -> str:
    return (
        f'<{action}Response xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><{action}Result>{result}'
        f"</{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
    )


@st.composite
def bent_xml(draw: Callable[[st.SearchStrategy[Any]], Any], action: str, result: str) -> bytes:
    """A good answer to this action, with some of its texts or tags changed."""
    text = xml(action, result)
    for _ in range(draw(st.integers(0, 3))):
        cuts = [n for n, letter in enumerate(text) if letter in "<>"]
        start = draw(st.sampled_from(cuts or [0]))
        end = draw(st.sampled_from([n for n in cuts if n >= start] or [start]))
        if end - start < 200:
            text = text[: start + 1] + draw(st.sampled_from(WORDS)) + text[end:]
    return text.encode()


xml_bodies = st.sampled_from(sorted(RESULTS)).flatmap(lambda action: bent_xml(action, RESULTS[action]))
aws_bodies = st.one_of(
    xml_bodies,
    xml_bodies,
    st.sampled_from([HTML, b"", b"{}", b'{"Code": "Throttling"}', b"<a>", b"\xff\xfe", b"<?xml version='1.0'?>"]),
    st.sampled_from(["AccessDenied", "NoSuchEntity", "LimitExceeded", "ExpiredToken", "Nonsense"]).map(
        lambda code: f"<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>".encode()
    ),
    st.binary(max_size=30),
)
aws_statuses = st.sampled_from([200, 200, 200, 200, 302, 400, 403, 404, 409, 429, 500, 503])
INTENT = CreateIntent(
    rotation_id=RotationId("r1"),
    operation_id="op1",
    sent_at=datetime(2026, 1, 1, tzinfo=UTC),
    keys_before=frozenset(),
)
KEY_ID = AccessKeyId("AKIAIOSFODNN7EXAMPLE")

AwsCall = Callable[[AwsCloud], object]
AWS_READS: dict[str, AwsCall] = {
    "get_user": lambda aws: aws.iam(ACCOUNT).get_user("ci"),
    "list_users": lambda aws: aws.iam(ACCOUNT).list_users(),
    "list_access_keys": lambda aws: aws.iam(ACCOUNT).list_access_keys("ci"),
    "account_summary": lambda aws: aws.iam(ACCOUNT).account_summary(),
    "account_alias": lambda aws: aws.iam(ACCOUNT).account_alias(),
    "credential_report": lambda aws: aws.iam(ACCOUNT).credential_report(max_wait=timedelta(0)),
}
AWS_NEVER_RAISES: dict[str, AwsCall] = {
    "last_use": lambda aws: aws.iam(ACCOUNT).last_use(KEY_ID),
    "who_created": lambda aws: aws.iam(ACCOUNT).who_created([INTENT], "ci"),
    "prove": lambda aws: aws.sts.prove(pair(NEW), USER),
}
AWS_CHANGES: dict[str, AwsCall] = {
    "create_access_key": lambda aws: aws.iam(ACCOUNT).create_access_key("ci", operation_id="op1", guard=unguarded),
    "update_access_key": lambda aws: aws.iam(ACCOUNT).update_access_key(
        "ci", KEY_ID, KeyStatus.INACTIVE, guard=unguarded
    ),
    "delete_access_key": lambda aws: aws.iam(ACCOUNT).delete_access_key("ci", KEY_ID, guard=unguarded),
}


@pytest.fixture(scope="module")
def aws_server() -> Iterator[tuple[Server, AwsCloud]]:
    with a_server() as server, own_credentials():
        cloud = AwsCloud(AwsSettings(region="us-east-1", endpoint_url=server.address), SteadyClock(), instance="bad")
        yield server, cloud


def _call_aws(stand: tuple[Server, AwsCloud], call: AwsCall, status: int, body: bytes, *, own: bool = True) -> object:
    server, cloud = stand
    server.known = {"Action=GetCallerIdentity": IDENTITY} if own else {}
    server.answers(status, "text/xml", body)
    with within_time():
        return call(cloud)


@pytest.mark.parametrize("name", AWS_READS)
@given(status=aws_statuses, body=aws_bodies)
@MANY
def test_a_read_of_aws_gives_an_answer_or_an_error_of_ours(
    aws_server: tuple[Server, AwsCloud], name: str, status: int, body: bytes
) -> None:
    try:
        answer = _call_aws(aws_server, AWS_READS[name], status, body)
    except Error:
        return
    if name == "account_alias" and answer is None:
        return  # only a name for people: none is shown
    assert status < 300, f"{answer} was read from an error"


@pytest.mark.parametrize("name", AWS_NEVER_RAISES)
@given(status=aws_statuses, body=aws_bodies)
@MANY
def test_what_must_never_raise_does_not_and_takes_an_error_for_no_answer(
    aws_server: tuple[Server, AwsCloud], name: str, status: int, body: bytes
) -> None:
    answer = _call_aws(aws_server, AWS_NEVER_RAISES[name], status, body, own=name != "prove")
    if name == "prove":
        ours = status == 200 and USER.user_id.encode() in body and USER.arn.encode() in body
        assert answer is not Proof.ACCEPTED or ours
    elif status >= 300:
        assert answer is None or isinstance(answer, UseUnknown)


@pytest.mark.parametrize("name", AWS_CHANGES)
@given(status=aws_statuses, body=aws_bodies)
@MANY
def test_a_change_of_aws_ends_in_its_result_or_an_error_of_ours(
    aws_server: tuple[Server, AwsCloud], name: str, status: int, body: bytes
) -> None:
    try:
        answer = _call_aws(aws_server, AWS_CHANGES[name], status, body)
    except OutcomeUnknownError:
        return
    except Error:
        assert 300 <= status < 500, "an answer of success, or of a server in trouble, was taken for a refusal"
        return
    if name == "create_access_key":
        assert isinstance(answer, CreatedKey)
        for said in (answer.pair.access_key_id, answer.pair.secret_access_key.reveal(), answer.user_name):
            assert said, "a pair with an empty part was taken for one"
    assert status < 300 or b"NoSuchEntity" in body


@pytest.mark.parametrize("part", ["AccessKeyId", "SecretAccessKey", "UserName"])
@pytest.mark.parametrize("left", ["", "<{part}></{part}>"], ids=["missing", "empty"])
def test_a_creation_answered_without_a_part_of_the_pair_is_an_outcome_unknown(
    aws_server: tuple[Server, AwsCloud], part: str, left: str
) -> None:
    good = xml("CreateAccessKey", RESULTS["CreateAccessKey"])
    bad = re.sub(f"<{part}>.*?</{part}>", left.format(part=part), good)
    assert bad != good
    made = _call_aws(aws_server, AWS_CHANGES["create_access_key"], 200, good.encode())
    assert isinstance(made, CreatedKey)
    with pytest.raises(OutcomeUnknownError, match="iam:CreateAccessKey") as refused:
        _call_aws(aws_server, AWS_CHANGES["create_access_key"], 200, bad.encode())
    assert MADE_SECRET not in str(refused.value)


def test_a_creation_answered_by_anything_but_aws_is_an_outcome_unknown(aws_server: tuple[Server, AwsCloud]) -> None:
    for status, body in ((200, HTML), (200, b""), (302, HTML), (403, HTML), (404, b"")):
        with pytest.raises(OutcomeUnknownError, match="iam:CreateAccessKey"):
            _call_aws(aws_server, AWS_CHANGES["create_access_key"], status, body)


# --- the configuration ------------------------------------------------------------------------------------------------

EXAMPLE = (Path(__file__).parents[2] / "config.example.toml").read_text()


@given(
    st.one_of(
        st.text(max_size=60),
        st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 40), st.text(max_size=6)).map(
            lambda edit: EXAMPLE[: edit[0]] + edit[2] + EXAMPLE[edit[0] + edit[1] :]
        ),
    )
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_configuration_is_read_or_refused_with_an_error_of_ours(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    try:
        load(path, {})
    except ConfigError:
        return
