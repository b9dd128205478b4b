"""A value that must never be seen: a secret access key, a Vault token, a secret_id.

It prints as ``Secret(…)`` whichever way it is asked to print, cannot be pickled
or copied, and compares in constant time. ``.reveal()`` is the only way to the
value; the adapters that hand it to AWS or to Vault call it, and nothing else.
"""

from __future__ import annotations

import hmac
from typing import Never, SupportsIndex, final

MASK = "Secret(…)"


@final
class Secret:
    """One secret string; empty ones are refused, since they are always a mistake."""

    __slots__ = ("_value",)

    _value: str

    def __init__(self, value: str) -> None:
        """Raises `TypeError` if the value is no string, `ValueError` if it is empty; neither names the value."""
        if not isinstance(value, str):
            raise TypeError("a Secret is made from a string")
        if not value:
            raise ValueError("a Secret cannot be empty")
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """The value itself. Never log it, put it in a message, or keep it."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> Never:
        # An f-string around a secret is a message about to be written: stop there.
        raise TypeError("a Secret cannot be formatted; it has no place in a message")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    # A hash would be a value derived from the secret, fit for a dictionary that outlives the step.
    __hash__ = None  # type: ignore[assignment]

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError("a Secret cannot be changed")

    def __copy__(self) -> Never:
        raise TypeError("a Secret cannot be copied")

    def __deepcopy__(self, memo: object) -> Never:
        raise TypeError("a Secret cannot be copied")

    def __reduce__(self) -> Never:
        raise TypeError("a Secret cannot be pickled")

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        raise TypeError("a Secret cannot be pickled")

    def __getstate__(self) -> Never:
        raise TypeError("a Secret cannot be pickled")
