"""Where consumers read a user's pair, as far as the journal knows: not always where the configuration has it now."""

from dataclasses import dataclass, replace

from rekeyd.core.model import AccessKeyId, Place, Principal, VaultAbsent, VaultHeld
from rekeyd.errors import RefusedError
from rekeyd.ports import Known, Vault
from rekeyd.reconcile.rules import Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    access_key_id: AccessKeyId
    place: Place
    version: int


def whereabouts(
    principal: Principal, known: Known, configured: Place, rules: Rules, vault: Vault
) -> Whereabouts | None:
    """Where its pair was published; or, never published, where Vault held its key when it was last looked at.

    `configured`: where the configuration has it now. None: nowhere that the journal knows of, or it is gone from
    there. Costs a call to Vault only for a pair that was never published, and seen at another place.
    """
    published, anchor = known.facts.publication, known.anchor
    if published is not None:
        return Whereabouts(access_key_id=published.access_key_id, place=published.place, version=published.version)
    if anchor is None or anchor.access_key_id is None:
        return None
    place = anchor.place
    if place is None:
        # Of an older journal: then under the name that the user had.
        try:
            place = rules.place_of(replace(principal, user_name=known.user_name or principal.user_name))
        except RefusedError:
            return None
    stands = Whereabouts(access_key_id=anchor.access_key_id, place=place, version=anchor.version)
    if place == configured or place.address != configured.address:
        return stands  # another Vault cannot be asked
    seen = vault.current(place)
    # Only what is certainly gone from there is: unreadable or deleted may come back (P4).
    if isinstance(seen, VaultAbsent) or (isinstance(seen, VaultHeld) and seen.access_key_id != anchor.access_key_id):
        return None
    return stands
