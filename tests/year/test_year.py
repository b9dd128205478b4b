"""A shortened year (`make year` runs whole ones)."""

from datetime import timedelta

from rekeyd import logs
from tests.crash.sabotage import delete_before_proof
from tests.year.simulation import Year


def test_a_quarter_with_a_few_users_breaks_no_promise() -> None:
    logs.configure(level="critical")
    figures = Year(seed=1, users=8, days=90).run()
    assert not figures.violations, "\n".join(figures.violations[:10])
    assert figures.counts["rotations"] > 8
    assert figures.counts["crashes"] > 0
    assert figures.oldest > timedelta(days=20)
    assert figures.oldest_share <= 1


def test_a_year_of_a_daemon_that_deletes_before_the_proof_is_seen_to_break_its_promise() -> None:
    logs.configure(level="critical")
    undo = delete_before_proof()
    try:
        figures = Year(seed=1, users=8, days=45).run()
    finally:
        undo()
    assert any(text.startswith("P3 ") for text in figures.violations)


def test_the_same_seed_gives_the_same_year() -> None:
    logs.configure(level="critical")
    first, second = (Year(seed=7, users=2, days=20).run() for _ in range(2))
    assert (first.steps, first.counts) == (second.steps, second.counts)
