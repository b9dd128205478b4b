"""CONTRIBUTING, SECURITY and deploy/README: what they name exists, and their figures are the tests' own."""

import re
from pathlib import Path

import pytest

from tests.unit.test_daemon_unit import MOST_EXPOSED
from tests.unit.test_deploy_kubernetes import VERSIONS

ROOT = Path(__file__).parents[2]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "deploy/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_something(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if not (folder / link).exists()] == []


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text())}
    assert len(named) > 5
    assert named - targets == set()


def test_every_folder_of_tests_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[a-z]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_dir()] == []


def test_every_file_of_rights_is_explained() -> None:
    page = (ROOT / "deploy" / "README.md").read_text()
    named = set(re.findall(r"`((?:aws|vault)/[^`]+)`", page))
    files = [path for kind in ("aws", "vault") for path in (ROOT / "deploy" / kind).iterdir()]
    rights = {f"{path.parent.name}/{path.name}" for path in files if path.suffix in {".json", ".hcl"}}
    assert {re.sub(r"account-\d+", "account-…", name) for name in rights} - named == set()
    assert [name for name in named if not list((ROOT / "deploy").glob(name.replace("…", "*")))] == []


def test_the_figures_are_those_of_the_tests() -> None:
    page = " ".join((ROOT / "deploy" / "README.md").read_text().split())
    assert f"rates its exposure at most {MOST_EXPOSED / 10}" in page
    assert f"schemas of {VERSIONS[0]} to {VERSIONS[-1]} strictly" in page
