"""The checks of `rekeyd doctor`, in the order in which one thing depends on another.

Nothing is changed anywhere; each channel is sent a test message.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_doctor import own_identity, server_time, simulated
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal_schema import REVISIONS
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.app import alias_source, aws_settings, journal_of, rules_of, vault_settings
from rekeyd.config import Config
from rekeyd.config.models import FleetMode
from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus, Principal, Selection, UseUnknown
from rekeyd.core.policy import Attribution, Policy, select, step_time
from rekeyd.errors import AccessDeniedError, ConfigError, Error, NotFoundError, PreconditionError

# AWS refuses signatures of clocks five minutes apart and more; a minute is already a sign that nobody sets this one.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
_CLOCK_FAILS, _CLOCK_WARNS = timedelta(minutes=4), timedelta(seconds=30)

# Names in one message.
_FEW = 3

# The daemon takes ten at a time; a queue that it reads is as good as empty.
_MANY_MESSAGES = 1_000

# No key has this id, so a change of it changes nothing: AWS says that we may not, or that there is no such key.
_NO_KEY = AccessKeyId("AKIAREKEYDDOCTORNONE")

_CHANGES = ("iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey")


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    verdict: Verdict
    message: str
    hint: str | None = None

    def entry(self) -> dict[str, str | None]:
        return {"name": self.name, "verdict": self.verdict.value, "message": self.message, "hint": self.hint}


def ok(name: str, message: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, message=message)


def warning(name: str, message: str, hint: str | None = None) -> Check:
    return Check(name=name, verdict=Verdict.WARNING, message=message, hint=hint)


def failed(name: str, message: str, hint: str | None = None) -> Check:
    return Check(name=name, verdict=Verdict.FAILED, message=message, hint=hint)


class Doctor:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._cloud = AwsCloud(aws_settings(config), self._clock, instance=config.journal.instance)
        self._rules = rules_of(config, lambda: self._cloud.partition, alias_source(self._cloud))
        self._observing = config.fleet.mode is FleetMode.OBSERVE
        self._managed: list[tuple[Principal, Policy]] = []

    def checks(self) -> Iterator[Check]:
        yield from self._journal()
        yield from self._accounts()
        yield from self._vault()
        yield from self._channels()
        yield from self._owners()
        yield from self._events()

    # --- the journal ---

    def _journal(self) -> Iterator[Check]:
        path = Path(self._config.journal.url.removeprefix("sqlite:///"))
        if not path.exists():
            yield self._journal_to_be(path)
            return
        try:
            journal = journal_of(self._config, self._clock, read_only=True)
        except Error as error:
            yield failed("journal", error.message, error.hint)
            return
        try:
            revision = journal.schema_revision
        finally:
            journal.close()
        if revision != REVISIONS[-1]:
            yield warning(
                "journal", f"{path} has schema {revision}; the daemon brings it to {REVISIONS[-1]} when it starts"
            )
        yield _writable(path)

    def _journal_to_be(self, path: Path) -> Check:
        there = next(folder for folder in path.parents if folder.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return ok("journal", f"{path} is not there yet and can be made")
        return failed(
            "journal", f"{path} is not there and cannot be made in {there}", "run doctor as the daemon's user"
        )

    # --- AWS ---

    def _accounts(self) -> Iterator[Check]:
        try:
            accounts = self._cloud.accounts()
        except Error as error:
            yield failed("aws accounts", error.message, error.hint)
            return
        yield ok("aws accounts", f"{len(accounts.watched)} watched")
        for account_id, why in accounts.unwatched.items():
            yield warning(f"aws account {account_id}", f"not watched: {why}")
        for account_id in accounts.watched:
            yield from self._account(account_id)

    def _account(self, account_id: AccountId) -> Iterator[Check]:
        name = f"aws identity {account_id}"
        try:
            identity = self._cloud.sts.caller_identity(account_id)
            at = server_time(self._cloud.sessions, account_id)
        except Error as error:
            yield failed(name, error.message, error.hint)
            return
        if identity.is_root:
            yield failed(
                name, "rekeyd's credentials are the root user's; it refuses to run", "use a role or an IAM user"
            )
            return
        if identity.account_id != account_id:
            yield failed(
                name, f"the credentials are of account {identity.account_id}", "check role_arn in [[aws.accounts]]"
            )
            return
        yield ok(name, identity.arn)
        yield _clock(f"aws clock {account_id}", "AWS", self._clock.now(), at)
        yield from self._permissions(account_id, identity.arn)

    def _permissions(self, account_id: AccountId, own_arn: str) -> Iterator[Check]:
        iam = self._cloud.iam(account_id)
        users: tuple[Principal, ...] = ()
        sample: Principal | None = None

        def list_users() -> None:
            nonlocal users
            users = iam.list_users()

        yield self._tried(account_id, "iam:GetAccountSummary", iam.account_summary)
        yield self._tried(account_id, "iam:ListAccountAliases", iam.account_alias)
        yield self._tried(account_id, "iam:GetAccountAuthorizationDetails", list_users)
        yield self._tried(
            account_id, "iam:GetCredentialReport", lambda: iam.credential_report(max_wait=timedelta(seconds=20))
        )
        if self._config.scan.health:
            yield self._health(account_id)
        managed = [(user, select(self._rules.policies, user)) for user in users]
        chosen = [(u, s.policy) for u, s in managed if s.selection is Selection.MANAGED and s.policy is not None]
        if any(user.arn == own_arn for user, _ in chosen):
            yield failed(
                f"aws identity {account_id}", f"a policy manages {own_arn}, rekeyd's own identity", "exclude it"
            )
        self._managed += chosen
        yield ok(f"aws users {account_id}", f"{len(chosen)} of {len(users)} users are managed")
        sample = next((user for user, _ in chosen if user.arn != own_arn), None)
        if sample is None:
            return
        yield from self._user_permissions(account_id, own_arn, sample)

    def _health(self, account_id: AccountId) -> Check:
        name = f"health:DescribeEvents {account_id}"
        try:
            notices = self._cloud.iam(account_id).exposure_notices()
        except Error as error:
            return failed(name, error.message, _AWS_POLICY)
        if notices is None:
            return warning(
                name,
                "AWS Health has no answer for this account: its support plan is below Business",
                "exposed keys are still seen by AWS's quarantine policy; scan.health = false ends the question",
            )
        return ok(name, f"allowed; it knows of {len(notices)} exposed credentials")

    def _user_permissions(self, account_id: AccountId, own_arn: str, user: Principal) -> Iterator[Check]:
        iam = self._cloud.iam(account_id)
        yield self._tried(account_id, "iam:GetUser", lambda: iam.get_user(user.user_name))
        yield self._tried(account_id, "iam:ListAccessKeys", lambda: iam.list_access_keys(user.user_name))
        keys = iam.list_access_keys(user.user_name) if self._may_list(user) else ()
        if keys:
            use = iam.last_use(keys[0].id)
            yield (
                failed(f"iam:GetAccessKeyLastUsed {account_id}", use.detail)
                if isinstance(use, UseUnknown)
                else ok(f"iam:GetAccessKeyLastUsed {account_id}", "allowed")
            )
        if any(policy.orphans.attribution is Attribution.CLOUDTRAIL for policy in self._rules.policies):
            yield (
                warning(
                    f"cloudtrail:LookupEvents {account_id}",
                    "not allowed or not answered: a key whose answer was lost stays stray until a person decides",
                    "grant it, or set orphans.attribution",
                )
                if iam.who_created((), user.user_name) is None
                else ok(f"cloudtrail:LookupEvents {account_id}", "allowed")
            )
        if not self._observing:
            yield from self._changes(account_id, own_arn, user)

    def _changes(self, account_id: AccountId, own_arn: str, user: Principal) -> Iterator[Check]:
        verdicts = simulated(self._cloud.sessions, account_id, own_arn, _CHANGES, user.arn)
        if verdicts is not None:
            for action, allowed in verdicts.items():
                name = f"{action} {account_id}"
                said = f"by SimulatePrincipalPolicy on {user.user_name}"
                yield ok(name, f"allowed, {said}") if allowed else failed(name, f"not allowed, {said}", _AWS_POLICY)
            return
        iam, user_name = self._cloud.iam(account_id), user.user_name
        yield warning(
            f"iam:CreateAccessKey {account_id}",
            "not tried, since a try would make a key, and SimulatePrincipalPolicy did not answer",
            "grant iam:SimulatePrincipalPolicy to be told",
        )
        tries: dict[str, Callable[[], object]] = {
            "iam:UpdateAccessKey": lambda: iam.update_access_key(
                user_name, _NO_KEY, KeyStatus.INACTIVE, guard=_unguarded
            ),
            "iam:DeleteAccessKey": lambda: iam.delete_access_key(user_name, _NO_KEY, guard=_unguarded),
        }
        for action, attempt in tries.items():
            yield self._tried(account_id, action, attempt)

    def _tried(self, account_id: AccountId, action: str, attempt: Callable[[], object]) -> Check:
        name = f"{action} {account_id}"
        try:
            attempt()
        except NotFoundError:
            pass  # allowed: AWS looks for the object only after the permission
        except AccessDeniedError as error:
            return failed(name, error.message, _AWS_POLICY)
        except Error as error:
            return failed(name, error.message, error.hint)
        return ok(name, "allowed")

    def _may_list(self, user: Principal) -> bool:
        try:
            self._cloud.iam(user.account_id).list_access_keys(user.user_name)
        except Error:
            return False
        return True

    # --- Vault ---

    def _vault(self) -> Iterator[Check]:
        try:
            vault = KvVault(vault_settings(self._config), self._clock)
        except ConfigError as error:
            yield failed("vault", error.message, error.hint)
            return
        try:
            yield from self._vault_checks(vault)
        finally:
            vault.close()

    def _vault_checks(self, vault: KvVault) -> Iterator[Check]:
        address = self._config.vault.address
        try:
            health = vault.health()
        except Error as error:
            yield failed("vault", error.message, error.hint)
            return
        if health.sealed or not health.initialized:
            state = "sealed" if health.initialized else "not initialised"
            yield failed("vault", f"{address} is {state}", "an operator must unseal or initialise it")
            return
        yield ok("vault", f"{address}, version {health.version}" + (", a standby" if health.standby else ""))
        yield _clock("vault clock", "Vault", self._clock.now(), health.server_time)
        if self._config.vault.auth.secret_id_wrapped:
            # It can be opened once, and the daemon would take our look for an interception.
            yield warning("vault login", "not tried, since that would use up the wrapped secret id")
            return
        vault.maintain()
        problem = vault.token_problem
        if problem is not None:
            yield failed("vault login", problem.message, problem.hint)
            return
        yield self._token(vault)
        if self._observing:
            return
        yield _checked("vault mark", self._config.vault.state_path, vault.check_mark)
        yield from self._places(vault)

    def _token(self, vault: KvVault) -> Check:
        longest = max(
            (
                step_time(
                    verify_first=p.verify_first, verify_timeout=p.verify_timeout, publish_timeout=p.publish_timeout
                )
                for p in self._rules.policies
            ),
            default=timedelta(0),
        )
        method = self._config.vault.auth.method.value
        now = self._clock.now()
        too_early = vault.token_ends_before(now + longest)
        if too_early is not None:
            return failed(
                "vault login",
                f"by {method}; the token ends in {too_early - now}, and issuing one key may take {longest}",
                "let tokens live longer, or shorten verify_timeout and publish_timeout",
            )
        ends_at = vault.token_ends_at()
        if ends_at is None:
            return ok("vault login", f"by {method}; the token does not end, or may not look itself up")
        return ok("vault login", f"by {method}; the token ends at {ends_at:%Y-%m-%dT%H:%M:%SZ} unless it is renewed")

    def _places(self, vault: KvVault) -> Iterator[Check]:
        """Mount version and capabilities, at the path of each managed user; good ones are counted, not listed."""
        good = 0
        for user, _ in self._managed:
            try:
                place = self._rules.place_of(user)
                vault.check_writable(place)
            except (PreconditionError, Error) as error:
                yield failed(f"vault path of {user.label}", error.message, error.hint)
            else:
                good += 1
        yield ok("vault paths", f"{good} of {len(self._managed)} are on KV version 2 and may be written")

    # --- the event queue ---

    def _events(self) -> Iterator[Check]:
        """Reading it would hide its messages from the daemon for a while, so policies are asked instead."""
        from rekeyd.app import event_queue

        queue = event_queue(self._config, self._cloud)
        if queue is None:
            return
        try:
            waiting = queue.waiting()
            own_id, own_arn = own_identity(self._cloud.sessions)
        except Error as error:
            yield failed("event queue", error.message, error.hint or _AWS_POLICY)
            return
        yield (
            ok("event queue", f"{queue.arn}, {waiting} messages wait")
            if waiting < _MANY_MESSAGES
            else warning("event queue", f"{waiting} messages wait: nobody reads it", "look for queue.lost in the log")
        )
        for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage"):
            verdicts = simulated(self._cloud.sessions, own_id, own_arn, (action,), queue.arn)
            if verdicts is None:
                yield warning(action, "not tried, since a try would take a message, and no policy could be asked")
            elif verdicts[action]:
                yield ok(action, "allowed, by SimulatePrincipalPolicy")
            else:
                yield failed(action, "not allowed, by SimulatePrincipalPolicy", _AWS_POLICY)

    # --- people ---

    def _channels(self) -> Iterator[Check]:
        """Each is sent a test message, past the journal: no alarm is touched, and the outbox knows nothing of it."""
        from rekeyd.adapters.channels import channels_of
        from rekeyd.app import channel_settings
        from rekeyd.fleet.outbox import tried

        channels = channels_of(channel_settings(self._config), self._cloud.sessions)
        if not channels:
            yield warning("channels", "none: alarms are only logged", "see [alarms] in the configuration")
        for channel in channels:
            error = tried(channel, instance=self._config.journal.instance, at=self._clock.now())
            if error is None:
                yield ok(f"channel {channel.name}", "took a test message; see that somebody can read it")
            else:
                yield failed(f"channel {channel.name}", error.message, error.hint or _CHANNEL)
        if self._config.alarms.heartbeat_url_file is not None:
            yield _heartbeat(Path(self._config.alarms.heartbeat_url_file))

    def _owners(self) -> Iterator[Check]:
        """No owner is sent anything: a test would come to people who asked for none."""
        from rekeyd.adapters.channel_owners import OwnerWays
        from rekeyd.app import owner_settings
        from rekeyd.fleet.owners import owner_of

        ways = OwnerWays(owner_settings(self._config))
        if ways.problem is not None:
            yield failed("owners", ways.problem, "see [owners] in the configuration")
            return
        if not ways.names:
            return
        tag = self._config.owners.tag
        owners = {user.label: owner for user, _ in self._managed if (owner := owner_of(user, tag)) is not None}
        unreached = sorted(label for label, owner in owners.items() if not ways.names_for(owner))
        told = f"by {', '.join(ways.names)}; {len(owners)} of {len(self._managed)} managed users have the tag {tag}"
        if unreached:
            few = ", ".join(unreached[:_FEW]) + (f" and {len(unreached) - _FEW} more" if len(unreached) > _FEW else "")
            yield warning("owners", f"{told}, and what it says reaches nobody for {few}", "correct the tag")
            return
        yield ok("owners", f"{told}; nothing was sent: `rekeyd alarms test --owner OWNER` does that")


_CHANNEL = "check its address, its credentials and the network; `rekeyd alarms test` tries the channels alone"
_AWS_POLICY = "`rekeyd policy aws` prints the policy that rekeyd needs"


def _unguarded() -> None:
    """A change of a key that does not exist needs no lease."""


def _writable(path: Path) -> Check:
    """By taking the write lock and giving it back."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.Error as error:
        return failed(
            "journal", f"{path} cannot be written: {error}", "run doctor as the daemon's user; check the disk"
        )
    return ok("journal", f"{path} can be written, schema {REVISIONS[-1]}")


def _clock(name: str, whose: str, ours: datetime, theirs: datetime | None) -> Check:
    if theirs is None:
        return warning(name, f"{whose} did not say what time it is")
    apart = abs(ours - theirs)
    said = f"{apart.total_seconds():.0f} s apart from {whose}'s"
    if apart > _CLOCK_FAILS:
        return failed(name, said, "set this machine's clock (NTP): AWS refuses signatures of another time")
    return warning(name, said, "set this machine's clock (NTP)") if apart > _CLOCK_WARNS else ok(name, said)


def _heartbeat(url_file: Path) -> Check:
    from rekeyd.adapters.secret_file import read_secret_line

    try:
        read_secret_line(url_file, "alarms.heartbeat_url_file")
    except Error as error:
        return failed("heartbeat", error.message, error.hint)
    # Fetched now, it would tell whoever listens that passes end well, while perhaps no daemon runs.
    return ok("heartbeat", "its address can be read; only the daemon fetches it, after a pass that ended well")


def _checked(name: str, what: str, check: Callable[[], object]) -> Check:
    try:
        check()
    except Error as error:
        return failed(name, error.message, error.hint)
    return ok(name, f"{what} can be read and written")
