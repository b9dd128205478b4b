"""A year of policy time over the in-memory world: hundreds of users, people, faults, crashes; repeatable by its seed.

What a call changed is checked against the promises at once, what a pass came to after it, and everything at the end of
each day. Time jumps to the next moment at which rekeyd has something to do; what people do is seen by the daily scan,
in a credential report that is up to four hours old then.
`python -m tests.year` runs several seeds and prints the figures.
"""

import random
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from rekeyd.core.model import AccountId, KeyStatus, Principal, UserId
from rekeyd.core.policy import Adopt, Match, Policy, Repair, StillUsed, lead_time, step_time
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.errors import Error, JournalError, OutcomeUnknownError, StoppingError, TemporaryError
from rekeyd.fleet.account import Worked
from rekeyd.fleet.places import Places
from rekeyd.fleet.scan import Scan, fingerprint, users_to_look_at
from rekeyd.fleet.settings import FleetSettings
from tests.journal_points import is_read
from tests.rig import DAY, Rig, policy
from tests.world import Consumer, Crash, Lags, World
from tests.world.aws import UserState
from tests.world.points import Phase
from tests.year.people import People

HOUR = timedelta(hours=1)
SCAN = DAY
"""How often every account is scanned."""
DRIFT = 12
"""Every so many scans a user is looked at although nothing asks for it."""
BATCH = 3
"""Hours; waits of hours and days end together, so that a pass serves many users. The policies' lead covers more."""
ACCOUNTS = tuple(AccountId(f"{n:012}") for n in (111122223333, 444455556666, 777788889999))
_LEAD = lead_time(
    longest_closed=timedelta(0),
    scan_every=SCAN,
    step=step_time(
        verify_first=timedelta(seconds=3), verify_timeout=timedelta(minutes=2), publish_timeout=timedelta(minutes=10)
    ),
)
# Postponed by something that a person can read: so much longer may a key live (P10).
_READABLE = frozenset(
    {
        Reason.BRAKED,
        Reason.FROZEN,
        Reason.STILL_USED,
        Reason.LAST_USE_UNKNOWN,
        Reason.MARK_OF_ANOTHER_INSTANCE,
    }
)
# Refusals that an outage explains: looked at again soon. The others wait for a person, and for the drift look.
_PASSING = frozenset(
    {Reason.VAULT_UNREADABLE, Reason.PROOF_UNAVAILABLE, Reason.HELD_KEY_NOT_HONOURED, Reason.MARK_NOT_WRITABLE}
)
FAULTS = (
    "failed calls",
    "lost answers",
    "crashes",
    "stops",
    "Vault outages",
    "account outages",
    "STS outages",
    "throttlings",
    "journals lost",
    "journals restored",
)
"""Which counts are faults that were injected."""


def policies() -> list[Policy]:
    quick = policy(
        name="quick",
        match=Match(users=("quick-*",)),
        max_age=40 * DAY,
        overlap=3 * DAY,
        quarantine=4 * DAY,
        adopt=Adopt.AT_ONCE,
        repair=Repair.ISSUE,
        lead=_LEAD,
    )
    strict = policy(
        name="strict",
        match=Match(users=("strict-*",)),
        max_age=60 * DAY,
        still_used=StillUsed.DEACTIVATE,
        max_hold=5 * DAY,
        create=True,
        adopt=Adopt.WHEN_DUE,
        lead=_LEAD,
    )
    return [quick, strict, policy(name="default", max_age=90 * DAY, lead=_LEAD)]


def _next_look(again: datetime, now: datetime) -> datetime:
    """Together with others, and after ten days at the latest."""
    if again - now < HOUR:
        return again
    later = again + BATCH * HOUR
    return min(later.replace(hour=later.hour - later.hour % BATCH, minute=0, second=0, microsecond=0), now + 10 * DAY)


@dataclass(slots=True, kw_only=True)
class HeldUp:
    since: datetime | None = None
    """None: not at present."""
    spent: timedelta = timedelta(0)
    """Before `since`."""
    why: str = ""

    def until(self, now: datetime) -> timedelta:
        return self.spent + (now - self.since if self.since is not None else timedelta(0))


