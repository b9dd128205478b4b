"""The ports `Iam`, `Sts` and `Cloud` on the emulated AWS. Every call through them is rekeyd's."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from rekeyd.core.model import (
    MAX_KEYS_PER_USER,
    AccessKey,
    AccessKeyId,
    AccountId,
    CreateIntent,
    KeyStatus,
    LastUse,
    NeverUsed,
    Principal,
    Proof,
    UseUnknown,
)
from rekeyd.core.secret import Secret
from rekeyd.errors import (
    AccessDeniedError,
    Error,
    NotFoundError,
    RefusedError,
    StoppingError,
    TemporaryError,
)
from rekeyd.ports import (
    Accounts,
    AccountSummary,
    CallerIdentity,
    CreatedKey,
    CredentialReport,
    ExposureNotice,
    Guard,
    Pair,
    PasswordPolicy,
    ReportKey,
    ReportRow,
    UserRights,
)
from tests.world.aws import AccountState, Aws, Hand, KeyState, UserState
from tests.world.points import SIGNATURE_LIFE, CallPoints
from tests.world.promises import Promises

T = TypeVar("T")
# CloudTrail stamps an event with AWS's clock, an intent with ours.
_TRAIL_SLACK = timedelta(minutes=1)


def signs_out_of_time(aws: Aws) -> bool:
    """AWS compares the time of each signature with its own; the caller's clock is too far off."""
    return abs(aws.callers.offset) >= SIGNATURE_LIFE


def reach(aws: Aws, account: AccountState, method: str) -> None:
    """Raises what the account's switches and the caller's clock say."""
    if signs_out_of_time(aws):
        raise TemporaryError(f"account {account.id}: {method} was refused: SignatureDoesNotMatch")
    if account.unreachable:
        raise TemporaryError(f"account {account.id}: {method} cannot be sent")
    if account.throttled > 0:
        account.throttled -= 1
        raise TemporaryError(f"account {account.id}: {method} was throttled")
    if method in account.denied:
        raise AccessDeniedError(f"account {account.id}: {method} is denied")


