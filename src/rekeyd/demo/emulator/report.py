"""The credential report, in its live shape and with its life cycle.

    none -> STARTED -> (ReportInProgress) -> COMPLETE, then frozen -> ReportExpired

Its content is what IAM showed when it was started, whatever changes later.
Seen live: slots are ordered by access key ID, not by age; an inactive key keeps
its date and only "N/A" means that a slot is empty; no trailing newline.
"""

import base64
import csv
import io
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rekeyd.demo.emulator.api import aware
from rekeyd.demo.emulator.wire import AwsError, stamp
from rekeyd.demo.emulator.world import StoredKey, World

_SLOT = ("active", "last_rotated", "last_used_date", "last_used_region", "last_used_service")
COLUMNS = (
    *("user", "arn", "user_creation_time", "password_enabled", "password_last_used", "password_last_changed"),
    *("password_next_rotation", "mfa_active"),
    *(f"access_key_1_{name}" for name in _SLOT),
    *(f"access_key_2_{name}" for name in _SLOT),
    *("cert_1_active", "cert_1_last_rotated", "cert_2_active", "cert_2_last_rotated"),
)
# Newest documented column; absent from reports of accounts where nobody has more than two keys.
ADDITIONAL = "additional_credentials_info"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    started_at: datetime
    generated_at: datetime
    content: str
    """base64, as on the wire."""


class Reports:
    """One report per account."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reports: dict[str, _Report] = {}

    def generate(self, account_id: str) -> str:
        """STARTED, INPROGRESS or COMPLETE."""
        now = self._world.clock.now()
        report = self._reports.get(account_id)
        if report is not None and now < report.generated_at:
            return "INPROGRESS"
        if report is not None and now < report.generated_at + self._world.delays.report_lifetime:
            return "COMPLETE"
        content = base64.b64encode(self._text(account_id).encode()).decode()
        generated_at = now + self._world.delays.report_build
        self._reports[account_id] = _Report(started_at=now, generated_at=generated_at, content=content)
        return "STARTED"

    def get(self, account_id: str) -> tuple[str, datetime]:
        """Content in base64 and GeneratedTime."""
        now = self._world.clock.now()
        report = self._reports.get(account_id)
        # AWS's messages for all three are this one word.
        if report is None:
            raise AwsError("ReportNotPresent", "Unknown")
        if now < report.generated_at:
            raise AwsError("ReportInProgress", "Unknown")
        if now >= report.generated_at + self._world.delays.report_lifetime:
            raise AwsError("ReportExpired", "Unknown")
        return report.content, report.generated_at

    def forget(self, account_id: str | None = None) -> None:
        """As if none had been asked for yet."""
        if account_id is None:
            self._reports.clear()
        else:
            self._reports.pop(account_id, None)

    def _text(self, account_id: str) -> str:
        users = sorted(self._world.iam(account_id).users.values(), key=lambda user: user.name.casefold())
        rows = [self._root_row(account_id), *(self._user_row(account_id, user) for user in users)]
        more = any(ADDITIONAL in row for row in rows)
        text = io.StringIO()
        columns = [*COLUMNS, ADDITIONAL] if more else COLUMNS
        writer = csv.DictWriter(text, columns, restval="N/A", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")

    def _root_row(self, account_id: str) -> dict[str, str]:
        root = self._world.root(account_id)
        return {
            "user": "<root_account>",
            "arn": self._world.arn("iam", account_id, "root"),
            "user_creation_time": stamp(root.created_at),
            "password_enabled": _truth(root.password),
            "password_last_used": _date(root.password_last_used_at, "no_information"),
            "password_last_changed": _date(root.password_changed_at, "N/A"),
            "password_next_rotation": "not_supported",
            "mfa_active": _truth(root.mfa),
        } | {**self._keys(self._world.keys_of(account_id, None)), "cert_1_active": _truth(root.certificate)}

    def _user_row(self, account_id: str, user: Any) -> dict[str, str]:
        has_password = bool(user.password)
        last_used = aware(user.password_last_used) if user.password_last_used else None
        return {
            "user": user.name,
            "arn": user.arn,
            "user_creation_time": stamp(aware(user.create_date)),
            "password_enabled": _truth(has_password),
            "password_last_used": _date(last_used, "no_information") if has_password else "N/A",
            "password_last_changed": stamp(aware(user.create_date)) if has_password else "N/A",
            "password_next_rotation": "N/A",
            "mfa_active": _truth(bool(user.mfa_devices)),
        } | self._keys(self._world.keys_of(account_id, user))

    def _keys(self, keys: list[StoredKey]) -> dict[str, str]:
        now = self._world.clock.now()
        columns = {f"cert_{slot}_active": "false" for slot in (1, 2)}
        columns |= {f"access_key_{slot}_active": "false" for slot in (1, 2)}
        ordered = sorted(keys, key=lambda key: key.id)
        for slot, key in enumerate(ordered[:2], start=1):
            use = key.last_use(now, self._world.delays)
            columns |= {
                f"access_key_{slot}_active": _truth(key.status == "Active"),
                f"access_key_{slot}_last_rotated": stamp(key.created_at),
            }
            if use is not None:
                columns |= {
                    f"access_key_{slot}_last_used_date": stamp(use.at),
                    f"access_key_{slot}_last_used_region": use.region,
                    f"access_key_{slot}_last_used_service": use.service,
                }
        if len(keys) > 2:
            columns[ADDITIONAL] = f"{len(keys) - 2} additional access keys; use ListAccessKeys"
        return columns


def _truth(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"


def _date(at: datetime | None, otherwise: str) -> str:
    return otherwise if at is None else stamp(at)
