"""Two principals on one place: found before anything is written, over all accounts and without regard to case."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from rekeyd.core.events import Event
from rekeyd.core.model import AccountId, Place, Principal, Selection, UserId
from rekeyd.core.policy import select
from rekeyd.errors import Error, RefusedError, StoppingError
from rekeyd.logs import get_logger
from rekeyd.reconcile.rules import Rules

log = get_logger()


class Places:
    """Which principals' places coincide, over all accounts, without regard to case."""

    def __init__(
        self,
        rules: Rules,
        *,
        list_users: Callable[[AccountId], Sequence[Principal]],
        watched: Callable[[], Collection[AccountId]],
    ) -> None:
        self._rules = rules
        self._list_users = list_users
        self._watched = watched
        self._lock = threading.Lock()
        self._by_account: dict[AccountId, dict[UserId, str]] = {}
        self._owners: dict[str, UserId] = {}
        self._shared: frozenset[str] = frozenset()
        self._published: dict[str, frozenset[AccountId]] = {}
        self._listing = threading.Lock()
        self._failed: set[AccountId] = set()

    def learn_published(self, publications: Mapping[tuple[AccountId, UserId], Place]) -> None:
        """Where pairs of all accounts stand by the journal: also those of accounts that were not scanned yet.

        Told at the beginning of each pass; accounts that could not be listed are then tried again.
        """
        published: dict[str, frozenset[AccountId]] = {}
        for (account_id, _), place in publications.items():
            folded = _folded(place)
            published[folded] = published.get(folded, frozenset()) | {account_id}
        with self._lock:
            self._published = published
            self._failed = set()

    def learn(self, account_id: AccountId, users: Sequence[Principal]) -> None:
        places: dict[UserId, str] = {}
        for user in users:
            if select(self._rules.policies, user).selection is Selection.LEFT:
                continue
            try:
                places[user.user_id] = _folded(self._rules.place_of(user))
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

    def unlisted(self, principal: Principal) -> bool:
        """Whether users of another account could have its place and cannot be listed now.

        Most places name their account, and then nobody is asked. Else an account is listed once, unless its own scan
        did it; what changes there later its own scans find.
        """
        try:
            sharers = self._rules.sharers_of(principal, self._watched)
        except StoppingError:
            raise
        except Error as error:
            log.warning(Event.SHARERS_UNLISTED, error=error.message, hint=error.hint)
            return True
        with self._listing:
            return not all(self._listed(account_id) for account_id in sorted(sharers))

    def _listed(self, account_id: AccountId) -> bool:
        with self._lock:
            if account_id in self._by_account or account_id in self._failed:
                return account_id in self._by_account
        try:
            self.learn(account_id, self._list_users(account_id))
        except StoppingError:
            raise
        except Error as error:
            log.warning(Event.SHARERS_UNLISTED, unlisted=account_id, error=error.message, hint=error.hint)
            with self._lock:
                self._failed.add(account_id)
            return False
        return True

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
