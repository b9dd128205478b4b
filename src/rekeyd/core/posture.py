"""What an account shows about its root user and its users as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rekeyd.core.model import AccessKeyId


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSummary:
    root_access_keys_present: bool
    """Live, and counts inactive keys."""
    root_mfa_enabled: bool
    root_password_present: bool
    users: int
    root_certificates_present: bool | None = None
    """Signing certificates; None: the summary does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportKey:
    """One used slot of a credential report row; the report has no key ids."""

    active: bool
    created_at: datetime
    last_used_at: datetime | None
    last_service: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    user_name: str
    """`<root_account>` for the root user."""
    arn: str
    keys: tuple[ReportKey, ...]
    password_enabled: bool | None
    """None: not supported or no information."""
    password_last_used_at: datetime | None
    mfa_active: bool
    certificates_active: bool | None = None
    """Signing certificates; None: the report does not say."""
    more_credentials: bool = False
    """The report says that there are more keys than it has columns for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureNotice:
    """AWS Health says that credentials are in wrong hands."""

    code: str
    """AWS's code of such events."""
    since: datetime
    entity: str
    """What AWS names: mostly the id of an access key."""
    user_name: str | None
    """None: the root user, or nobody who can be told."""
    key_ids: tuple[AccessKeyId, ...] = ()
    """The user's Active keys that are meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialReport:
    generated_at: datetime
    root: ReportRow | None
    users: Mapping[str, ReportRow]
    """By ARN: names are not unique over deletions, and only the ARN tells paths apart."""
