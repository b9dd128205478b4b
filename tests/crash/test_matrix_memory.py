"""kill -9 in memory: after the changes of a whole life, and a seeded sample of everything (`make crash` runs all)."""

import random

import pytest

from rekeyd import logs
from tests.crash import answers, matrix, mishaps
from tests.crash.cycles import BY_NAME, CYCLES, Cycle
from tests.crash.matrix import after_changes, pairs, record
from tests.crash.mishaps import Mishap

SEED = 20261123
MOMENTS = 3
PAIRS = 1
FAILURES = 3
MISHAPS = 1


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logs.configure(level="critical")


def test_dying_after_any_change_of_a_rotation_loses_nothing() -> None:
    cycle = BY_NAME["rotate"]
    wrong = [f"{moment}: {text}" for moment in after_changes(record(cycle)) for text in matrix.run(cycle, moment).wrong]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.name)
def test_dying_at_sampled_moments_loses_nothing(cycle: Cycle) -> None:
    draw = random.Random(f"{SEED}/{cycle.name}")  # noqa: S311 - repeatable, not secret
    moments = record(cycle)
    changes = after_changes(moments)
    single = [(moment,) for moment in [*draw.sample(changes, MOMENTS - 1), draw.choice(moments)]]
    runs = [matrix.run(cycle, *chosen) for chosen in [*single, *pairs(cycle, moments, PAIRS, SEED)]]
    wrong = [f"{[str(m) for m in ran.moments]}: {text}" for ran in runs for text in ran.wrong]
    assert not wrong, "\n".join(wrong)
    assert all(ran.struck for ran in runs)


@pytest.mark.parametrize("mishap", Mishap)
@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.name)
def test_without_its_journal_or_its_lease_a_life_breaks_no_promise(cycle: Cycle, mishap: Mishap) -> None:
    sample = mishaps.chosen(cycle, mishap, record(cycle), MISHAPS, SEED)
    draw = random.Random(f"{SEED}/{mishap}")  # noqa: S311 - repeatable, not secret
    for moment in draw.sample(sample, MISHAPS):
        ended = mishaps.run(cycle, mishap, moment)
        assert not ended.wrong, f"{ended}: {ended.wrong}"
        assert ended.struck


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.name)
def test_sampled_failures_of_calls_break_no_promise(cycle: Cycle) -> None:
    draw = random.Random(f"{SEED}/{cycle.name}")  # noqa: S311 - repeatable, not secret
    wrong = [
        f"{case}: {text}" for case in draw.sample(list(answers.cases(cycle)), FAILURES) for text in answers.run(case)[0]
    ]
    assert not wrong, "\n".join(wrong)
