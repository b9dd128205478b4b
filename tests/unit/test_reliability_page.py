"""docs/reliability.md names tests that exist, every promise has some, and its commands are those of the Makefile."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)))


def _tests_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[f"{file}::{test}" for file, test in NAMED])
def test_a_test_that_the_page_names_exists(file: str, test: str) -> None:
    assert test in _tests_of(file)


@pytest.mark.parametrize("number", range(1, 11))
def test_every_promise_names_its_tests(number: int) -> None:
    chapter = re.search(rf"^### P{number}: .*?(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert chapter is not None
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", chapter.group())


def test_every_make_target_of_the_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", PAGE)) <= targets


def test_every_file_and_module_that_the_page_names_exists() -> None:
    for file in re.findall(r"`(tests/[\w/]+\.py)", PAGE):
        assert (ROOT / file).is_file(), file
    for module in re.findall(r"python -m (tests[\w.]+)", PAGE):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for page in re.findall(r"\]\(([\w./-]+\.md)\)", PAGE):
        assert (ROOT / "docs" / page).is_file(), page
