"""Secrets cannot be seen: the type, the tracebacks, the places in the code that may look, the suite's own search."""

import ast
import base64
import copy
import pickle
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from rekeyd.core.secret import MASK, Secret
from tests.secret_registry import Scanner

SOURCE = Path(__file__).parents[2] / "src" / "rekeyd"
VALUE = "kX9/vQ2mPz+L7rTn4WcYb8sDh1Ja6GfEoU3iK5xN"


@dataclass(frozen=True, slots=True)
class Holder:
    secret: Secret


def test_a_secret_shows_only_that_it_is_one() -> None:
    secret = Secret(VALUE)
    shown = [repr(secret), str(secret), repr([secret]), repr({"a": secret}), "%s %r" % (secret, secret)]  # noqa: UP031
    shown.append(repr(Holder(secret)))
    assert all(MASK in text and VALUE not in text for text in shown)


def test_a_secret_gives_its_value_when_asked() -> None:
    assert Secret(VALUE).reveal() == VALUE


def test_a_secret_refuses_to_be_part_of_a_message() -> None:
    with pytest.raises(TypeError, match="cannot be formatted"):
        f"{Secret(VALUE)}"
    with pytest.raises(TypeError, match="cannot be formatted"):
        "{}".format(Secret(VALUE))  # noqa: UP032


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_secret_refuses_to_be_copied(copying: object) -> None:
    assert callable(copying)
    with pytest.raises(TypeError, match="cannot be copied"):
        copying(Secret(VALUE))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_refuses_to_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Holder(Secret(VALUE)), protocol)


def test_a_secret_cannot_be_changed_or_hashed() -> None:
    secret = Secret(VALUE)
    with pytest.raises(AttributeError, match="cannot be changed"):
        secret._value = "other"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del secret._value
    with pytest.raises(TypeError, match="unhashable"):
        hash(secret)


def test_secrets_are_equal_when_their_values_are() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE.swapcase())
    assert Secret("schlüssel") == Secret("schlüssel")
    assert Secret(VALUE) != VALUE


@pytest.mark.parametrize(("value", "error"), [("", ValueError), (b"bytes", TypeError), (None, TypeError)])
def test_what_is_no_secret_is_refused_without_naming_it(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="a Secret") as raised:
        Secret(value)  # type: ignore[arg-type]
    assert "bytes" not in str(raised.value)


def test_a_traceback_with_locals_still_shows_no_secret() -> None:
    def fail(secret: Secret) -> None:
        assert secret.reveal()
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost") as raised:
        fail(Secret(VALUE))
    text = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
    assert "secret = " + MASK in text
    assert VALUE not in text


def test_an_uncaught_error_prints_no_secret() -> None:
    program = f"from rekeyd.core.secret import Secret\nimport sys\nheld = Secret(sys.stdin.read())\nheld + '{MASK}'"
    done = subprocess.run([sys.executable, "-c", program], input=VALUE, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "TypeError" in done.stderr
    assert VALUE not in done.stdout + done.stderr


def test_only_adapters_and_the_demo_look_at_secrets() -> None:
    """`.reveal()` stands where a secret is handed to AWS or Vault, or to a consumer of the demo, and nowhere else."""
    seen = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "reveal":
                seen.add(file.relative_to(SOURCE).as_posix())
    allowed = ("adapters/", "demo/", "core/secret.py")
    assert "core/secret.py" in seen  # the search itself works
    assert [file for file in sorted(seen) if not file.startswith(allowed)] == []


@pytest.mark.parametrize(
    "written",
    {
        "as it is": VALUE,
        "in a sentence": f"the key is {VALUE}.",
        "URL-encoded": quote(VALUE, safe=""),
        "in base64": base64.b64encode(VALUE.encode()).decode(),
        "in base64, one byte behind": base64.b64encode(b":" + VALUE.encode()).decode(),
        "in base64, two bytes behind": base64.b64encode(b"u:" + VALUE.encode() + b"@host").decode(),
        "in base64 for URLs": base64.urlsafe_b64encode(b"u:" + VALUE.encode()).decode(),
        "in hexadecimal": VALUE.encode().hex(),
    }.items(),
    ids=lambda case: case[0],
)
def test_the_search_finds_a_secret(written: tuple[str, str], tmp_path: Path) -> None:
    # The folder is searched after the session too: the file must be gone by then.
    file = tmp_path / "log"
    file.write_text("2026-11-23 " + written[1] + "\n")
    leaks = Scanner([VALUE]).search_below(tmp_path)
    file.unlink()
    assert len(leaks) == 1
    assert VALUE not in str(leaks)


def test_the_search_passes_over_what_is_allowed_and_what_is_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(VALUE)
    (tmp_path / "log").write_text("arn:aws:iam::111122223333:user/service/" + VALUE[:20])
    leaks = Scanner([VALUE]).search_below(tmp_path, [str(file)])
    file.unlink()
    assert leaks == set()
