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


def whereabouts(principal: Principal, known: Known, rules: Rules, vault: Vault) -> Whereabouts | None:
    """Where its pair was published; or, never published and renamed, where Vault held its key under its former name.

    None: nowhere that the journal knows of. Only the second kind costs a call to Vault.
    """
    published, anchor, name = known.facts.publication, known.anchor, known.user_name
    if published is not None:
        return Whereabouts(access_key_id=published.access_key_id, place=published.place, version=published.version)
    if anchor is None or anchor.access_key_id is None or name is None or name == principal.user_name:
        return None
    try:
        place = rules.place_of(replace(principal, user_name=name))
    except RefusedError:
        return None
    seen = vault.current(place)
    # Only what is certainly gone from there is: unreadable or deleted may come back (P4).
    if isinstance(seen, VaultAbsent) or (isinstance(seen, VaultHeld) and seen.access_key_id != anchor.access_key_id):
        return None
    return Whereabouts(access_key_id=anchor.access_key_id, place=place, version=anchor.version)
