"""`rekeyd doctor` at AWS: who are we, what time is it there, may we do each thing that the work needs.

Reads are tried. Changes are asked for by SimulatePrincipalPolicy, else tried on a key that does not exist.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_doctor import account_alias, own_identity, policy_source, server_time, simulated, user_tags
from rekeyd.app import event_queue
from rekeyd.cli.verdicts import AWS_POLICY, Check, clock_check, failed, ok, skipped, tried, warning
from rekeyd.config import Config
from rekeyd.config.models import FleetMode
from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus, Principal, Selection, UseUnknown
from rekeyd.core.policy import Attribution, Policy, select
from rekeyd.errors import Error
from rekeyd.ports import CallerIdentity, Clock
from rekeyd.reconcile.rules import Rules

# The daemon takes ten at a time; a queue that it reads is as good as empty.
_MANY_MESSAGES = 1_000

# No key has this id, so a change of it changes nothing: AWS says that we may not, or that there is no such key.
_NO_KEY = AccessKeyId("AKIAREKEYDDOCTORNONE")

_CHANGES = ("iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey")
_OF_A_USER = ("iam:GetUser", "iam:ListUserTags", "iam:ListAccessKeys", "iam:GetAccessKeyLastUsed")

# Long enough to be a question, short enough to be one page.
_TRAIL_LOOK = timedelta(minutes=1)


class AwsChecks:
    def __init__(self, config: Config, cloud: AwsCloud, rules: Rules, clock: Clock) -> None:
        self._config, self._cloud, self._rules, self._clock = config, cloud, rules, clock
        self._observing = config.fleet.mode is FleetMode.OBSERVE
        self.managed: list[tuple[Principal, Policy]] = []
        """Of the accounts that were checked so far."""
        self.ahead: timedelta | None = None
        """How far AWS's clock is before ours."""

    def checks(self) -> Iterator[Check]:
        try:
            accounts = self._cloud.accounts()
        except Error as error:
            yield failed("aws accounts", error.message, error.hint)
            yield self._clock_of(None)
            return
        yield ok("aws accounts", f"{len(accounts.watched)} watched")
        for account_id, why in accounts.unwatched.items():
            yield warning(f"aws account {account_id}", f"not watched: {why}")
        for account_id in accounts.watched:
            yield from self._account(account_id)
        yield from self._events()

    # --- who we are ---

    def _account(self, account_id: AccountId) -> Iterator[Check]:
        identity, problem = self._identity(account_id)
        users, listed = self._users(account_id) if problem is None else ((), None)
        managed = [] if identity is None else self._managed_of(users)
        if problem is None and identity is not None and any(user.arn == identity.arn for user, _ in managed):
            problem = f"a policy manages {identity.arn}, rekeyd's own identity", "exclude it"
        name = f"aws identity {account_id}"
        if problem is not None:
            yield failed(name, *problem)
        elif identity is not None:
            yield ok(name, identity.arn)
        yield self._clock_of(account_id)
        if identity is None or listed is None:
            return
        yield from self._of_the_account(account_id, listed)
        self.managed += managed
        yield ok(f"aws users {account_id}", f"{len(managed)} of {len(users)} users are managed")
        sample = next((user for user, _ in managed if user.arn != identity.arn), None)
        if sample is None:
            yield self._no_sample(account_id)
            return
        yield from self._of_a_user(account_id, sample)
        if not self._observing:
            yield from self._changes(account_id, identity.arn, sample)

    def _identity(self, account_id: AccountId) -> tuple[CallerIdentity | None, tuple[str, str | None] | None]:
        """Who we are there, and what is wrong with that: nothing else is asked then."""
        try:
            identity = self._cloud.sts.caller_identity(account_id)
        except Error as error:
            return None, (error.message, error.hint)
        if identity.is_root:
            said = "rekeyd's credentials are the root user's; it refuses to run"
            return identity, (said, "use a role or an IAM user")
        if identity.account_id != account_id:
            said = f"the credentials are of account {identity.account_id}"
            return identity, (said, "check role_arn in [[aws.accounts]]")
        return identity, None

    def _clock_of(self, account_id: AccountId | None) -> Check:
        name = "aws clock" if account_id is None else f"aws clock {account_id}"
        try:
            at = server_time(self._cloud.sessions, account_id)
        except Error as error:
            return skipped(name, f"AWS was not asked what time it is: {error.message}")
        now = self._clock.now()
        if at is not None:
            self.ahead = at - now
        return clock_check(name, "AWS", now, at)

    def _users(self, account_id: AccountId) -> tuple[tuple[Principal, ...], Check]:
        users: tuple[Principal, ...] = ()

        def list_users() -> None:
            nonlocal users
            users = self._cloud.iam(account_id).list_users()

        check = tried(f"iam:GetAccountAuthorizationDetails {account_id}", list_users)
        return users, check

    def _managed_of(self, users: tuple[Principal, ...]) -> list[tuple[Principal, Policy]]:
        selected = [(user, select(self._rules.policies, user)) for user in users]
        return [(u, s.policy) for u, s in selected if s.selection is Selection.MANAGED and s.policy is not None]

    # --- what the work needs ---

    def _of_the_account(self, account_id: AccountId, listed: Check) -> Iterator[Check]:
        iam, sessions = self._cloud.iam(account_id), self._cloud.sessions
        report_wait = timedelta(seconds=20)
        yield listed
        yield tried(f"iam:GetAccountSummary {account_id}", iam.account_summary)
        # Names of accounts are for people, unless secrets lie under them; and then their places cannot be told.
        yield tried(
            f"iam:ListAccountAliases {account_id}",
            lambda: account_alias(sessions, account_id),
            denied=failed if self._needs_alias() else warning,
        )
        yield tried(f"iam:GetAccountPasswordPolicy {account_id}", iam.password_policy)
        yield tried(f"iam:GetCredentialReport {account_id}", lambda: iam.credential_report(max_wait=report_wait))
        yield self._trail(account_id)
        if self._config.scan.health:
            yield self._health(account_id)

    def _needs_alias(self) -> bool:
        paths = [self._config.vault.path, *(policy.path or "" for policy in self._config.policies)]
        return any("{account_alias}" in path for path in paths)

    def _trail(self, account_id: AccountId) -> Check:
        """Every account is asked for use of its root user; who made a stray key is looked up besides."""
        name = f"cloudtrail:LookupEvents {account_id}"
        iam, since = self._cloud.iam(account_id), self._clock.now() - _TRAIL_LOOK
        attributing = any(p.orphans.attribution is Attribution.CLOUDTRAIL for p in self._rules.policies)
        missed = "use of the root user is seen late, in the credential report only" + (
            ", and a key whose answer was lost stays stray until a person decides" if attributing else ""
        )

        def denied(name: str, message: str, hint: str | None) -> Check:
            return warning(name, f"{message}: {missed}", hint)

        return tried(name, lambda: iam.root_used_at(since=since), denied=denied)

    def _health(self, account_id: AccountId) -> Check:
        name = f"health:DescribeEvents {account_id}"
        try:
            notices = self._cloud.iam(account_id).exposure_notices()
        except Error as error:
            return failed(name, error.message, AWS_POLICY)
        if notices is None:
            return warning(
                name,
                "AWS Health has no answer for this account: its support plan is below Business",
                "exposed keys are still seen by AWS's quarantine policy; scan.health = false ends the question",
            )
        return ok(name, f"allowed; it knows of {len(notices)} exposed credentials")

    def _no_sample(self, account_id: AccountId) -> Check:
        actions = _OF_A_USER if self._observing else (*_OF_A_USER, *_CHANGES)
        return skipped(
            f"aws user actions {account_id}",
            f"no policy manages a user here, so there was none to try them on: {', '.join(actions)}",
            "run doctor again once a user is managed",
        )

    def _of_a_user(self, account_id: AccountId, user: Principal) -> Iterator[Check]:
        iam, sessions = self._cloud.iam(account_id), self._cloud.sessions
        keys: tuple[AccessKeyId, ...] = ()

        def list_keys() -> None:
            nonlocal keys
            keys = tuple(key.id for key in iam.list_access_keys(user.user_name))

        yield tried(f"iam:GetUser {account_id}", lambda: iam.get_user(user.user_name))
        # GetUser shows the tags; rekeyd's policy grants this too, so that no rule of AWS's keeps them back.
        tags = f"iam:ListUserTags {account_id}"
        yield tried(tags, lambda: user_tags(sessions, user), denied=warning)
        yield tried(f"iam:ListAccessKeys {account_id}", list_keys)
        name = f"iam:GetAccessKeyLastUsed {account_id}"
        if not keys:
            yield skipped(name, f"not tried: {user.user_name} is not known to have a key")
            return
        use = iam.last_use(keys[0])
        yield failed(name, use.detail, AWS_POLICY) if isinstance(use, UseUnknown) else ok(name, "allowed")

    # --- what it changes ---

    def _changes(self, account_id: AccountId, own_arn: str, user: Principal) -> Iterator[Check]:
        source = self._source(account_id, own_arn)
        verdicts = simulated(self._cloud.sessions, account_id, source, _CHANGES, user.arn, tags=user.tags or {})
        if verdicts is not None:
            for action, allowed in verdicts.items():
                name = f"{action} {account_id}"
                said = f"by SimulatePrincipalPolicy on {user.user_name}"
                yield ok(name, f"allowed, {said}") if allowed else failed(name, f"not allowed, {said}", AWS_POLICY)
            return
        iam, user_name = self._cloud.iam(account_id), user.user_name
        yield skipped(
            f"iam:CreateAccessKey {account_id}",
            "not tried, since a try would make a key, and SimulatePrincipalPolicy did not answer",
            f"allow iam:SimulatePrincipalPolicy on {source} to be told",
        )
        tries: dict[str, Callable[[], object]] = {
            "iam:UpdateAccessKey": lambda: iam.update_access_key(
                user_name, _NO_KEY, KeyStatus.INACTIVE, guard=_unguarded
            ),
            "iam:DeleteAccessKey": lambda: iam.delete_access_key(user_name, _NO_KEY, guard=_unguarded),
        }
        for action, attempt in tries.items():
            yield tried(f"{action} {account_id}", attempt)

    def _source(self, account_id: AccountId, own_arn: str) -> str:
        """Whose policies count. A session's ARN does not show the path of its role, and the configuration does."""
        roles = {account.id: account.role_arn for account in self._config.aws.accounts}
        return roles.get(account_id) or policy_source(own_arn)

    # --- the event queue ---

    def _events(self) -> Iterator[Check]:
        """Reading it would hide its messages from the daemon for a while, so policies are asked instead."""
        queue = event_queue(self._config, self._cloud)
        if queue is None:
            return
        try:
            waiting = queue.waiting()
            own_id, own_arn = own_identity(self._cloud.sessions)
        except Error as error:
            yield failed("event queue", error.message, error.hint or AWS_POLICY)
            return
        yield (
            ok("event queue", f"{queue.arn}, {waiting} messages wait")
            if waiting < _MANY_MESSAGES
            else warning("event queue", f"{waiting} messages wait: nobody reads it", "look for queue.lost in the log")
        )
        for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage"):
            verdicts = simulated(self._cloud.sessions, own_id, policy_source(own_arn), (action,), queue.arn)
            if verdicts is None:
                yield skipped(action, "not tried, since a try would take a message, and no policy could be asked")
            elif verdicts[action]:
                yield ok(action, "allowed, by SimulatePrincipalPolicy")
            else:
                yield failed(action, "not allowed, by SimulatePrincipalPolicy", AWS_POLICY)


def _unguarded() -> None:
    """A change of a key that does not exist needs no lease."""
