"""Places that pairs were moved away from: reported until nobody finds a pair there."""

from collections.abc import Iterator

from rekeyd.core.events import Event
from rekeyd.core.findings import Finding, FindingReason, found
from rekeyd.core.model import AccountId, VaultHeld, VaultUnreadable
from rekeyd.logs import get_logger
from rekeyd.ports import Clock, Journal, Vault

log = get_logger()


def left_findings(
    vault: Vault, journal: Journal, clock: Clock, account_id: AccountId, *, actor: str
) -> Iterator[Finding]:
    """Looks into each left place of the account; one without a pair is forgotten.

    What cannot be read stays, and so does a place at another address: there a person says that it is emptied.
    """
    for left in journal.left_places(account_id):
        where = f"{left.place.mount}/{left.place.path}"
        seen = vault.current(left.place)
        if not isinstance(seen, VaultHeld | VaultUnreadable):
            journal.left_place_emptied(left, actor=actor, at=clock.now())
            log.info(Event.LEFT_PLACE_EMPTIED, principal=left.user_name, vault_path=left.place.path)
            continue
        what = f"it holds {seen.access_key_id}" if isinstance(seen, VaultHeld) else f"it cannot be read: {seen.detail}"
        yield found(
            FindingReason.LEFT_PLACE_NOT_EMPTIED,
            account_id=account_id,
            principal=left.user_name,
            detail=f"{where} (fields {left.place.id_field}, {left.place.secret_field}): {what}",
        )
