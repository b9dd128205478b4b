"""Who plays in the demo: users in every state that DESIGN's table knows, and what must become of each."""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from rekeyd.core.reasons import Reason
from rekeyd.core.state import State

# The account of rekeyd's own credentials, and one that it reaches by a role.
HOME = "111122223333"
AWAY = "444455556666"

_DAY = timedelta(days=1)


class Start(Enum):
    """How the user is found."""

    HELD = auto()
    """One key, and Vault serves it."""
    NOT_IN_VAULT = auto()
    NO_KEY = auto()
    STRAY = auto()
    """Held, and a second key that nobody explains."""
    DEAD = auto()
    """Vault serves a key that another hand deactivated."""
    SECRET_DELETED = auto()
    """Soft-deleted in Vault."""


class End(Enum):
    """What must have become of the keys."""

    ROTATED = auto()
    """One new key, in Vault; the old one is deleted."""
    UNTOUCHED = auto()
    BOTH_ACTIVE = auto()
    """A new key in Vault, and the old one waits for its last user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    name: str
    part: str
    """For the reader: what is the matter with this user."""
    account_id: str = HOME
    start: Start = Start.HELD
    key_age: timedelta = 120 * _DAY
    end: End = End.ROTATED
    state: State | None = State.FRESH
    """What `rekeyd status` must say in the end; None: it does not know this user."""
    reason: Reason | None = Reason.NOT_DUE
    tag: str = "managed"
    consumed: bool = True
    """Whether a program reads this user's pair from Vault and must never fail."""

    @property
    def vault_path(self) -> str:
        return f"aws/{self.account_id}/{self.name}"

    @property
    def rotates(self) -> bool:
        return self.end is not End.UNTOUCHED


CRASHED = Actor(name="backup", part="a rotate-now is killed between AWS and Vault: its key is an orphan")
ASKED = Actor(name="mailer", part="not in Vault; a person asks for the adoption", start=Start.NOT_IN_VAULT)
HACKED = Actor(name="metrics-push", part="young, but leaked: emergency", account_id=AWAY, key_age=10 * _DAY)
COPIED = Actor(
    name="nightly-batch",
    part="due; a job has copied the old key and goes on using it",
    end=End.BOTH_ACTIVE,
    state=State.ON_HOLD,
    reason=Reason.STILL_USED,
)
STRAY = Actor(
    name="partner-api",
    part="due, with a second key that nobody explains",
    start=Start.STRAY,
    end=End.UNTOUCHED,
    state=State.REFUSED,
    reason=Reason.STRAY_KEY,
)
DEAD = Actor(
    name="image-resize",
    part="Vault serves a key that somebody deactivated",
    account_id=AWAY,
    start=Start.DEAD,
    end=End.UNTOUCHED,
    state=State.REFUSED,
    reason=Reason.HELD_KEY_DEAD,
    consumed=False,
)

CAST: tuple[Actor, ...] = (
    Actor(name="ci-deploy", part="due"),
    Actor(name="billing-export", part="due"),
    Actor(name="search-index", part="due, in the account behind the role", account_id=AWAY),
    Actor(name="web-frontend", part="young", key_age=3 * _DAY, end=End.UNTOUCHED),
    Actor(name="data-sync", part="not in Vault; its policy adopts at once", start=Start.NOT_IN_VAULT, tag="at-once"),
    CRASHED,
    ASKED,
    HACKED,
    COPIED,
    STRAY,
    Actor(
        name="legacy-report",
        part="not in Vault; nobody has asked",
        start=Start.NOT_IN_VAULT,
        end=End.UNTOUCHED,
        state=State.UNMANAGED,
        reason=Reason.UNMANAGED,
        consumed=False,
    ),
    DEAD,
    Actor(
        name="chat-bot",
        part="due; its secret was deleted in Vault",
        account_id=AWAY,
        start=Start.SECRET_DELETED,
        end=End.UNTOUCHED,
        state=State.REFUSED,
        reason=Reason.VAULT_DELETED,
        consumed=False,
    ),
    Actor(
        name="intern-2019",
        part="has no key",
        start=Start.NO_KEY,
        end=End.UNTOUCHED,
        state=State.UNMANAGED,
        reason=Reason.NO_KEYS,
        consumed=False,
    ),
    Actor(
        name="break-glass-admin",
        part="excluded by the policy",
        end=End.UNTOUCHED,
        state=None,
        reason=None,
    ),
)
