"""An authenticated call, as every emulated service takes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rekeyd.demo.emulator.wire import AwsError
from rekeyd.demo.emulator.world import Caller

Result = Mapping[str, object] | None
"""The members of the answer; None: an empty one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall:
    service: str
    action: str
    params: Mapping[str, Any]
    caller: Caller
    region: str
    user_agent: str

    def text(self, name: str) -> str:
        """A required parameter."""
        value = self.params.get(name)
        if not isinstance(value, str) or not value:
            raise AwsError("ValidationError", f"1 validation error detected: {name} must not be null")
        return value


def aware(at: datetime) -> datetime:
    """moto keeps naive UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
