"""All accounts that rekeyd works on: configured one by one, discovered in the organization, or just its own.

An account that the configuration names wins over the same one of the organization. The account of rekeyd's own
credentials is entered with those, for a management account has no role of the members.
"""

import re
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from rekeyd.adapters.aws_errors import Call, ask, turned
from rekeyd.adapters.aws_iam import AwsIam
from rekeyd.adapters.aws_session import AwsSessions, AwsSettings, OrganizationSettings
from rekeyd.adapters.aws_sts import AwsSts
from rekeyd.core.model import AccountId
from rekeyd.ports import Accounts, Clock

# https://docs.aws.amazon.com/organizations/latest/APIReference/API_ListAccounts.html
_PAGE = 20
_ACCOUNT_ID = re.compile(r"[0-9]{12}")


class _Member(NamedTuple):
    account_id: AccountId
    name: str
    state: str


class AwsCloud:
    """`rekeyd.ports.Cloud`. Thread-safe."""

    def __init__(self, settings: AwsSettings, clock: Clock, *, instance: str) -> None:
        self._settings = settings
        self._clock = clock
        self._sessions = AwsSessions(settings, instance=instance)
        self._sts = AwsSts(self._sessions)
        self._lock = threading.Lock()
        self._iam: dict[AccountId, AwsIam] = {}
        self._names: Mapping[AccountId, str] = {}

    @property
    def sts(self) -> AwsSts:
        return self._sts

    @property
    def sessions(self) -> AwsSessions:
        """For what is no account's: topics, the organization's root users."""
        return self._sessions

    @property
    def partition(self) -> str:
        """`aws`, `aws-cn`, …"""
        return self._sessions.partition

    def iam(self, account_id: AccountId) -> AwsIam:
        """NotFoundError for an account that the configuration does not watch."""
        self._sessions.role_arn(account_id)
        with self._lock:
            if account_id not in self._iam:
                self._iam[account_id] = AwsIam(self._sessions, account_id, clock=self._clock)
            return self._iam[account_id]

    def accounts(self) -> Accounts:
        named = tuple(account.id for account in self._settings.accounts)
        if self._settings.organization is not None:
            return self._with_organization(named, self._settings.organization)
        return Accounts(watched=named or (self._sessions.own_account_id(),))

    @property
    def names(self) -> Mapping[AccountId, str]:
        """As the organization calls its accounts, when they were last listed; not their aliases."""
        return self._names

    def _with_organization(self, named: tuple[AccountId, ...], organization: OrganizationSettings) -> Accounts:
        watched = list(named)
        unwatched: dict[AccountId, str] = {}
        members = self._members()
        self._names = {account_id: name for account_id, name, _ in members if name}
        for account_id, _, state in members:
            if account_id in named:
                continue
            if account_id in organization.exclude_accounts:
                unwatched[account_id] = "excluded by aws.organization.exclude_accounts"
            elif state != "ACTIVE":
                unwatched[account_id] = f"its state in the organization is {state or 'not given'}"
            else:
                watched.append(account_id)
        return Accounts(watched=tuple(watched), unwatched=unwatched)

    def _members(self) -> list[_Member]:
        def read() -> list[_Member]:
            organizations = self._sessions.organizations()
            members: list[_Member] = []
            more: dict[str, Any] = {}
            while True:
                page = organizations.list_accounts(MaxResults=_PAGE, **more)
                members += [_member(account) for account in page["Accounts"]]
                # A page may be empty and still not be the last.
                if not page.get("NextToken"):
                    return members
                more = turned({"NextToken": page["NextToken"]}, more)

        return ask(Call(action="organizations:ListAccounts", account_id=None), read)


def _member(account: Any) -> _Member:
    """Half a list would leave an account unwatched without a word, so one that has no number spoils all of it."""
    if not _ACCOUNT_ID.fullmatch(account["Id"]):
        raise ValueError("an account of the organization has no number")
    # Not Status: AWS announced its end for 2026-09-09.
    return _Member(AccountId(account["Id"]), str(account.get("Name") or ""), str(account.get("State") or ""))
