"""Refused logins never lock the role: against a model of how Vault counts them, for days."""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from rekeyd.adapters.vault_tries import Credential, Tries
from rekeyd.core.secret import Secret
from tests.secret_registry import remember

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def credential(number: int) -> Credential:
    return Secret("the-role-id"), Secret(remember(f"refused-secret-id-{number}"))


BAD, OTHER, THIRD, FOURTH, FIFTH = (credential(number) for number in range(5))


@dataclass
class Counter:
    """Of one role_id, with the defaults: only a refusal more than 15 minutes after the last one begins anew."""

    count: int = 0
    last_at: datetime | None = None

    def refuse(self, now: datetime) -> None:
        if self.last_at is not None and now - self.last_at > 15 * MINUTE:
            self.count = 0
        self.count, self.last_at = self.count + 1, now

    @property
    def locked(self) -> bool:
        return self.count >= 5


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_bad_credential_is_tried_for_days_and_locks_nothing(replicas: int) -> None:
    vault, each = Counter(), [Tries(lockout=True) for _ in range(replicas)]
    tried: deque[datetime] = deque()
    for minute in range(3 * 24 * 60):
        now = NOW + minute * MINUTE
        for tries in each:
            if tries.allows(BAD, now):
                vault.refuse(now)
                assert not vault.locked, f"after {minute} minutes"
                tries.refused(BAD, now)
                tried.append(now)
    gaps = [later - earlier for earlier, later in zip(tried, list(tried)[1:], strict=False)]
    assert max(gaps) <= 16 * MINUTE, "it never stops trying"


def test_new_credentials_are_tried_at_once_while_there_is_room() -> None:
    vault, tries = Counter(), Tries(lockout=True)
    for number, shown in enumerate((BAD, OTHER, THIRD, FOURTH)):
        now = NOW + number * SECOND
        assert tries.allows(shown, now)
        vault.refuse(now)
        tries.refused(shown, now)
        assert not tries.allows(shown, now + SECOND)
    assert not vault.locked
    last = NOW + 3 * SECOND
    assert not tries.has_room(last + 16 * MINUTE - SECOND)
    assert not tries.allows(FIFTH, last + 16 * MINUTE - SECOND), "the fifth would lock the role"
    assert tries.allows(FIFTH, last + 16 * MINUTE)
    assert tries.allowed_at(last) == last + 16 * MINUTE


def test_a_replaced_role_id_is_a_new_credential_too() -> None:
    tries = Tries(lockout=True)
    tries.refused(BAD, NOW)
    assert not tries.allows(BAD, NOW + SECOND)
    assert tries.allows((Secret("another-role-id"), BAD[1]), NOW + SECOND)


def test_a_login_that_works_ends_the_row() -> None:
    tries = Tries(lockout=True)
    for _ in range(2):
        tries.refused(BAD, NOW)
    assert tries.allowed_at(NOW) == NOW + 16 * MINUTE
    tries.succeeded()
    assert tries.allows(BAD, NOW)


def test_where_vault_locks_nobody_it_is_tried_again_in_seconds() -> None:
    tries = Tries(lockout=False)
    for second in range(100):
        tries.refused(BAD, NOW + second * SECOND)
    assert not tries.allows(BAD, NOW + 103 * SECOND)
    assert tries.allows(BAD, NOW + 104 * SECOND)
