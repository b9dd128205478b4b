"""The two AWS that the contract holds for: the world in memory, and the real adapter before the emulated AWS.

A side is what a test may do behind rekeyd's back; `cloud` is what rekeyd sees.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_session import AwsSettings
from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus
from rekeyd.core.secret import Secret
from rekeyd.demo.emulator import HUB, Delays, Drop, EmulatedAws
from rekeyd.ports import Cloud, Pair
from tests.secret_registry import remember
from tests.world import Lags, World

ACCOUNT = AccountId(HUB)
_AT_ONCE = (timedelta(0), timedelta(0))


class MachineClock:
    """The `Clock` port on the machine's time."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - the emulated AWS keeps the machine's time as well

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, duration: timedelta) -> None:
        time.sleep(duration.total_seconds())


class Side(Protocol):
    @property
    def cloud(self) -> Cloud: ...

    def add_user(self, name: str, *, path: str = "/", tags: Mapping[str, str] | None = None) -> None:
        """Without a key."""

    def add_key(
        self, user_name: str, *, age: timedelta = timedelta(0), status: KeyStatus = KeyStatus.ACTIVE
    ) -> Pair: ...

    def add_root_key(self, *, active: bool) -> None: ...

    def use(self, pair: Pair) -> None: ...

    def create_by_another_hand(self, user_name: str) -> AccessKeyId: ...

    def lose_answer(self) -> None:
        """AWS acts on the next CreateAccessKey; what it says is lost."""

    def deny(self, action: str) -> None: ...

    def now(self) -> datetime: ...


class EmulatedSide:
    def __init__(self, aws: EmulatedAws) -> None:
        self.aws = aws
        self.cloud = AwsCloud(AwsSettings(region="us-east-1"), MachineClock(), instance="contract")

    def add_user(self, name: str, *, path: str = "/", tags: Mapping[str, str] | None = None) -> None:
        self.aws.create_user(ACCOUNT, name, path=path, tags=tags)

    def add_key(self, user_name: str, *, age: timedelta = timedelta(0), status: KeyStatus = KeyStatus.ACTIVE) -> Pair:
        key = self.aws.add_key(ACCOUNT, user_name, age=age, active=status is KeyStatus.ACTIVE)
        return Pair(
            access_key_id=AccessKeyId(key.access_key_id), secret_access_key=Secret(remember(key.secret_access_key))
        )

    def add_root_key(self, *, active: bool) -> None:
        self.aws.add_root_key(ACCOUNT, active=active)

    def use(self, pair: Pair) -> None:
        self.aws.client_with("sts", pair.access_key_id, pair.secret_access_key.reveal()).get_caller_identity()

    def create_by_another_hand(self, user_name: str) -> AccessKeyId:
        return AccessKeyId(self.aws.client("iam").create_access_key(UserName=user_name)["AccessKey"]["AccessKeyId"])

    def lose_answer(self) -> None:
        self.aws.fault("CreateAccessKey", when="after", do=Drop())

    def deny(self, action: str) -> None:
        self.aws.deny(ACCOUNT, action)

    def now(self) -> datetime:
        return self.aws.clock.now()


class WorldSide:
    # The world names call points after the ports, AWS its actions.
    _POINTS: Mapping[str, str] = {"LookupEvents": "who_created", "ListAccessKeys": "list_access_keys"}

    def __init__(self, world: World) -> None:
        self.world = world
        self.cloud: Cloud = world.cloud
        world.account(ACCOUNT)

    def add_user(self, name: str, *, path: str = "/", tags: Mapping[str, str] | None = None) -> None:
        self.world.operators.create_user(ACCOUNT, name, path=path, tags=tags)

    def add_key(self, user_name: str, *, age: timedelta = timedelta(0), status: KeyStatus = KeyStatus.ACTIVE) -> Pair:
        return self.world.operators.add_key(ACCOUNT, user_name, age=age, status=status)

    def add_root_key(self, *, active: bool) -> None:
        self.world.operators.add_root_key(ACCOUNT, active=active)

    def use(self, pair: Pair) -> None:
        answer = self.world.aws.authenticate(pair.access_key_id, pair.secret_access_key.reveal(), self.world.region)
        assert not isinstance(answer, str), answer
        self.world.aws.record_use(answer, service="sts", region=self.world.region)

    def create_by_another_hand(self, user_name: str) -> AccessKeyId:
        return self.world.operators.create_key(ACCOUNT, user_name).access_key_id

    def lose_answer(self) -> None:
        from tests.world import lost

        self.world.fault("iam.create_access_key", when="after", error=lost("create"))

    def deny(self, action: str) -> None:
        self.world.account(ACCOUNT).denied.add(self._POINTS[action])

    def now(self) -> datetime:
        return self.world.clock.now()


@contextmanager
def emulated(
    monkeypatch: pytest.MonkeyPatch,
    *,
    delays: Delays | None = None,
    page_size: int | None = None,
    region: str = "us-east-1",
) -> Iterator[EmulatedAws]:
    """An emulated AWS whose credentials are this process's own; its secrets are searched for at the end."""
    with EmulatedAws(delays=delays, page_size=page_size, region=region) as aws:
        for name, value in aws.daemon_environment().items():
            monkeypatch.setenv(name, value)
        try:
            yield aws
        finally:
            for secret in aws.secrets:
                remember(secret)


def in_memory() -> WorldSide:
    lags = Lags(new_key=_AT_ONCE, dead_key=_AT_ONCE, last_use=timedelta(0), cloudtrail=_AT_ONCE)
    return WorldSide(World(lags=lags, start=datetime(2026, 1, 1, tzinfo=UTC)))
