"""Organizations: the members of one organization, in pages that may be empty."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from rekeyd.demo.emulator.api import ApiCall, Result
from rekeyd.demo.emulator.wire import AwsError
from rekeyd.demo.emulator.world import World

# Largest and default page of ListAccounts.
PAGE = 20


@dataclass(slots=True, kw_only=True)
class Member:
    account_id: str
    name: str
    state: str = "ACTIVE"
    """PENDING_ACTIVATION, ACTIVE, SUSPENDED, PENDING_CLOSURE or CLOSED. The older `Status` is retired: never sent."""


@dataclass(slots=True, kw_only=True)
class Organization:
    management_account_id: str
    members: dict[str, Member] = field(default_factory=dict)
    empty_first_page: bool = False
    """ListAccounts may answer an empty page with a NextToken."""


class Organizations:
    """The service; without an organization every call is refused."""

    def __init__(self, world: World, *, page_size: int | None) -> None:
        self._world = world
        self._page_size = page_size
        self.organization: Organization | None = None
        self.actions: dict[str, Callable[[ApiCall], Result]] = {
            "ListAccounts": self.list_accounts,
            "DescribeOrganization": self.describe_organization,
        }

    def describe_organization(self, call: ApiCall) -> Result:
        organization = self._required(call, only_management=False)
        return {
            "Organization": {
                "Id": "o-emulated000",
                "MasterAccountId": organization.management_account_id,
                "FeatureSet": "ALL",
            }
        }

    def list_accounts(self, call: ApiCall) -> Result:
        organization = self._required(call, only_management=True)
        token = call.params.get("NextToken")
        if organization.empty_first_page and token is None:
            return {"Accounts": [], "NextToken": "0"}
        members = list(organization.members.values())
        start = int(token or 0)
        stop = start + min(int(call.params.get("MaxResults") or PAGE), self._page_size or PAGE)
        more = {"NextToken": str(stop)} if stop < len(members) else {}
        return {"Accounts": [self._shown(organization, each) for each in members[start:stop]]} | more

    def _required(self, call: ApiCall, *, only_management: bool) -> Organization:
        organization = self.organization
        account_id = call.caller.account_id
        if organization is None or account_id not in organization.members:
            raise AwsError("AWSOrganizationsNotInUseException", "Your account is not a member of an organization.")
        if only_management and account_id != organization.management_account_id:
            raise AwsError("AccessDenied", "You don't have permissions to access this resource.")
        return organization

    def _shown(self, organization: Organization, member: Member) -> dict[str, object]:
        hub = organization.management_account_id
        joined = self._world.clock.now() - timedelta(days=365)
        return {
            "Id": member.account_id,
            "Arn": self._world.arn("organizations", hub, f"account/o-emulated000/{member.account_id}"),
            "Email": f"{member.account_id}@example.com",
            "Name": member.name,
            "State": member.state,
            "JoinedMethod": "CREATED",
            "JoinedTimestamp": joined.timestamp(),
        }
