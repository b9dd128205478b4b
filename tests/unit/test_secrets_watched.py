"""What runs without pytest is searched for secrets too: `tests.secret_registry.watched`."""

import os
from pathlib import Path

import pytest

from tests import secret_registry
from tests.secret_registry import remember, watched, write_secret

_SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYzEXAMPLEKEYabc"


def test_a_secret_that_is_left_in_a_file_is_found(tmp_path: Path) -> None:
    with watched(tmp_path) as leaks:
        write_secret(tmp_path / "token", _SECRET)
        (tmp_path / "printed").mkdir()
        (tmp_path / "printed" / "0.err").write_text(f"line\n{remember(_SECRET)}\n")
    assert {leak.place for leak in leaks} == {str(tmp_path / "printed" / "0.err")}
    assert _SECRET not in str(leaks)


def test_a_watch_forgets_its_secrets_and_leaves_the_one_around_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secret_registry.VARIABLE, str(tmp_path / "registry"))
    with watched(tmp_path) as leaks:
        remember(_SECRET)
        assert secret_registry.recorded("secret") == {_SECRET}
    assert leaks == []
    assert os.environ[secret_registry.VARIABLE] == str(tmp_path / "registry")
    assert secret_registry.recorded("secret") == set()