class WorldIam:
    """The `Iam` port of one account."""

    def __init__(self, aws: Aws, account_id: AccountId, points: CallPoints, promises: Promises) -> None:
        self.account_id = account_id
        self._aws = aws
        self._points = points
        self._promises = promises

    def get_user(self, user_name: str) -> Principal:
        return self._call("get_user", lambda _account: self._user(user_name).principal, user_name=user_name)

    def list_users(self) -> tuple[Principal, ...]:
        return self._call("list_users", lambda account: tuple(user.principal for user in account.users.values()))

    def list_access_keys(self, user_name: str) -> tuple[AccessKey, ...]:
        def effect(_account: AccountState) -> tuple[AccessKey, ...]:
            user = self._user(user_name)
            keys = self._aws.listed(user)
            inactive = [key.id for key in keys if key.status is not KeyStatus.ACTIVE]
            if inactive:
                self._promises.listed(user, inactive)
            return keys

        return self._call("list_access_keys", effect, user_name=user_name)

    def last_use(self, key_id: AccessKeyId) -> LastUse:
        def effect(account: AccountState) -> LastUse:
            key = self._aws.keys.get(key_id)
            if key is None or key.deleted or key.owner.account is not account:
                return UseUnknown(f"{key_id}: AWS does not know the key")
            return self._aws.visible_use(key) or NeverUsed()

        try:
            return self._call("last_use", effect, access_key_id=key_id)
        except StoppingError:
            raise
        except Error as error:
            return UseUnknown(error.message)

    def create_access_key(self, user_name: str, *, operation_id: str, guard: Guard) -> CreatedKey:
        sent = False

        def send() -> None:
            nonlocal sent
            guard()
            sent = True
            self._promises.create_sent(user_name, operation_id)

        def effect(_account: AccountState) -> CreatedKey:
            user = self._user(user_name)
            key = self._aws.create_key(user, by=Hand.REKEYD, operation_id=operation_id)
            self._promises.created(key)
            pair = Pair(access_key_id=key.id, secret_access_key=Secret(key.secret))
            return CreatedKey(pair=pair, created_at=key.created_at, user_name=user.name)

        try:
            made = self._call("create_access_key", effect, guard=send, user_name=user_name, operation_id=operation_id)
        except (RefusedError, TemporaryError):
            if sent:
                self._promises.create_answered(operation_id, made=False)
            raise
        self._promises.create_answered(operation_id, made=True)
        return made

    def update_access_key(self, user_name: str, key_id: AccessKeyId, status: KeyStatus, *, guard: Guard) -> None:
        def effect(_account: AccountState) -> None:
            key = self._key(user_name, key_id)
            if key is None:
                raise NotFoundError(f"access key {key_id} of user {user_name}: there is no such key")
            self._promises.before_update(key, status)
            self._aws.set_status(key, status, by=Hand.REKEYD)
            self._promises.updated(key, status)

        self._call(
            "update_access_key",
            effect,
            guard=guard,
            user_name=user_name,
            access_key_id=key_id,
            status=status,
        )

    def delete_access_key(self, user_name: str, key_id: AccessKeyId, *, guard: Guard) -> None:
        def effect(account: AccountState) -> None:
            user = account.users.get(user_name.casefold())
            key = user.keys.get(key_id) if user is not None else None
            if key is None:
                return
            self._promises.before_delete(key)
            self._aws.delete_key(key, by=Hand.REKEYD)

        self._call("delete_access_key", effect, guard=guard, user_name=user_name, access_key_id=key_id)

    def account_summary(self) -> AccountSummary:
        def effect(account: AccountState) -> AccountSummary:
            return AccountSummary(
                root_access_keys_present=bool(account.root_keys) and not account.summary_blind,
                root_mfa_enabled=account.root_mfa,
                root_password_present=account.root_password,
                users=len(account.users),
            )

        return self._call("account_summary", effect)

    def password_policy(self) -> PasswordPolicy:
        return self._call("password_policy", lambda account: account.password_policy)

    def user_rights(self) -> Mapping[str, UserRights]:
        def effect(account: AccountState) -> Mapping[str, UserRights]:
            return {
                user.principal.arn: UserRights(
                    user_name=user.name,
                    administrator_by=account.administrators.get(user.name),
                    quarantined_by=account.quarantined.get(user.name),
                )
                for user in account.users.values()
            }

        return self._call("user_rights", effect)

    def root_used_at(self, *, since: datetime) -> datetime | None:
        def effect(account: AccountState) -> datetime | None:
            if not account.cloudtrail:
                raise AccessDeniedError(f"cloudtrail:LookupEvents for {account.id} was refused: AccessDenied")
            used_at = account.root_seen_used_at
            return used_at if used_at is not None and used_at >= since else None

        return self._call("root_used_at", effect)

    def owner_of_key(self, key_id: AccessKeyId) -> str | None:
        def effect(account: AccountState) -> str | None:
            for user in account.users.values():
                if key_id in user.keys:
                    return user.name
            raise NotFoundError(f"access key {key_id}: there is no such key")

        return self._call("owner_of_key", effect, access_key_id=key_id)

    def exposure_notices(self) -> tuple[ExposureNotice, ...] | None:
        # Not asked is no call.
        if self._aws.account(self.account_id).exposure_notices is None:
            return None
        return self._call("exposure_notices", lambda account: account.exposure_notices)

    def account_alias(self) -> str | None:
        try:
            return self._call("account_alias", lambda account: account.alias)
        except RefusedError:
            return None

    def credential_report(self, *, max_wait: timedelta) -> CredentialReport:
        return self._call("credential_report", lambda account: self._report(account, max_wait))

    def who_created(self, intents: Sequence[CreateIntent], user_name: str) -> Mapping[AccessKeyId, str | None] | None:
        def effect(account: AccountState) -> Mapping[AccessKeyId, str | None] | None:
            if not account.cloudtrail:
                return None
            if not intents:
                return {}
            now = self._aws.clock.now()
            ours = {intent.operation_id for intent in intents}
            since = min(intent.sent_at for intent in intents) - _TRAIL_SLACK
            name = user_name.casefold()
            return {
                event.key_id: event.operation_id if event.operation_id in ours else None
                for event in account.trail
                if event.at >= since and event.visible_at <= now and event.user_name.casefold() == name
            }

        try:
            return self._call("who_created", effect, user_name=user_name)
        except StoppingError:
            raise
        except Error:
            return None

    # --- parts ----------------------------------------------------------------------------------------------------

    def _call(
        self, method: str, effect: Callable[[AccountState], T], *, guard: Guard | None = None, **args: object
    ) -> T:
        def reached() -> T:
            account = self._aws.account(self.account_id)
            reach(self._aws, account, method)
            return effect(account)

        args["account_id"] = self.account_id
        return self._points.call(f"iam.{method}", reached, args, guard)

    def _user(self, user_name: str) -> UserState:
        return self._aws.user(self.account_id, user_name)

    def _key(self, user_name: str, key_id: AccessKeyId) -> KeyState | None:
        return self._user(user_name).keys.get(key_id)

    def _report(self, account: AccountState, max_wait: timedelta) -> CredentialReport:
        clock, lags = self._aws.clock, self._aws.lags
        if account.report is not None and clock.now() - account.report.generated_at < lags.report_every:
            return account.report
        if account.report_ready_at is None:
            account.report_ready_at = clock.now() + lags.report_takes
        left = account.report_ready_at - clock.now()
        if left > max_wait:
            clock.sleep(max_wait)
            raise TemporaryError(f"account {account.id}: the credential report is still being made")
        clock.sleep(left)
        account.report_ready_at = None
        account.report = report_now(self._aws, account)
        return account.report


