"""Four wrong protocols, and which named tests catch them: `python -m tests.crash.sabotage`.

Each is rekeyd with one rule taken out. First the tests run as they are, and all must pass; then each sabotage must turn
the tests red that are named for it here. A red test of another name shows nothing: a sabotage may also break what has
nothing to do with the promise that it is about.
"""

import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, slots=True)
class Sabotage:
    begin: Callable[[], Undo]
    caught_by: tuple[str, ...]
    """Every one of them must go red, of a test with several cases at least one."""

    @property
    def name(self) -> str:
        return self.begin.__name__


_DECIDE, _LIFECYCLE, _SEQUENCES = CATCHERS
SABOTAGES = (
    Sabotage(
        delete_before_proof,
        (
            f"{_DECIDE}::test_the_decision[a proof is needed before the deactivation]",
            f"{_DECIDE}::test_the_decision[a deletion needs a proof too]",
            f"{_LIFECYCLE}::test_a_due_key_is_rotated_and_the_old_one_retired",
            f"{_SEQUENCES}::test_the_journal_is_lost_and_the_rotation_is_finished_more_patiently",
        ),
    ),
    Sabotage(
        create_is_retried,
        (
            f"{_SEQUENCES}::test_a_stranger_makes_a_key_in_the_second_of_our_lost_create",
            f"{_SEQUENCES}::test_a_stranger_and_our_lost_create_both_leave_a_key",
            f"{_SEQUENCES}::test_a_create_arrives_after_its_rotation_was_given_up",
        ),
    ),
    Sabotage(
        without_check_and_set,
        (
            f"{_SEQUENCES}::test_a_late_write_arrives_after_the_orphan_is_gone",
            f"{_SEQUENCES}::test_sigterm_comes_while_the_answer_of_the_vault_write_is_awaited[it lands later]",
        ),
    ),
    Sabotage(
        newest_is_current,
        (
            f"{_LIFECYCLE}::test_a_rollback_serves_the_old_pair_again",
            f"{_LIFECYCLE}::test_a_stray_key_stops_everything_until_a_person_names_it",
            f"{_SEQUENCES}::test_a_person_rolls_the_secret_back_by_hand_in_mid_quarantine",
            f"{_SEQUENCES}::test_the_answer_of_the_vault_write_is_lost_and_vault_stays_down[it did not]",
        ),
    ),
)


@dataclass(slots=True, eq=False)
class Ran:
    """What pytest tells while it runs."""

    tests: set[str] = field(default_factory=set)
    red: set[str] = field(default_factory=set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests.add(report.nodeid)
        if report.failed:
            self.red.add(report.nodeid)


def run() -> Ran:
    ran = Ran()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        pytest.main(["-q", "--no-header", "--tb=no", "-p", "no:randomly", *CATCHERS], plugins=[ran])
    return ran


def missing(names: Iterable[str], tests: Collection[str]) -> list[str]:
    """The names of which no test, or no case of one, is among these."""
    return [name for name in names if not any(test == name or test.startswith(f"{name}[") for test in tests)]


def main() -> int:
    usual = run()
    unknown = missing((name for sabotage in SABOTAGES for name in sabotage.caught_by), usual.tests)
    if usual.red or unknown or not usual.tests:
        print(f"without sabotage: {len(usual.tests)} tests, {len(usual.red)} red; nothing can be said")
        for name in (*sorted(usual.red), *(f"there is no {name}" for name in unknown)):
            print(f"  {name}")
        return 1
    print(f"without sabotage: {len(usual.tests)} tests, all green")
    unnoticed = 0
    for sabotage in SABOTAGES:
        undo = sabotage.begin()
        try:
            ran = run()
        finally:
            undo()
        green = missing(sabotage.caught_by, ran.red)
        unnoticed += len(green)
        named = len(sabotage.caught_by)
        print(f"{sabotage.name:24} {named - len(green)} of {named} named tests red, {len(ran.red)} in all", flush=True)
        for name in sabotage.caught_by:
            print(f"  {'STILL GREEN' if name in green else 'red':12}{name}")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
