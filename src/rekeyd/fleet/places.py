"""Two principals on one place: found before anything is written, over all accounts and without regard to case."""

import threading
from collections.abc import Mapping, Sequence

from rekeyd.core.model import AccountId, Place, Principal, Selection, UserId
from rekeyd.core.policy import select
from rekeyd.errors import RefusedError
from rekeyd.reconcile.rules import PlaceOf, Rules


class Places:
    """Which principals' places coincide, over all accounts, without regard to case."""

    def __init__(self, place_of: PlaceOf) -> None:
        self._place_of = place_of
        self._lock = threading.Lock()
        self._by_account: dict[AccountId, dict[UserId, str]] = {}
        self._owners: dict[str, UserId] = {}
        self._shared: frozenset[str] = frozenset()
        self._published: dict[str, frozenset[AccountId]] = {}

    def learn_published(self, publications: Mapping[tuple[AccountId, UserId], Place]) -> None:
        """Where pairs of all accounts stand by the journal: also those of accounts that were not scanned yet."""
        published: dict[str, frozenset[AccountId]] = {}
        for (account_id, _), place in publications.items():
            folded = _folded(place)
            published[folded] = published.get(folded, frozenset()) | {account_id}
        with self._lock:
            self._published = published

    def learn(self, account_id: AccountId, rules: Rules, users: Sequence[Principal]) -> None:
        places: dict[UserId, str] = {}
        for user in users:
            if select(rules.policies, user).selection is Selection.LEFT:
                continue
            try:
                places[user.user_id] = _folded(self._place_of(user))
            except RefusedError:
                continue  # the look reports it
        with self._lock:
            self._by_account[account_id] = places
            owners: dict[str, UserId] = {}
            shared: set[str] = set()
            for one in self._by_account.values():
                for user_id, place in one.items():
                    if owners.setdefault(place, user_id) != user_id:
                        shared.add(place)
            self._owners, self._shared = owners, frozenset(shared)

    def collides(self, principal: Principal, place: Place) -> bool:
        """Whether another managed principal, of any account scanned so far or with a pair there, has the same place.

        Within an account only the scan counts: a user made anew has the place of the one before.
        """
        folded = _folded(place)
        if self._published.get(folded, frozenset()) - {principal.account_id}:
            return True
        return folded in self._shared or self._owners.get(folded, principal.user_id) != principal.user_id


def _folded(place: Place) -> str:
    return "\0".join((place.address, place.namespace, place.mount, place.path)).casefold()