def report_now(aws: Aws, account: AccountState) -> CredentialReport:
    return CredentialReport(
        generated_at=aws.clock.now().replace(microsecond=0),
        root=_root_row(account),
        users={user.principal.arn: _row(aws, user) for user in account.users.values()},
    )


def _row(aws: Aws, user: UserState) -> ReportRow:
    """The slots are in the order of the key ids, not of creation."""
    keys = [user.keys[key_id] for key_id in sorted(user.keys)]
    return ReportRow(
        user_name=user.name,
        arn=user.principal.arn,
        keys=tuple(_report_key(aws, key) for key in keys[:MAX_KEYS_PER_USER]),
        password_enabled=user.password_enabled,
        password_last_used_at=None,
        mfa_active=user.mfa_active,
        more_credentials=len(keys) > MAX_KEYS_PER_USER,
    )


def _report_key(aws: Aws, key: KeyState) -> ReportKey:
    use = aws.visible_use(key)
    return ReportKey(
        active=key.status is KeyStatus.ACTIVE,
        created_at=key.created_at,
        last_used_at=use.at if use is not None else None,
    )


def _root_row(account: AccountState) -> ReportRow:
    listed = [] if account.report_blind else account.root_keys
    return ReportRow(
        user_name="<root_account>",
        arn=f"arn:{account.partition}:iam::{account.id}:root",
        keys=tuple(
            ReportKey(active=key.active, created_at=key.created_at, last_used_at=key.last_used_at)
            for key in listed[:MAX_KEYS_PER_USER]
        ),
        password_enabled=account.root_password,
        password_last_used_at=account.root_password_last_used_at,
        mfa_active=account.root_mfa,
        more_credentials=len(listed) > MAX_KEYS_PER_USER,
    )


class WorldSts:
    """The `Sts` port. `down` makes every proof end without a verdict."""

    def __init__(self, aws: Aws, points: CallPoints, promises: Promises, region: str) -> None:
        self.down = False
        self.region = region
        self._aws = aws
        self._points = points
        self._promises = promises

    def caller_identity(self, account_id: AccountId) -> CallerIdentity:
        def effect() -> CallerIdentity:
            account = self._aws.account(account_id)
            reach(self._aws, account, "caller_identity")
            return account.caller

        return self._points.call("sts.caller_identity", effect, {"account_id": account_id})

    def credentials_expire_at(self, account_id: AccountId) -> datetime | None:
        return self._points.call(
            "sts.credentials_expire_at",
            lambda: self._aws.account(account_id).credentials_expire_at,
            {"account_id": account_id},
        )

    def prove(self, pair: Pair, principal: Principal, *, region: str | None = None) -> Proof:
        where = region or self.region
        args = {"access_key_id": pair.access_key_id, "user_name": principal.user_name, "region": where}
        try:
            return self._points.call("sts.prove", lambda: self._prove(pair, principal, where), args)
        except StoppingError:
            raise
        except Error:
            return Proof.UNAVAILABLE

    def _prove(self, pair: Pair, principal: Principal, region: str) -> Proof:
        if self.down:
            return Proof.UNAVAILABLE
        if signs_out_of_time(self._aws):
            return Proof.WRONG_SECRET  # the code is the same
        answer = self._aws.authenticate(pair.access_key_id, pair.secret_access_key.reveal(), region)
        if isinstance(answer, str):
            return Proof.WRONG_SECRET if answer == "SignatureDoesNotMatch" else Proof.NOT_HONOURED
        self._aws.record_use(answer, service="sts", region=region)
        found = answer.owner.principal
        if found.user_id != principal.user_id or found.arn != principal.arn:
            return Proof.OTHER_PRINCIPAL
        self._promises.proven(pair.access_key_id)
        return Proof.ACCEPTED


class WorldCloud:
    """The `Cloud` port."""

    def __init__(self, aws: Aws, points: CallPoints, promises: Promises, sts: WorldSts) -> None:
        self._aws = aws
        self._points = points
        self._promises = promises
        self._sts = sts
        self._iams: dict[AccountId, WorldIam] = {}

    @property
    def sts(self) -> WorldSts:
        return self._sts

    def accounts(self) -> Accounts:
        return self._points.call("cloud.accounts", self._accounts, {})

    def iam(self, account_id: AccountId) -> WorldIam:
        iam = self._iams.get(account_id)
        if iam is None:
            iam = self._iams[account_id] = WorldIam(self._aws, account_id, self._points, self._promises)
        return iam

    def _accounts(self) -> Accounts:
        accounts = tuple(self._aws.accounts.values())
        return Accounts(
            watched=tuple(account.id for account in accounts if account.unwatched is None),
            unwatched={account.id: account.unwatched for account in accounts if account.unwatched is not None},
        )
