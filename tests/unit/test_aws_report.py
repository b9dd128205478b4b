"""The credential report as AWS writes it, as it might come, and as garbage."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.adapters.aws_report import parse_report
from rekeyd.errors import RefusedError
from rekeyd.ports import CredentialReport, ReportRow

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
COLUMNS = (
    "user,arn,user_creation_time,password_enabled,password_last_used,password_last_changed,password_next_rotation,"
    "mfa_active,access_key_1_active,access_key_1_last_rotated,access_key_1_last_used_date,"
    "access_key_1_last_used_region,access_key_1_last_used_service,access_key_2_active,access_key_2_last_rotated,"
    "access_key_2_last_used_date,access_key_2_last_used_region,access_key_2_last_used_service,cert_1_active,"
    "cert_1_last_rotated,cert_2_active,cert_2_last_rotated"
)
ARN = "arn:aws:iam::111122223333:user/ci"
NO_KEY = "false,N/A,N/A,N/A,N/A"
CERTS = "false,N/A,false,N/A"
ROOT = (
    "<root_account>,arn:aws:iam::111122223333:root,2020-01-01T00:00:00Z,not_supported,2026-01-02T03:04:05Z,"
    f"not_supported,not_supported,true,{NO_KEY},{NO_KEY},{CERTS}"
)


def report(*lines: str, columns: str = COLUMNS) -> CredentialReport:
    return parse_report("\n".join((columns, *lines)).encode(), generated_at=NOW)


def user(first: str = NO_KEY, second: str = NO_KEY, *, who: str = f"ci,{ARN}", mfa: str = "false") -> str:
    return f"{who},2024-01-01T00:00:00Z,false,N/A,N/A,N/A,{mfa},{first},{second},{CERTS}"


def only(seen: CredentialReport) -> ReportRow:
    (row,) = seen.users.values()
    return row


def test_the_root_row_stands_beside_the_users() -> None:
    seen = report(ROOT, user())
    assert seen.root is not None
    assert (seen.root.keys, seen.root.mfa_active, seen.root.password_enabled) == ((), True, None)
    assert seen.root.password_last_used_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert seen.users.keys() == {ARN}
    assert seen.generated_at == NOW


def test_a_slot_has_a_key_when_it_has_a_date_active_or_not() -> None:
    row = only(
        report(
            user(
                "true,2026-01-01T00:00:00Z,2026-02-03T00:00:00Z,N/A,s3",
                "false,2025-01-01T00:00:00+00:00,N/A,N/A,N/A",
            )
        )
    )
    first, second = row.keys
    assert (first.active, first.created_at.year, first.last_used_at) == (True, 2026, datetime(2026, 2, 3, tzinfo=UTC))
    assert (second.active, second.created_at.year, second.last_used_at) == (False, 2025, None)


@pytest.mark.parametrize("word", ["N/A", "no_information", "not_supported", ""])
def test_a_slot_that_aws_has_no_date_for_is_empty(word: str) -> None:
    assert only(report(user(f"false,{word},N/A,N/A,N/A"))).keys == ()


@pytest.mark.parametrize("slot", ["true,N/A,N/A,N/A,N/A", "false,soon,N/A,N/A,N/A", "TRUE,,,,"])
def test_a_key_whose_date_cannot_be_read_is_ancient_and_never_absent(slot: str) -> None:
    (key,) = only(report(user(slot))).keys
    assert key.created_at == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cell", "more"), [("", False), ("N/A", False), ("0", False), ("2 more keys: list them", True)]
)
def test_the_newest_column_tells_of_keys_beyond_two(cell: str, more: bool) -> None:
    assert only(report(f"{user()},{cell}", columns=f"{COLUMNS},additional_credentials_info")).more_credentials is more


def test_unknown_columns_in_any_place_change_nothing() -> None:
    columns = (
        "user,arn,brand_new,access_key_2_active,access_key_2_last_rotated,access_key_1_active,access_key_1_last_rotated"
    )
    row = only(report(f"ci,{ARN},x,false,N/A,true,2026-01-01T00:00:00Z", columns=columns))
    assert [key.active for key in row.keys] == [True]
    assert (row.password_enabled, row.mfa_active, row.more_credentials) == (None, False, False)


@pytest.mark.parametrize(
    "who",
    [
        '"a,b","arn:aws:iam::111122223333:user/a,b"',
        "a,b,arn:aws:iam::111122223333:user/a,b",
        '"a,b",arn:aws:iam::111122223333:user/a,b',
        'a,b,"arn:aws:iam::111122223333:user/a,b"',
        "a,b,arn:aws:iam::111122223333:user/x,y/a,b",
    ],
)
def test_a_comma_in_a_name_or_path_is_put_back_with_the_arn_as_witness(who: str) -> None:
    row = only(report(user("true,2026-01-01T00:00:00Z,N/A,N/A,N/A", who=who, mfa="true")))
    assert row.user_name == "a,b"
    assert row.arn in {"arn:aws:iam::111122223333:user/a,b", "arn:aws:iam::111122223333:user/x,y/a,b"}
    assert (len(row.keys), row.mfa_active) == (1, True)


def test_a_row_cut_short_is_left_out_and_not_read_as_without_keys() -> None:
    seen = report(ROOT, user(), f"late,{ARN}late,2024-01-01T00:00:00Z,false")
    assert seen.users.keys() == {ARN}
    assert report(ROOT[:60], user()).root is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"<html><body>503</body></html>",
        b"\xff\xfe",
        b"user,arn\n",
        COLUMNS.replace("access_key_2", "x").encode(),
    ],
)
def test_what_is_no_report_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedError, match="the credential report") as caught:
        parse_report(content, generated_at=NOW)
    # A decoding error would carry the whole report along.
    assert caught.value.__context__ is None


CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            "N/A",
            "true",
            "FALSE",
            "no_information",
            "not_supported",
            "<root_account>",
            ARN,
            "ci",
            '"',
            '"a,b"',
            "\x00",
        ]
    ),
    st.datetimes().map(str),
    st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-13-01"]),
    st.text(max_size=8),
)


@given(st.lists(st.lists(CELLS, max_size=24).map(",".join), max_size=6), st.booleans())
def test_no_rows_raise_anything_but_our_own(lines: list[str], with_columns: bool) -> None:
    content = "\n".join([COLUMNS, *lines] if with_columns else lines).encode("utf-8", "surrogatepass")
    _read_or_refused(content)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_our_own(garbage: bytes) -> None:
    _read_or_refused(garbage)
    _read_or_refused(COLUMNS.encode() + b"\n" + garbage)


def _read_or_refused(content: bytes) -> None:
    with contextlib.suppress(RefusedError):
        seen = parse_report(content, generated_at=NOW)
        assert all(row.arn == arn for arn, row in seen.users.items())
