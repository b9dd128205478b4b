"""Keys in wrong hands that are replaced without waiting for a person, where the policy says `on_exposed = "rotate"`.

* A person's word names the key, and so does AWS Health. AWS's quarantine policy names only the user: every Active key
  that is older than its alarm is meant, marked once for this attachment; a key made afterwards is not.
* The replacement is the emergency of `rotate-now --emergency`, asked for in the journal once for each exposed key.
  After a refusal, which the alarm shows, it is asked for again an hour later.
* Only pairs that Vault holds are replaced: where it holds none, consumers have the key from elsewhere, and only a
  person knows from where. In observe mode nothing is asked for.
* The quarantine policy denies the user much, and not sts:GetCallerIdentity, which no policy can: proofs go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rekeyd.core.events import Event
from rekeyd.core.findings import AccountSeen, FindingReason
from rekeyd.core.model import AccountId, KeyStatus
from rekeyd.core.policy import OnExposed, Policy
from rekeyd.errors import Error, StoppingError
from rekeyd.logs import get_logger
from rekeyd.ports import Clock, ExposedKey, Iam, Journal, PrincipalStatus

log = get_logger()

ASK_AGAIN_AFTER = timedelta(hours=1)
"""A refusal mostly needs a person; asking more often would only fill the journal."""

ACTOR = "daemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposures:
    journal: Journal
    clock: Clock
    policies: Sequence[Policy]
    observing: bool

    def answer(self, iam: Iam, seen: AccountSeen) -> None:
        """After a look at the account: mark what AWS says, and ask for what is to be replaced.

        Raises JournalError and StoppingError; a user whose keys cannot be listed is tried again at the next look.
        """
        if not self.observing:
            self._mark(iam, seen)
            self._mark_noticed(seen)
        self.ask(iam.account_id)

    def ask(self, account_id: AccountId) -> None:
        """Ask for the replacement of every marked key that a policy wants replaced. Reads and writes the journal only.

        Any process may do it at any time.
        """
        if self.observing:
            return
        exposed_keys = self.journal.exposed_keys(account_id)
        if not exposed_keys:
            return
        rotated = self._rotated(account_id)
        for exposed in exposed_keys:
            status = rotated.get(exposed.user_name.casefold())
            if status is None or exposed.key_id not in (status.held_access_key_id, status.old_access_key_id):
                continue
            self.journal.ask_for_exposed(exposed, by=ACTOR, at=self.clock.now(), again_after=ASK_AGAIN_AFTER)

    def _mark(self, iam: Iam, seen: AccountSeen) -> None:
        quarantined = [user for user in (seen.rights or {}).values() if user.quarantined_by is not None]
        if not quarantined or seen.rights_unreadable is not None:
            return
        rotated = self._rotated(seen.account_id)
        raised = {
            alarm.principal: alarm.first_seen_at
            for alarm in self.journal.alarms()
            if alarm.reason == FindingReason.USER_COMPROMISED and alarm.account_id == seen.account_id
        }
        marked = self.journal.exposed_keys(seen.account_id, open_only=False)
        for user in quarantined:
            status, since = rotated.get(user.user_name.casefold()), raised.get(user.user_name)
            if status is None or since is None:
                continue
            if any(_speaks_of(each, status) and (each.over_at is None or each.told_at >= since) for each in marked):
                continue
            try:
                keys = iam.list_access_keys(user.user_name)
            except StoppingError:
                raise
            except Error as error:  # the next look tries it again; other users go on
                log.error(Event.PRINCIPAL_FAILED, principal=user.user_name, error=error.message)
                continue
            for key in keys:
                # IAM's dates are whole seconds.
                if key.status is KeyStatus.ACTIVE and key.created_at < since.replace(microsecond=0):
                    exposed = ExposedKey(
                        key_id=key.id,
                        account_id=seen.account_id,
                        user_name=user.user_name,
                        told_by=ACTOR,
                        told_at=self.clock.now(),
                        because=f"{user.quarantined_by} is attached",
                    )
                    self.journal.tell_exposed_once(exposed, since=since)

    def _mark_noticed(self, seen: AccountSeen) -> None:
        """Once for each notice; one that could not be read again is marked already."""
        if not seen.notices:
            return
        rotated = self._rotated(seen.account_id)
        for notice in seen.notices:
            if notice.user_name is None or notice.user_name.casefold() not in rotated:
                continue
            for key_id in notice.key_ids:
                exposed = ExposedKey(
                    key_id=key_id,
                    account_id=seen.account_id,
                    user_name=notice.user_name,
                    told_by=ACTOR,
                    told_at=self.clock.now(),
                    because=f"AWS Health has {notice.code}",
                )
                self.journal.tell_exposed_once(exposed, since=notice.since)

    def _rotated(self, account_id: AccountId) -> Mapping[str, PrincipalStatus]:
        """Users whose held key is to be replaced when it is exposed, by folded name, as their last look left them."""
        names = {policy.name for policy in self.policies if policy.on_exposed is OnExposed.ROTATE}
        return {
            status.user_name.casefold(): status
            for status in self.journal.statuses(account_id)
            if status.policy in names and status.held_access_key_id is not None
        }


def _speaks_of(exposed: ExposedKey, status: PrincipalStatus) -> bool:
    """Told by AWS of this user, or by a person of the key that Vault holds."""
    if exposed.user_name.casefold() != status.user_name.casefold():
        return False
    return exposed.told_by == ACTOR or exposed.key_id == status.held_access_key_id
