"""A journal in memory with an account in hand, and the steps of a rotation to bring it where a test wants it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.journal_account import SqlAccountJournal
from rekeyd.core.model import (
    AccessKeyId,
    AccountId,
    JournalFacts,
    KeyFacts,
    Place,
    Principal,
    Retirement,
    Rotation,
    RotationId,
    RotationKind,
    UserId,
)
from rekeyd.core.reasons import Reason
from rekeyd.ports import Anchored
from tests.world.clock import VirtualClock

ACCOUNT = AccountId("111122223333")
OTHER_ACCOUNT = AccountId("444455556666")
OLD = AccessKeyId("AKIAOLD")
NEW = AccessKeyId("AKIANEW")
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
PLACE = Place(
    address="https://vault.example:8200",
    namespace="",
    mount="secret",
    path="aws/111122223333/ci",
    id_field="access_key_id",
    secret_field="secret_access_key",
)


def user(name: str = "ci", user_id: str = "AIDACI", account_id: AccountId = ACCOUNT) -> Principal:
    return Principal(
        account_id=account_id,
        user_name=name,
        user_id=UserId(user_id),
        path="/",
        arn=f"arn:aws:iam::{account_id}:user/{name}",
    )


CI = user()


def anchor(key_id: AccessKeyId | None = OLD, version: int = 3) -> Anchored:
    return Anchored(access_key_id=key_id, version=version, version_created_at=VirtualClock().now(), place=PLACE)


class Stand:
    """One journal, one held account, one clock."""

    def __init__(self, journal: SqlJournal, clock: VirtualClock) -> None:
        self.journal = journal
        self.clock = clock
        self.account = self.take()

    def take(self, account_id: AccountId = ACCOUNT) -> SqlAccountJournal:
        taken = self.journal.acquire(account_id, actor="daemon")
        assert taken is not None
        return taken

    def facts(self, principal: Principal = CI) -> JournalFacts:
        return self.account.known(principal).facts

    def key(self, key_id: AccessKeyId, principal: Principal = CI) -> KeyFacts:
        return self.facts(principal).key(key_id)

    def retirement(self, key_id: AccessKeyId = OLD) -> Retirement:
        found = self.key(key_id).retirement
        assert found is not None
        return found

    def rotation(self, principal: Principal = CI) -> Rotation:
        found = self.facts(principal).rotation
        assert found is not None
        return found

    def events(self) -> list[str]:
        return [event.event for event in self.journal.history()]

    def open(
        self,
        principal: Principal = CI,
        *,
        kind: RotationKind = RotationKind.NORMAL,
        old: AccessKeyId | None = OLD,
        target: AccessKeyId | None = None,
    ) -> RotationId:
        return self.account.open_rotation(
            principal,
            kind=kind,
            reason=Reason.DUE,
            asked_by=None,
            old_key_id=old,
            target=target,
            at=self.clock.now(),
        ).id

    def intend(self, rotation_id: RotationId, principal: Principal = CI, *, cas: int = 3) -> None:
        self.account.create_intended(
            principal,
            rotation_id,
            operation_id=f"op-{rotation_id}-{self.clock.now():%H%M%S%f}",
            keys_before=frozenset({OLD}),
            cas=cas,
            place=PLACE,
            at=self.clock.now(),
        )

    def create(self, principal: Principal = CI, *, kind: RotationKind = RotationKind.NORMAL) -> RotationId:
        rotation_id = self.open(principal, kind=kind)
        self.intend(rotation_id, principal)
        self.account.created(principal, rotation_id, NEW, at=self.clock.now())
        return rotation_id

    def publish(self, principal: Principal = CI, *, kind: RotationKind = RotationKind.NORMAL) -> RotationId:
        rotation_id = self.create(principal, kind=kind)
        self.account.publish_intended(principal, rotation_id, cas=3, at=self.clock.now())
        self.record_published(rotation_id, NEW, principal)
        return rotation_id

    def record_published(
        self, rotation_id: RotationId, key_id: AccessKeyId, principal: Principal = CI, *, version: int = 4
    ) -> None:
        now = self.clock.now()
        self.account.published(
            principal,
            rotation_id,
            key_id=key_id,
            place=replace(PLACE, path=f"aws/{principal.account_id}/{principal.user_name}"),
            version=version,
            version_created_at=now,
            at=now,
        )

    def change(self, verb: str, key_id: AccessKeyId = OLD) -> None:
        self.account.change_intended(CI, key_id, verb=verb, reason=Reason.OVERLAP_ENDED, at=self.clock.now())
        self.account.change_done(CI, key_id, verb=verb, at=self.clock.now())


@contextmanager
def in_memory() -> Iterator[Stand]:
    clock = VirtualClock()
    with open_journal("sqlite://", instance="test", clock=clock) as journal:
        yield Stand(journal, clock)
