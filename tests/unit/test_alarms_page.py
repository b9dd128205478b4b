"""docs/alarms.md lists every finding as the code has it."""

from itertools import groupby
from pathlib import Path

from rekeyd.core.findings import FindingReason

PAGE = Path(__file__).parents[2] / "docs" / "alarms.md"
_RANK = ["critical", "high", "medium", "low"]


def rows() -> list[str]:
    """One a finding, the worst first."""
    reasons = sorted(FindingReason, key=lambda each: _RANK.index(each.severity.value))
    return [f"| `{each.value}` | {each.severity.value} | {each.sentence} | {clauses(each.cis)} |" for each in reasons]


def clauses(cis: tuple[str, ...]) -> str:
    """`1.4 (v1.4 to v4.0), 1.3 (v5.0)`."""
    pairs = [clause.split()[1:] for clause in cis]
    # Those of one item of a password policy follow those of another.
    parts = []
    for number, group in groupby(pairs, key=lambda pair: pair[1]):
        versions = [version for version, _ in group]
        span = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
        parts.append(f"{number} ({span})")
    return ", ".join(parts)


def test_every_finding_stands_in_the_table_and_nothing_else() -> None:
    lines = PAGE.read_text().splitlines()
    begin = lines.index("| finding | severity | what | CIS clauses |") + 2
    end = next(number for number, line in enumerate(lines[begin:], begin) if not line)
    assert lines[begin:end] == rows()


def test_clauses_of_one_number_are_one_span() -> None:
    assert clauses(FindingReason.ROOT_ACCESS_KEY.cis) == "1.4 (v1.4 to v4.0), 1.3 (v5.0), 2.3 (v6.0), 2.4 (v7.0)"
