"""What people do to users, keys and secrets in the course of a year, and how they mend what they broke."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from rekeyd.core.model import AccessKeyId, KeyStatus, Place, UserId
from rekeyd.core.reasons import Reason
from rekeyd.errors import Error
from tests.rig import DAY, Rig, asked
from tests.world import World
from tests.world.aws import UserState

# A day of one user: what somebody does, and how likely.
_ACTS = (
    ("make a key", 0.0024),
    ("deactivate the held key", 0.0008),
    ("delete the held key", 0.0008),
    ("reactivate a key", 0.008),
    ("deactivate another key", 0.004),
    ("edit another field", 0.02),
    ("soft-delete the secret", 0.0006),
    ("make the user anew", 0.0008),
    ("rename the user", 0.0006),
    ("leave", 0.0004),
    ("ask for a rotation", 0.006),
    ("ask for an emergency", 0.002),
    ("ask for a rollback", 0.002),
)
SEEN_WITHIN = 3 * DAY
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
PATIENCE = 5 * DAY
"""So long a refusal stands before somebody mends it."""


class People:
    def __init__(
        self,
        rig: Rig,
        draw: random.Random,
        counts: Counter[str],
        disturbed: set[UserId],
        *,
        hire: Callable[[], None],
    ) -> None:
        self.rig = rig
        self.world: World = rig.world
        self.broke: set[UserId] = set()
        """Whose consumers people broke themselves."""
        self._draw = draw
        self._woken: dict[AccessKeyId, datetime] = {}
        self._counts = counts
        self._disturbed = disturbed
        self._hire = hire

    def a_day(self) -> None:
        for user in list(self.world.aws.users()):
            if int(user.name.split("-")[1]) % 2:
                continue  # every other user is left alone, so that somebody is undisturbed for the whole year
            for act, chance in _ACTS:
                if self._draw.random() < chance:
                    self._do(act, user)
                    break
        for status in self.rig.journal.statuses():
            state = self.world.account(status.account_id).users.get(status.user_name.casefold())
            if state is not None and state.user_id == status.user_id and self._draw.random() < 0.15:
                self._mend(state, status.reason)
        self._withdraw()

    def _do(self, act: str, user: UserState) -> None:
        if act != "edit another field":
            self._disturbed.add(user.user_id)
        try:
            self._act(act, user)
        except Error:
            return  # IAM or Vault did not let them
        self._counts["acts of people"] += 1

    def _act(self, act: str, user: UserState) -> None:
        operators, account_id, place = self.world.operators, user.account.id, self._place(user)
        held = self.world.held_id(account_id, user.name)
        others = [key for key in user.keys.values() if key.id != held]
        match act:
            case "make a key":
                operators.create_key(account_id, user.name)
            case "deactivate the held key" if held in user.keys:
                self.broke.add(user.user_id)
                operators.deactivate(held)
            case "delete the held key" if held in user.keys:
                self.broke.add(user.user_id)
                operators.delete_key(held)
            case "reactivate a key" if others:
                self._woken[others[0].id] = self.world.clock.now()
                operators.reactivate(others[0].id)
            case "deactivate another key" if others:
                if self.world.clock.now() - self._woken.get(others[0].id, _LONG_AGO) < SEEN_WITHIN:
                    return  # back before the daily scan could see it, which stands for an hourly one
                if held is None:
                    # Of a soft-deleted secret, which somebody may restore: this may be the key that it names.
                    self.broke.add(user.user_id)
                operators.deactivate(others[0].id)
            case "edit another field":
                if self.world.vault.state.served(place) is not None:
                    operators.edit_field(place, "note", str(self._draw.random()))
            case "soft-delete the secret":
                operators.soft_delete(place)
            case "make the user anew":
                self._anew(user)
            case "leave":
                operators.delete_user(account_id, user.name)
                if self._draw.random() < 0.5:
                    operators.delete_metadata(place)
                self._counts["users who left"] += 1
                self._hire()
                self._counts["users who came"] += 1
            case "rename the user":
                operators.rename_user(account_id, user.name, f"{user.name}-x")
            case "ask for a rotation":
                self._ask(user)
            case "ask for an emergency":
                for key in others:
                    self.world.waive_quarantine(key.id)
                self._ask(user, emergency=True)
            case "ask for a rollback":
                self._ask(user, rollback=True)
            case _:
                pass

    def _ask(self, user: UserState, **what: object) -> None:
        self.rig.journal.ask(user.account.id, user.name, asked(at=self.world.clock.now(), **what))
        self._counts["requests"] += 1

    def _anew(self, user: UserState) -> None:
        """Off-boarded with its secret, and hired again under the old name."""
        self.world.operators.delete_metadata(self._place(user))
        again = self.world.operators.recreate_user(user.account.id, user.name)
        self.world.manage(again)
        pair = self.world.operators.create_key(again.account_id, again.user_name)
        self._disturbed.add(again.user_id)
        if self._draw.random() < 0.5:
            self.world.operators.write_pair(self.world.place_of(again), pair)

    def _mend(self, user: UserState, reason: Reason) -> None:
        """As the finding's remedy says."""
        account_id, operators = user.account.id, self.world.operators
        try:
            if user.name.endswith("-x"):
                operators.rename_user(account_id, user.name, user.name.partition("-x")[0])
                return
            match reason:
                case Reason.STRAY_KEY:
                    self._remove_stray(user)
                case Reason.HELD_KEY_DEAD | Reason.HELD_KEY_NOT_HONOURED | Reason.FOREIGN_KEY_IN_VAULT:
                    self._by_hand(user)
                case Reason.VAULT_DELETED:
                    operators.undelete(self._place(user))
                    self._ask(user)
                case Reason.UNMANAGED | Reason.TWO_KEYS_UNMANAGED | Reason.USER_RECREATED | Reason.RESTORED_BY_ROLLBACK:
                    self._ask(user)
                case Reason.MARK_OF_ANOTHER_INSTANCE:
                    # A journal of before the last loss was restored. Once is enough, however many users it refused: a
                    # mark that is deleted again restarts everybody's clocks again.
                    mark = self.world.vault.mark
                    if mark is None or mark.incarnation == self.rig.journal.head().incarnation:
                        return
                    self.world.vault.mark = None
                case Reason.REACTIVATED | Reason.USED_IN_QUARANTINE:
                    self._deactivate_others(user)
                case _:
                    return
        except Error:
            return
        self._disturbed.add(user.user_id)
        self._counts["mended by people"] += 1

    def _remove_stray(self, user: UserState) -> None:
        held = self.world.held_id(user.account.id, user.name)
        strays = [key for key in user.keys.values() if key.id != held]
        if not strays:
            return
        if self._draw.random() < 0.5:
            self.world.operators.delete_key(strays[0].id)
        else:
            self.world.allow(strays[0].id)
            self._ask(user, replace=strays[0].id)

    def _deactivate_others(self, user: UserState) -> None:
        held = self.world.held_id(user.account.id, user.name)
        for key in list(user.keys.values()):
            if key.id != held and key.status is KeyStatus.ACTIVE:
                self.world.operators.deactivate(key.id)

    def _by_hand(self, user: UserState) -> None:
        """A person makes a new key and writes it to Vault."""
        self.broke.add(user.user_id)
        for key in list(user.keys.values()):
            self.world.operators.delete_key(key.id)
        pair = self.world.operators.create_key(user.account.id, user.name)
        self.world.operators.write_pair(self._place(user), pair)

    def undo_renames(self) -> None:
        for user in list(self.world.aws.users()):
            if user.name.endswith("-x"):
                self.world.operators.rename_user(user.account.id, user.name, user.name.partition("-x")[0])

    def _withdraw(self) -> None:
        now = self.world.clock.now()
        for request in self.rig.journal.requests():
            if now - request.asked.at > 2 * PATIENCE:
                self.rig.journal.withdraw(request.id, at=now)

    def _place(self, user: UserState) -> Place:
        return self.world.place(user.account.id, user.name)
