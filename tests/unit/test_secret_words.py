"""What a Secret says when it refuses: whole, and without its value. Each door of pickle is shut by itself."""

import copy
import pickle
from collections.abc import Callable

import pytest

from rekeyd.core.secret import Secret

MADE = Secret("zQ8/mK2vXp+R5tLn7WcYd9sBh3Ja1GfEoU6iT4xN")


def _made_of(value: object) -> Secret:
    return Secret(value)  # type: ignore[arg-type]


REFUSALS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "made of bytes": (lambda: _made_of(b"x"), TypeError, "a Secret is made from a string"),
    "made of nothing": (lambda: _made_of(""), ValueError, "a Secret cannot be empty"),
    "formatted": (
        lambda: format(MADE),
        TypeError,
        "a Secret cannot be formatted; it has no place in a message",
    ),
    "changed": (lambda: setattr(MADE, "_value", "x"), AttributeError, "a Secret cannot be changed"),
    "emptied": (lambda: delattr(MADE, "_value"), AttributeError, "a Secret cannot be changed"),
    "copied": (lambda: copy.copy(MADE), TypeError, "a Secret cannot be copied"),
    "copied deeply": (lambda: copy.deepcopy(MADE), TypeError, "a Secret cannot be copied"),
    "pickled": (lambda: pickle.dumps(MADE), TypeError, "a Secret cannot be pickled"),
    "reduced": (MADE.__reduce__, TypeError, "a Secret cannot be pickled"),
    "reduced for a protocol": (lambda: MADE.__reduce_ex__(4), TypeError, "a Secret cannot be pickled"),
    "asked for its state": (MADE.__getstate__, TypeError, "a Secret cannot be pickled"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_secret_refuses_to_be(case: str) -> None:
    doing, error, message = REFUSALS[case]
    with pytest.raises(error, match=f"^{message}$"):
        doing()
