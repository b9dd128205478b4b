"""Four wrong protocols, and which named tests catch them: `python -m tests.crash.sabotage`.

Each is rekeyd with one rule taken out. A sabotage that no test notices fails the script.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest

from rekeyd.core import retire
from rekeyd.core.actions import Action
from rekeyd.core.model import AccessKey, KeyStatus, Observed, Place, Retirement, VaultHeld, VaultSeen
from rekeyd.errors import OutcomeUnknownError
from rekeyd.ports import CreatedKey
from tests.world.iam import WorldIam
from tests.world.vault import WorldVault

Undo = Callable[[], None]
CATCHERS = (
    "tests/unit/test_decide.py",
    "tests/unit/test_lifecycle.py",
    "tests/crash/test_sequences.py",
)


def _swap(owner: Any, name: str, value: object) -> Undo:
    usual = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, usual)


def delete_before_proof() -> Undo:
    """The old key goes as soon as its clocks ran out, whatever Vault's pair is worth."""

    def nothing_missing(_seen: Observed, _key: AccessKey, _retirement: Retirement) -> Action | None:
        return None

    return _swap(retire, "_proof_missing", nothing_missing)


def create_is_retried() -> Undo:
    """As botocore does by default: a CreateAccessKey without an answer is sent again."""
    usual = WorldIam.create_access_key

    def twice(self: WorldIam, *args: Any, **kwargs: Any) -> CreatedKey:
        try:
            return usual(self, *args, **kwargs)
        except OutcomeUnknownError:
            return usual(self, *args, **kwargs)

    return _swap(WorldIam, "create_access_key", twice)


def without_check_and_set() -> Undo:
    """Whoever writes to Vault last wins."""
    usual = WorldVault._publish

    def blind(self: WorldVault, place: Place, ours: Any, extra: Any, cas: int) -> Any:
        secret = self.state.secrets.get((place.address, place.namespace, place.mount, place.path))
        return usual(self, place, ours, extra, secret.current if secret is not None else 0)

    return _swap(WorldVault, "_publish", blind)


def newest_is_current() -> Undo:
    """The youngest Active key is taken for the held one, whatever Vault says."""
    from rekeyd.reconcile import observe

    usual = observe.Observer.look

    def look(self: observe.Observer, *args: Any, **kwargs: Any) -> observe.Look:
        found = usual(self, *args, **kwargs)
        active = [key for key in found.seen.keys if key.status is KeyStatus.ACTIVE]
        vault: VaultSeen = found.seen.vault
        if not active or not isinstance(vault, VaultHeld):
            return found
        newest = max(active, key=lambda key: key.created_at)
        return replace(found, seen=replace(found.seen, vault=replace(vault, access_key_id=newest.id)))

    return _swap(observe.Observer, "look", look)


SABOTAGES = (delete_before_proof, create_is_retried, without_check_and_set, newest_is_current)


class _Red:
    def __init__(self) -> None:
        self.tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tests.append(report.nodeid)


def main() -> int:
    unnoticed = 0
    for sabotage in SABOTAGES:
        undo, red = sabotage(), _Red()
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                pytest.main(["-q", "--no-header", "--tb=no", "-p", "no:randomly", *CATCHERS], plugins=[red])
        finally:
            undo()
        print(f"{sabotage.__name__}: {len(red.tests)} tests went red")
        for test in sorted(red.tests):
            print(f"  {test}")
        unnoticed += not red.tests
    return unnoticed


if __name__ == "__main__":
    sys.exit(main())
