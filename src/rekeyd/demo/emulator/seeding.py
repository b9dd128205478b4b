"""What a test or the demo does to the emulated AWS behind everybody's back.

Seeded keys are in effect at once (`settled=False`: they propagate like others);
everything that "another hand" does later takes effect with the world's delays.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rekeyd.demo.emulator.gate import Bucket, Gate
from rekeyd.demo.emulator.health import Health, HealthEvent
from rekeyd.demo.emulator.iam import Iam
from rekeyd.demo.emulator.organization import Member, Organization, Organizations
from rekeyd.demo.emulator.report import Reports
from rekeyd.demo.emulator.sts import Sts
from rekeyd.demo.emulator.world import LONG_AGO, Denial, EmulatedRole, Session, StoredKey, Use, World, new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededKey:
    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededUser:
    account_id: str
    name: str
    user_id: str
    arn: str
    keys: tuple[SeededKey, ...]

    @property
    def key(self) -> SeededKey:
        """The only key; raises ValueError when it was seeded without one."""
        (key,) = self.keys
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShown:
    """A key as it truly is now, whatever the delays show to others."""

    access_key_id: str
    status: str
    created_at: datetime
    last_used_at: datetime | None


class Seeding:
    """The part of EmulatedAws that changes its world from inside the process."""

    world: World
    gate: Gate
    _iam: Iam
    _sts: Sts
    _organizations: Organizations
    _health: Health
    _reports: Reports
    hub: str
    region: str

    # -- users

    def create_user(
        self,
        account_id: str,
        name: str,
        *,
        path: str = "/",
        tags: Mapping[str, str] | None = None,
        key_age: timedelta | None = None,
        admin: bool = False,
    ) -> SeededUser:
        """A user, with one Active key of that age (None: without a key).

        Only an `admin` may call more than GetCallerIdentity with its keys.
        """
        with self.world.lock:
            listed = [{"Key": key, "Value": value} for key, value in (tags or {}).items()]
            user = self.world.make_user(account_id, name, path, listed)
            if admin:
                self.world.admins.add(user.id)
            keys = () if key_age is None else (self.add_key(account_id, name, age=key_age),)
            if key_age is not None:
                user.create_date = (self.world.clock.now() - key_age).replace(microsecond=0, tzinfo=None)
            return SeededUser(account_id=account_id, name=user.name, user_id=user.id, arn=user.arn, keys=keys)

    def delete_user(self, account_id: str, name: str) -> None:
        """By another hand: the keys first."""
        with self.world.lock:
            user = self.world.user(account_id, name)
            for key in self.world.keys_of(account_id, user):
                self.world.change_key(key, "Deleted")
            self.world.iam(account_id).delete_user(user.name)

    def rename_user(
        self, account_id: str, name: str, *, new_name: str | None = None, new_path: str | None = None
    ) -> None:
        with self.world.lock:
            self.world.rename_user(account_id, self.world.user(account_id, name), new_name, new_path)

    def tag_user(self, account_id: str, name: str, tags: Mapping[str, str]) -> None:
        with self.world.lock:
            user = self.world.user(account_id, name)
            listed = [{"Key": key, "Value": value} for key, value in tags.items()]
            self.world.iam(account_id).tagger.tag_resource(user.arn, listed)

    def untag_user(self, account_id: str, name: str, tag_keys: Iterable[str]) -> None:
        with self.world.lock:
            user = self.world.user(account_id, name)
            self.world.iam(account_id).tagger.untag_resource_using_names(user.arn, list(tag_keys))

    # -- keys

    def add_key(
        self, account_id: str, name: str, *, age: timedelta = timedelta(0), active: bool = True, settled: bool = True
    ) -> SeededKey:
        """One more key, also beyond the quota."""
        with self.world.lock:
            user = self.world.user(account_id, name)
            key = self.world.make_key(account_id, user, effective_at=LONG_AGO if settled else None)
            self.world.date_key(key, self.world.clock.now() - age)
            if not active:
                key.stored.status = "Inactive"
                key.history = [(LONG_AGO, "Inactive")]
            return _seeded(key)

    def keys(self, account_id: str, name: str) -> list[KeyShown]:
        """The user's keys, oldest first."""
        with self.world.lock:
            found = self.world.keys_of(account_id, self.world.user(account_id, name))
            return sorted((_shown(key) for key in found), key=lambda key: key.created_at)

    def key(self, access_key_id: str) -> KeyShown:
        """Any key that ever was; status `Deleted` for those that are no more."""
        with self.world.lock:
            return _shown(self.world.keys[access_key_id])

    def secret_of(self, access_key_id: str) -> str:
        """To check what somebody stored."""
        return self.world.keys[access_key_id].secret_access_key

    def set_create_date(self, access_key_id: str, at: datetime) -> None:
        with self.world.lock:
            self.world.date_key(self.world.keys[access_key_id], at)

    def set_last_used(
        self, access_key_id: str, at: datetime, *, service: str = "s3", region: str = "us-east-1"
    ) -> None:
        """Seen at `at` + last_used_lag, as any use."""
        with self.world.lock:
            self.world.keys[access_key_id].uses = [Use(at=at, service=service, region=region)]

    def deactivate_key(self, access_key_id: str) -> None:
        self._change(access_key_id, "Inactive")

    def reactivate_key(self, access_key_id: str) -> None:
        self._change(access_key_id, "Active")

    def delete_key(self, access_key_id: str) -> None:
        self._change(access_key_id, "Deleted")

    @property
    def secrets(self) -> list[str]:
        """Every secret access key and session token that this AWS ever made: to search logs and files for."""
        with self.world.lock:
            return list(self.world.secrets)

    # -- root and the account

    def add_root_key(self, account_id: str, *, active: bool = True, last_used_at: datetime | None = None) -> SeededKey:
        with self.world.lock:
            key = self.world.make_key(account_id, None, effective_at=LONG_AGO)
            if not active:
                key.history = [(LONG_AGO, "Inactive")]
            if last_used_at is not None:
                key.uses = [Use(at=last_used_at, service="iam", region="us-east-1")]
            return _seeded(key)

    def remove_root_key(self, account_id: str) -> None:
        """All of them."""
        with self.world.lock:
            for key in self.world.keys_of(account_id, None):
                self.world.change_key(key, "Deleted")

    def set_root(
        self,
        account_id: str,
        *,
        mfa: bool | None = None,
        password: bool | None = None,
        password_last_used_at: datetime | None = None,
        certificate: bool | None = None,
    ) -> None:
        """Changes what is not None."""
        with self.world.lock:
            root = self.world.root(account_id)
            root.mfa = root.mfa if mfa is None else mfa
            root.password = root.password if password is None else password
            root.certificate = root.certificate if certificate is None else certificate
            root.password_last_used_at = password_last_used_at or root.password_last_used_at

    def forget_report(self, account_id: str | None = None) -> None:
        """The next GenerateCredentialReport starts a new report."""
        with self.world.lock:
            self._reports.forget(account_id)

    # -- what AWS Health knows

    def subscribe_health(self, account_id: str) -> None:
        """Give the account a support plan with which AWS Health answers."""
        self._health.plans.add(account_id)

    def report_exposed(
        self, account_id: str, entity: str, *, code: str = "AWS_RISK_CREDENTIALS_EXPOSED"
    ) -> HealthEvent:
        """AWS Health tells of it from now on; set `open` of what is returned to end that."""
        return self._health.report(account_id, code, entity, self.world.clock.now())

    # -- roles, organization, permission, rate

    def add_role(
        self,
        account_id: str,
        name: str,
        *,
        external_id: str | None = None,
        trusted: Iterable[str] | None = None,
        max_session: timedelta = timedelta(hours=1),
    ) -> str:
        """A role that these accounts (None: the hub) may assume; returns its ARN."""
        arn = self.world.arn("iam", account_id, f"role/{name}")
        self.world.roles[arn] = EmulatedRole(
            arn=arn,
            role_id=new_id("AROA"),
            trusted_accounts=frozenset(trusted or {self.hub}),
            external_id=external_id,
            max_session=max_session,
        )
        return arn

    def create_organization(
        self,
        accounts: Mapping[str, str],
        *,
        root_access: bool = False,
        empty_first_page: bool = False,
    ) -> Organization:
        """The hub manages it; `accounts` are ids and names of the members beside it. Change states in the result.

        `root_access`: the members' root users can be entered with AssumeRoot.
        """
        members = {self.hub: "management"} | dict(accounts)
        organization = Organization(
            management_account_id=self.hub,
            members={id_: Member(account_id=id_, name=name) for id_, name in members.items()},
            empty_first_page=empty_first_page,
        )
        self._organizations.organization = organization
        self._iam.organization_features[self.hub] = frozenset()
        if root_access:
            self._iam.organization_features[self.hub] = frozenset({"RootCredentialsManagement", "RootSessions"})
            self._sts.members[self.hub] = frozenset(accounts)
        return organization

    def deny(
        self,
        account_id: str | None,
        action: str,
        *,
        user: str | None = None,
        unless_tag: tuple[str, str] | None = None,
    ) -> Denial:
        """AccessDenied for an action glob (`ListAccessKeys`, `iam:*`) until `.lift()`; not on users with the tag.

        GetCallerIdentity, which no policy can deny, is denied only when named in full.
        """
        denial = Denial(account_id=account_id, action=action, user_name=user, unless_tag=unless_tag)
        self.world.denials.append(denial)
        return denial

    def throttle(self, action: str, *, per_second: float, burst: float = 1, account_id: str | None = None) -> Bucket:
        """A token bucket on the world's clock for an action glob, until `.lift()`."""
        bucket = Bucket(
            action=action,
            account_id=account_id,
            per_second=per_second,
            burst=burst,
            tokens=burst,
            filled_at=self.world.clock.now(),
        )
        self.gate.buckets.append(bucket)
        return bucket

    def open_admin_session(self, account_id: str, *, name: str = "by-another-hand") -> Session:
        """Credentials that may do everything in the account and are no user of it."""
        with self.world.lock:
            return self.world.open_session(
                account_id=account_id,
                arn=self.world.arn("sts", account_id, f"assumed-role/admin/{name}"),
                user_id=f"{new_id('AROA')}:{name}",
                lasts=timedelta(days=3650),
            )

    def _change(self, access_key_id: str, status: str) -> None:
        with self.world.lock:
            self.world.change_key(self.world.keys[access_key_id], status)


def _seeded(key: StoredKey) -> SeededKey:
    return SeededKey(access_key_id=key.id, secret_access_key=key.secret_access_key)


def _shown(key: StoredKey) -> KeyShown:
    last: Any = key.uses[-1].at if key.uses else None
    return KeyShown(access_key_id=key.id, status=key.status, created_at=key.created_at, last_used_at=last)
