"""The credential report, read by the names of its columns.

* A slot has a key if it has a date or says that it is active. A key whose date cannot be read counts as ancient,
  so that the live look-up decides; it is never "no key".
* `N/A` is "there is none", `no_information` and `not_supported` are "AWS does not say".
* A row that cannot be read is left out, which the caller must take as "look for yourself": a new user has none
  either. A report that cannot be read is RefusedError.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from rekeyd.errors import RefusedError
from rekeyd.ports import CredentialReport, ReportKey, ReportRow

ROOT = "<root_account>"
_NOTHING = frozenset({"", "n/a", "no_information", "not_supported"})
_ANCIENT = datetime(1970, 1, 1, tzinfo=UTC)
_SLOTS = (1, 2)

_Row = Mapping[str, str]


def parse_report(content: bytes, *, generated_at: datetime) -> CredentialReport:
    """Raises RefusedError if it is no credential report."""
    header, *lines = _lines(content) or [[]]
    names = [name.strip().lower() for name in header]
    needed = ("user", "arn", *(f"access_key_{n}_{what}" for n in _SLOTS for what in ("active", "last_rotated")))
    missing = [name for name in needed if name not in names]
    if missing or names[:2] != ["user", "arn"]:
        raise RefusedError(f"the credential report lacks the columns {', '.join(missing) or 'user, arn in front'}")
    root: ReportRow | None = None
    users: dict[str, ReportRow] = {}
    for line in lines:
        cells = _whole(line, len(names))
        if cells is None:
            continue
        row = _row(dict(zip(names, cells, strict=True)))
        if row.user_name == ROOT:
            root = row
        else:
            users[row.arn] = row
    return CredentialReport(generated_at=generated_at, root=root, users=users)


def _lines(content: bytes) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        # Not chained: a decoding error carries the whole report.
        failure = RefusedError(f"the credential report is not readable ({type(error).__name__})")
    raise failure


def _whole(line: list[str], width: int) -> list[str] | None:
    """The row's cells; None for a row that is cut short or makes no sense.

    AWS does not document how it quotes a comma in a name or path; unquoted ones are put back together, with the
    ARN as the witness: it ends in the name.
    """
    extra = len(line) - width
    for commas in range(extra + 1):
        name = ",".join(line[: commas + 1])
        arn = ",".join(line[commas + 1 : extra + 2])
        if arn.startswith("arn:") and (arn.endswith(f"/{name}") or (name == ROOT and arn.endswith(":root"))):
            return [name, arn, *line[extra + 2 :]]
    return None


def _row(row: _Row) -> ReportRow:
    more = row.get("additional_credentials_info", "").strip().lower()
    return ReportRow(
        user_name=row["user"],
        arn=row["arn"],
        keys=tuple(key for n in _SLOTS if (key := _key(row, n)) is not None),
        password_enabled=_claim(row.get("password_enabled", "")),
        password_last_used_at=_date(row.get("password_last_used", "")),
        mfa_active=_claim(row.get("mfa_active", "")) is True,
        certificates_active=_any(_claim(row.get(f"cert_{n}_active", "")) for n in _SLOTS),
        more_credentials=more not in _NOTHING and more != "0",
    )


def _key(row: _Row, n: int) -> ReportKey | None:
    active = _claim(row[f"access_key_{n}_active"]) is True
    made = row[f"access_key_{n}_last_rotated"].strip()
    if made.lower() in _NOTHING and not active:
        return None
    return ReportKey(
        active=active,
        created_at=_date(made) or _ANCIENT,
        last_used_at=_date(row.get(f"access_key_{n}_last_used_date", "")),
        last_service=_word(row.get(f"access_key_{n}_last_used_service", "")),
    )


def _claim(cell: str) -> bool | None:
    return {"true": True, "false": False}.get(cell.strip().lower())


def _any(claims: Iterable[bool | None]) -> bool | None:
    """None: nothing says yes, and not everything says no."""
    said = set(claims)
    return True if True in said else (False if said == {False} else None)


def _word(cell: str) -> str | None:
    return None if cell.strip().lower() in _NOTHING else cell.strip()


def _date(cell: str) -> datetime | None:
    """None for every word and for what is no date."""
    try:
        at = datetime.fromisoformat(cell.strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
