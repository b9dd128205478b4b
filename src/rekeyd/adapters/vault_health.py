"""How a Vault is, by its own word, without a token."""

from dataclasses import dataclass
from datetime import UTC, datetime

from rekeyd.adapters.vault_client import Line
from rekeyd.adapters.vault_settings import VaultSettings
from rekeyd.adapters.vault_wire import Wire
from rekeyd.errors import OutcomeUnknownError, RefusedError, TemporaryError


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultHealth:
    version: str
    initialized: bool
    sealed: bool
    standby: bool
    server_time: datetime | None


def health_of(settings: VaultSettings, wire: Wire) -> VaultHealth:
    """Raises TemporaryError or RefusedError when nobody answers, or something that is no Vault."""
    line = Line(wire, namespace="", token=None, limit=settings.timeout.total_seconds())
    try:
        # All states with a body; else a sealed or uninitialised one is only a number.
        answer = line.get(
            "/v1/sys/health",
            params={"standbyok": "true", "perfstandbyok": "true", "sealedcode": 200, "uninitcode": 200},
        )
    except OutcomeUnknownError as error:
        raise TemporaryError(error.message, hint=error.hint) from error
    body = answer.body or {}
    if not answer.ok or not isinstance(body.get("sealed"), bool):
        raise RefusedError(
            f"what answers at {wire.address} is no Vault ({answer.status})",
            hint="check vault.address and what is before it",
        )
    seconds = body.get("server_time_utc")
    return VaultHealth(
        version=str(body.get("version", "unknown")),
        initialized=bool(body.get("initialized")),
        sealed=bool(body["sealed"]),
        standby=bool(body.get("standby")),
        server_time=datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) else None,
    )
