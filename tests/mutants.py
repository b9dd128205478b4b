"""What the last `mutmut run` left alive, held against docs/mutants.md: `python -m tests.mutants`.

Every function with survivors has a row there, with at most so many and the reason. Fails below 95 % killed, and
for every survivor that is not explained. "Killed" counts a mutant that made a test fail or hang; one that no test
reaches is a survivor.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "mutants.md"
LEAST = 0.95

# mutmut's exit codes: 0 the tests passed, 33 no test reaches the line; all others ended the tests.
_ALIVE = (0, 33)


def listed(page: str) -> dict[str, int]:
    """`module.function` to the number of survivors that the page explains."""
    return {name: int(count) for name, count in re.findall(r"^\| `([\w.]+)` \| (\d+) \|", page, re.MULTILINE)}


def function_of(mutant: str) -> str:
    """Of `rekeyd.core.decide.x__unsafe__mutmut_25`: `decide._unsafe`; methods are spelled `xǁSecretǁ__init__`."""
    module, _, name = mutant.rpartition(".")
    plain = re.sub(r"__mutmut_\d+$", "", name)
    plain = plain.removeprefix("xǁ").replace("ǁ", ".") if plain.startswith("xǁ") else plain.removeprefix("x_")
    return f"{module.removeprefix('rekeyd.core.')}.{plain}"


def main(folder: Path = ROOT / "mutants") -> int:
    outcomes: dict[str, int | None] = {}
    for file in sorted((folder / "src" / "rekeyd" / "core").glob("*.meta")):
        outcomes |= json.loads(file.read_text())["exit_code_by_key"]
    untried = [mutant for mutant, code in outcomes.items() if code is None]
    alive = Counter(function_of(mutant) for mutant, code in outcomes.items() if code in _ALIVE)
    killed = len(outcomes) - sum(alive.values()) - len(untried)
    known = listed(PAGE.read_text())
    for function, count in sorted(alive.items()):
        said = known.get(function, 0)
        print(f"{function}: {count} alive, {said} explained{'' if count <= said else '  <-- look at these'}")
    share = killed / len(outcomes) if outcomes else 0.0
    print(f"{killed} of {len(outcomes)} mutants killed ({share:.1%}), {len(untried)} not tried")
    unexplained = any(count > known.get(function, 0) for function, count in alive.items())
    return 1 if unexplained or untried or share < LEAST else 0


if __name__ == "__main__":
    sys.exit(main())