@dataclass(slots=True, kw_only=True)
class Figures:
    seed: int
    users: int
    """At the beginning; people come and go."""
    days: int
    calls: int = 0
    steps: int = 0
    """Looks: each decides, and does what there is to do."""
    passes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    undisturbed: int = 0
    oldest: timedelta = timedelta(0)
    oldest_of: str = ""
    oldest_share: float = 0.0
    """Of its policy's max_age."""
    oldest_report: timedelta = timedelta(0)
    """Of the credential reports by which scans selected."""
    latest_of: str = ""
    """The oldest of a user whose looks failed, or gave a reason that a person can read."""
    latest_share: float = 0.0

    @property
    def faults(self) -> int:
        return sum(self.counts[what] for what in FAULTS)


@dataclass(slots=True, kw_only=True)
class Year:
    seed: int
    users: int
    days: int
    rig: Rig = field(init=False)
    world: World = field(init=False)
    draw: random.Random = field(init=False)
    figures: Figures = field(init=False)
    people: People = field(init=False)
    disturbed: set[UserId] = field(default_factory=set)
    """Whom people interfered with; faults do not count."""
    held_up: dict[UserId, HeldUp] = field(default_factory=dict)
    """Whose looks failed, or gave a reason to wait that a person can read, until they are fresh again."""
    next_at: dict[UserId, datetime] = field(default_factory=dict)
    consumers: dict[UserId, tuple[Consumer, timedelta, datetime]] = field(default_factory=dict)
    places: Places = field(init=False)
    hired: int = 0
    calm: bool = False
    _rows: dict[AccountId, dict[str, tuple[object, ...]]] = field(default_factory=dict)
    """What the last scan's credential report said of each user's keys."""
    _waiting: set[UserId] = field(default_factory=set)
    """Whom the last look left to a person."""
    _backup: sqlite3.Connection | None = None

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)  # noqa: S311 - repeatable, not secret
        lags = Lags(listing=timedelta(seconds=12), listing_flaps=True, last_use=timedelta(minutes=40))
        self.world = World(seed=self.seed, lags=lags, keep_calls=False)
        settings = FleetSettings(max_parallel=1, max_rotations_per_hour=1000, scan_every=HOUR)
        self.rig = Rig(*policies(), world=self.world, settings=settings, journal_points=True)
        cloud = self.world.cloud
        self.places = Places(
            self.rig.reconciler.observer.rules,
            list_users=lambda account_id: cloud.iam(account_id).list_users(),
            watched=lambda: cloud.accounts().watched,
        )
        self.rig.collides = self.places.collides
        self.figures = Figures(seed=self.seed, users=self.users, days=self.days)
        self.people = People(self.rig, self.draw, self.figures.counts, self.disturbed, hire=self._hire)
        for _ in range(self.users):
            self._hire()
        self.world.on_call(self._watch)
        self.world.on_call(self._fail)

    def _hire(self) -> None:
        number = self.hired
        self.hired += 1
        kind = self.draw.choice(("quick", "strict", "plain"))
        held = self.draw.random() < 0.8
        age = self.draw.random() * 30 * DAY if held else self.draw.random() * 200 * DAY
        principal = self.world.user(ACCOUNTS[number % len(ACCOUNTS)], f"{kind}-{number}", age=age, held=held)
        if not held:
            self.disturbed.add(principal.user_id)  # its first key was not rekeyd's to keep young
        if self.draw.random() < 0.1:
            slow = Consumer(self.world, self.world.place(principal.account_id, principal.user_name))
            self.consumers[principal.user_id] = (slow, self.draw.random() * 12 * DAY, self.world.clock.now())
            self.disturbed.add(principal.user_id)

    # --- chance ------------------------------------------------------------------------------------------------------

    def _watch(self, _name: str, phase: Phase, _args: Mapping[str, object]) -> None:
        if phase == "after":
            self.world.check_changed()

    def _fail(self, name: str, phase: Phase, _args: Mapping[str, object]) -> None:
        """About one call in two hundred fails, and one in a thousand is the process's last."""
        if self.calm:
            return
        chance = self.draw.random()
        if chance > 0.006:
            return
        if chance < 0.0008:
            self.figures.counts["crashes"] += 1
            raise Crash(name)
        if phase == "before":
            self.figures.counts["failed calls"] += 1
            raise JournalError("the disk is full") if name.startswith("journal.") else TemporaryError("throttled")
        if not is_read(name):
            self.figures.counts["lost answers"] += 1
            raise JournalError("commit unknown") if name.startswith("journal.") else OutcomeUnknownError("lost")

    def _outages(self) -> None:
        world, draw = self.world, self.draw
        if draw.random() < 0.03:
            world.vault.down = True
            world.clock.after(draw.random() * 10 * HOUR, self._vault_up)
            self.figures.counts["Vault outages"] += 1
        if draw.random() < 0.03:
            account = world.account(draw.choice(ACCOUNTS))
            account.unreachable = True
            world.clock.after(draw.random() * 8 * HOUR, lambda: setattr(account, "unreachable", False))
            self.figures.counts["account outages"] += 1
        if draw.random() < 0.1:
            world.account(draw.choice(ACCOUNTS)).throttled = draw.randint(1, 60)
            self.figures.counts["throttlings"] += 1
        if draw.random() < 0.02:
            world.sts.down = True
            world.clock.after(draw.random() * 6 * HOUR, lambda: setattr(world.sts, "down", False))
            self.figures.counts["STS outages"] += 1
        if draw.random() < 0.05:
            # SIGTERM: the next sleep ends, which may be one in the middle of a step, and another process begins.
            world.clock.after(draw.random() * DAY, world.clock.stop)
            self.figures.counts["stops"] += 1
        if draw.random() < 0.03:
            self.rig.restart()
            self.figures.counts["restarts"] += 1
        if draw.random() < 0.02:
            self._reload()
        if draw.random() < 0.03:
            self._keep_backup()
        if draw.random() < 0.006:
            self._lose_journal()

    def _vault_up(self) -> None:
        self.world.vault.down = False

    def _reload(self) -> None:
        """SIGHUP: another quarantine or overlap, never a longer way to max_age."""
        number = self.draw.randrange(len(self.rig.policies))
        before = self.rig.policies[number]
        # A longer overlap would come too late for keys that are nearly at their age: a person's doing, not rekeyd's.
        shorter = max(2 * DAY, before.overlap - DAY)
        other = self.draw.choice(
            ({"quarantine": self.draw.randint(4, 7) * DAY}, {"overlap": shorter}, {"unused_for": 2 * DAY})
        )
        self.rig.policies[number] = replace(before, **other)  # type: ignore[arg-type]
        self.rig.boot()
        self.figures.counts["reloads"] += 1

    def _keep_backup(self) -> None:
        if self._backup is not None:
            self._backup.close()
        self._backup = self.rig.copy_of_journal()

    def _lose_journal(self) -> None:
        # Without a journal nobody can tell a renamed user from a new one; the old path serves on unseen.
        self.people.undo_renames()
        if self._backup is None or self.draw.random() < 0.5:
            self.rig.lose_journal()
            self.figures.counts["journals lost"] += 1
        else:
            self.rig.restore(self._backup)
            self.figures.counts["journals restored"] += 1
        self.next_at.clear()
        # Rotations in flight are finished more patiently.
        self.disturbed |= {user.user_id for user in self.world.aws.users() if len(user.keys) != 1}

    # --- the daemon --------------------------------------------------------------------------------------------------

    def run(self) -> Figures:
        ends_at = self.world.clock.now() + self.days * DAY
        number = 0
        while self.world.clock.now() < ends_at:
            scan_at = self.world.clock.now() + SCAN
            self._scan(number)
            self._work_until(scan_at)
            self._check()
            self._a_day()
            number += 1
        self.figures.calls = sum(self.world.counts.values())
        self.figures.undisturbed = sum(user.user_id not in self.disturbed for user in self.world.aws.users())
        verdict = self.rig.journal.verify()
        if verdict.broken_at is not None:
            self.figures.violations.append(f"the journal's chain is broken at {verdict.broken_at}")
        return self.figures

    def _scan(self, number: int) -> None:
        """Users never looked at, those that the credential report selects, and some of everybody."""
        now = self.world.clock.now()
        present = {user.user_id for user in self.world.aws.users()}
        self.next_at = {user_id: at for user_id, at in self.next_at.items() if user_id in present}
        for account_id in ACCOUNTS:
            users = tuple(user.principal for user in self.world.account(account_id).users.values())
            self.places.learn(account_id, users)
            self.next_at |= dict.fromkeys(self._selected(account_id, users, now), now)
            # The next scan is given a report of some hours before it.
            made_in = SCAN - self.draw.random() * self.world.lags.report_every
            self.world.clock.after(made_in, partial(self.world.make_report, account_id))
        for index, user in enumerate(self.world.aws.users()):
            if user.user_id not in self.next_at or index % DRIFT == number % DRIFT:
                self.next_at[user.user_id] = now

    def _selected(self, account_id: AccountId, users: tuple[Principal, ...], now: datetime) -> list[UserId]:
        """By the report. Whose time has come, who was asked about and what the journal has open is in `next_at`."""
        try:
            report = self.world.cloud.iam(account_id).credential_report(max_wait=timedelta(minutes=1))
        except (Crash, StoppingError):
            self.rig.restart()
            return []
        except Error:
            self.figures.counts["scans without a report"] += 1
            return []
        chosen = users_to_look_at(
            Scan(account_id=account_id, users=users, report=report, scanned_at=now),
            self.rig.policies,
            statuses={},
            open_users=(),
            asked=(),
            rows_before=self._rows.get(account_id, {}),
            drift=False,
            now=now,
        )
        before = self._rows.get(account_id, {})
        rows = self._rows[account_id] = {arn: fingerprint(row) for arn, row in report.users.items()}
        age = now - report.generated_at
        self.figures.oldest_report = max(self.figures.oldest_report, age)
        # Who waits for a person is due every day, and the daemon looks: for the simulation that costs only time.
        return [
            user.user_id
            for user in chosen.look
            if user.user_id not in self._waiting or rows.get(user.arn) != before.get(user.arn)
        ]

    def _work_until(self, end: datetime) -> None:
        while True:
            now = self.world.clock.now()
            for account_id in ACCOUNTS:
                users = self.world.account(account_id).users.values()
                mine = [user.principal for user in users if self._is_due(user.user_id, now)]
                if mine:
                    self._pass(account_id, mine)
            upcoming = min(self.next_at.values(), default=end)
            now = self.world.clock.now()
            if upcoming >= end or now >= end:
                self.world.clock.advance_to(max(now, end))
                return
            self.world.clock.advance_to(max(upcoming, now + timedelta(seconds=20)))

    def _is_due(self, user_id: UserId, now: datetime) -> bool:
        at = self.next_at.get(user_id)
        return at is not None and at <= now

    def _pass(self, account_id: AccountId, due: list[Principal]) -> None:
        self.figures.passes += 1
        now, began = self.world.clock.now(), self.world.own_clock.now()
        waiting: dict[UserId, datetime] = {}
        try:
            worked = self.rig.work(*(principal.user_name for principal in due), account_id=account_id)
        except (Crash, StoppingError):
            self.rig.restart()
            worked = []
            # As the daemon that starts again: the journal knows who was looked at before it died.
            waiting = {
                status.user_id: status.next_at - self.world.own_clock.offset
                for status in self.rig.journal.statuses(account_id)
                if status.looked_at >= began and status.next_at is not None
            }
        except Error:
            worked = []
        self.figures.steps += len(worked)
        for principal in due:
            # Whom the pass did not come to, since it died or was stopped, is as due as before.
            until = waiting.get(principal.user_id)
            self.next_at[principal.user_id] = now + 2 * HOUR if until is None else _next_look(until, now)
        for one in worked:
            self._note(one, now)
        self.world.check_changed()
        self._collect()

    def _note(self, one: Worked, now: datetime) -> None:
        user_id = one.principal.user_id
        again = self.rig.again_at(one)
        self._waiting.discard(user_id)
        if again is None:
            passing = one.outcome is None or one.outcome.rest.reason in _PASSING
            self.next_at[user_id] = now + (SCAN / 4 if passing else 4 * SCAN)
            if not passing:
                self._waiting.add(user_id)
        else:
            self.next_at[user_id] = _next_look(again, now)
        self.figures.counts["rotations"] += one.published
        self.figures.counts["failed looks"] += one.error is not None
        self._note_delay(one, now)
        if one.gone:
            self.next_at.pop(user_id, None)

    def _note_delay(self, one: Worked, now: datetime) -> None:
        user_id, held_up = one.principal.user_id, self.held_up.get(one.principal.user_id)
        if one.outcome is None or one.outcome.rest.reason in _READABLE | _PASSING:
            why = "a step failed" if one.outcome is None else one.outcome.rest.reason
            held_up = self.held_up.setdefault(user_id, HeldUp())
            held_up.since, held_up.why = held_up.since or now, why
        elif held_up is not None:
            held_up.spent = held_up.until(now)
            held_up.since = None
            if one.outcome.state == State.FRESH:
                del self.held_up[user_id]

    def _check(self) -> None:
        """Everybody, changed or not."""
        try:
            self.world.check_promises()
        except AssertionError as error:
            self.world.violations[:] = str(error).splitlines()[1:]
        self._collect()

    def _collect(self) -> None:
        self.figures.violations += [line for line in self.world.violations if line not in self.figures.violations]
        self.world.violations.clear()

    # --- one day of everybody else -----------------------------------------------------------------------------------

    def _a_day(self) -> None:
        self._consume()
        self._measure()
        self.people.a_day()
        if not self.calm:
            self._outages()
        for account_id in ACCOUNTS:
            for request in self.rig.journal.requests(account_id):
                state = self.world.account(account_id).users.get(request.user_name.casefold())
                if state is not None:
                    self.next_at[state.user_id] = self.world.clock.now()

    def _consume(self) -> None:
        now = self.world.clock.now()
        for user in self.world.aws.users():
            slow = self.consumers.get(user.user_id)
            if slow is not None:
                consumer, patience, read_at = slow
                if now - read_at > patience and consumer.refresh():
                    self.consumers[user.user_id] = (consumer, patience, now)
                consumer.call()
                continue
            works = self.world.vault.down or self.world.consumer(user.account.id, user.name)
            if not works and user.user_id not in self.people.broke and self.world.held_id(user.account.id, user.name):
                self.figures.violations.append(f"P1 {user.account.id}/{user.name} at {now}: a consumer was refused")

    def _measure(self) -> None:
        now = self.world.clock.now()
        for user in self.world.aws.users():
            chosen = self.rig._policy_of(user.principal)
            if user.user_id in self.disturbed or chosen is None:
                continue
            held_up = self.held_up.get(user.user_id)
            for key in user.keys.values():
                if key.status is KeyStatus.ACTIVE:
                    self._measure_key(user, now - key.created_at, chosen.max_age, held_up)

    def _measure_key(self, user: UserState, age: timedelta, max_age: timedelta, held_up: HeldUp | None) -> None:
        figures, share, now = self.figures, age / max_age, self.world.clock.now()
        text = f"{user.name}: {age} of {max_age.days} days, {share:.1%}"
        if held_up is None:
            if share > figures.oldest_share:
                figures.oldest_share, figures.oldest, figures.oldest_of = share, age, text
        elif share > figures.latest_share:
            figures.latest_share, figures.latest_of = share, f"{text}; {held_up.until(now)} for: {held_up.why}"
        if age - (held_up.until(now) if held_up is not None else timedelta(0)) > max_age:
            figures.violations.append(
                f"P10 {user.account.id}/{user.name} at {now}: a key is {age} old without a reason"
            )
