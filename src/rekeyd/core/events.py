"""The closed list of events: every line that rekeyd logs is one of these.

A name is ``noun.past_verb``; dashboards and alert rules are written against it, so
a name is never reused for another meaning. The sentence becomes ``docs/events.md``
(``python -m rekeyd.logs > docs/events.md``; a test keeps the two equal).

Level: debug = nothing changed · info = something changed outside, or a pass began
or ended · warning = a person may look · error = a step failed, it will be tried
again · critical = a person must look.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Level(StrEnum):
    """The usual level of an event; where a line has a severity of its own, that decides."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class Event(StrEnum):
    """One kind of log line: ``Event.KEY_CREATED == "key.created"``, with its usual level and its sentence."""

    level: Level
    sentence: str

    def __new__(cls, value: str, level: Level, sentence: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.level = level
        member.sentence = sentence
        return member

    # passes
    PASS_STARTED = "pass.started", Level.DEBUG, "A pass over an account began."
    PASS_FINISHED = "pass.finished", Level.INFO, "A pass over an account ended; counts and seconds are in its fields."
    PASS_FAILED = "pass.failed", Level.ERROR, "A pass over an account could not be finished; other accounts go on."
    SCAN_FINISHED = "scan.finished", Level.INFO, "An account was scanned; the users that are due are in its fields."

    SHARERS_UNLISTED = (
        "sharers.unlisted",
        Level.WARNING,
        "Users of an account could have places of another account's users and could not be listed; those must wait.",
    )

    # rotations
    ROTATION_OPENED = "rotation.opened", Level.INFO, "A rotation was opened; its reason says why now."
    ROTATION_CLOSED = (
        "rotation.closed",
        Level.INFO,
        "A rotation ended: the old key is gone, or its outcome says why not.",
    )
    ROLLBACK_OPENED = "rollback.opened", Level.WARNING, "A person asked to return to the old key."
    ROLLBACK_CLOSED = "rollback.closed", Level.WARNING, "A return to the old key ended; its outcome says how."

    # keys
    KEY_REQUESTED = (
        "key.requested",
        Level.DEBUG,
        "The intent to create an access key is committed; the request goes out once.",
    )
    KEY_CREATED = "key.created", Level.INFO, "IAM made an access key."
    KEY_UNKNOWN = (
        "key.lost_answer",
        Level.WARNING,
        "CreateAccessKey was sent and its answer was lost; it may have happened.",
    )
    KEY_PROVEN = "key.proven", Level.INFO, "A key authenticated as its user in every Region asked for."
    KEY_PUBLISHED = (
        "key.published",
        Level.INFO,
        "Vault serves the new pair, read back and proven; the overlap starts here.",
    )
    KEY_PUBLISH_UNKNOWN = "key.lost_publication", Level.WARNING, "The pair was sent to Vault and the answer was lost."
    KEY_DEACTIVATED = "key.deactivated", Level.INFO, "An access key is Inactive now; its quarantine starts here."
    KEY_REACTIVATED = "key.reactivated", Level.WARNING, "An access key is Active again."
    KEY_DELETED = "key.deleted", Level.INFO, "An access key was deleted."
    KEY_MOVED = "key.moved", Level.INFO, "The held pair was copied to its new place in Vault and proven there."
    LEFT_PLACE_EMPTIED = (
        "left_place.emptied",
        Level.INFO,
        "The place that a pair was moved away from holds none any more.",
    )
    SESSIONS_REVOKING = (
        "sessions.revoking",
        Level.INFO,
        "An operator is about to deny a user's sessions issued before a moment.",
    )
    SESSIONS_REVOKED = "sessions.revoked", Level.WARNING, "A user's sessions issued before a moment are denied."
    SESSIONS_LIFTED = "sessions.lifted", Level.INFO, "The policy that denied a user's old sessions was removed."
    VERSION_BURNED = "version.burned", Level.INFO, "The Vault version was moved on, so that a late write fails."
    VERSION_DESTROYED = "version.destroyed", Level.INFO, "A Vault version that held a deleted key was destroyed."

    NOTE_FAILED = (
        "note.failed",
        Level.WARNING,
        "The publish note beside a secret could not be written; the rotation goes on without it.",
    )
    PRINCIPAL_LOOKED = "principal.looked", Level.DEBUG, "One look at a principal; its action says what came of it."
    RETIREMENT_STARTED = "retirement.started", Level.INFO, "The clocks of a key on its way out run from now."
    ORPHAN_CLAIMED = "orphan.claimed", Level.WARNING, "CloudTrail proved that our own lost request made this key."

    # principals and accounts
    PRINCIPAL_REFUSED = (
        "principal.refused",
        Level.WARNING,
        "Nothing was done for a principal; its reason says what a person must settle.",
    )
    PRINCIPAL_FAILED = (
        "principal.failed",
        Level.ERROR,
        "A step for a principal failed; it is tried again later, others go on.",
    )
    PRINCIPAL_RECOVERED = "principal.recovered", Level.INFO, "A principal that had failed is well again."
    PRINCIPAL_HELD = "principal.held", Level.WARNING, "A retirement is on hold; its reason says why."

    # root user
    ROOT_KEY_PRESENT = "root_key.present", Level.CRITICAL, "An account's root user has an access key, active or not."
    ROOT_KEY_CLEARED = "root_key.cleared", Level.WARNING, "An account's root user has no access key any more."
    ROOT_KEY_UNREADABLE = (
        "root_key.unreadable",
        Level.CRITICAL,
        "Whether an account's root user has access keys cannot be told.",
    )
    ROOT_KEY_CHECKED = "root_key.checked", Level.DEBUG, "An account's root user was looked at and has no access key."

    ROOT_KEY_DELETED = "root_key.deleted", Level.WARNING, "A person deleted an access key of an account's root user."

    # alarms and the brake
    ALARM_RAISED = (
        "alarm.raised",
        Level.WARNING,
        "A finding that a person must see; logged at the level of its severity.",
    )
    ALARM_REPEATED = "alarm.repeated", Level.WARNING, "An alarm is still open; logged at the level of its severity."
    ALARM_ACKNOWLEDGED = (
        "alarm.acknowledged",
        Level.WARNING,
        "A person knows of an alarm: it is not repeated for a while, and stays open.",
    )
    ALARM_RESOLVED = "alarm.resolved", Level.INFO, "An alarm is over."
    NOTIFICATION_SENT = "notification.sent", Level.INFO, "An alarm was handed to a channel."
    NOTIFICATION_FAILED = "notification.failed", Level.ERROR, "A channel did not take an alarm; it stays in the outbox."
    OWNER_TOLD = (
        "owner.told",
        Level.INFO,
        "What concerns a user was put into the outbox for its owner; its reason says what.",
    )
    OWNER_UNTOLD = (
        "owner.untold",
        Level.WARNING,
        "A user's owner tag is no address that anything can be sent to; nothing was sent.",
    )
    BRAKE_ENGAGED = (
        "brake.engaged",
        Level.CRITICAL,
        "Too many failures: no rotation is opened until the brake is released.",
    )
    BRAKE_TRIED = "brake.tried", Level.WARNING, "One rotation is let through to see whether the brake can be released."
    BRAKE_RELEASED = "brake.released", Level.WARNING, "Rotations are opened again."

    # leases, Vault, journal
    LEASE_TAKEN = "lease.taken", Level.DEBUG, "This process holds the account lease now."
    LEASE_LOST = "lease.lost", Level.ERROR, "Another holder has the account lease; nothing more is done outside."
    LEASE_REFUSED = "lease.refused", Level.INFO, "Another holder works on the account."
    VAULT_LOGIN = "vault.logged_in", Level.INFO, "rekeyd logged in to Vault."
    VAULT_RENEWED = "vault.renewed", Level.DEBUG, "The Vault token was renewed."
    VAULT_LOST = "vault.lost", Level.ERROR, "Vault cannot be reached, is sealed, or refuses the token."
    VAULT_RECOVERED = "vault.recovered", Level.INFO, "Vault answers again."
    JOURNAL_OPENED = "journal.opened", Level.INFO, "The journal was opened; its schema is current."
    JOURNAL_RESTORED = (
        "journal.restored",
        Level.CRITICAL,
        "The journal is older than the mark in Vault says, or lost: all clocks restart.",
    )
    JOURNAL_FAILED = "journal.failed", Level.CRITICAL, "The journal cannot be written; nothing is changed outside."
    MARK_RAISED = "mark.raised", Level.DEBUG, "The journal's high-water mark in Vault was raised."
    MARK_FAILED = "mark.failed", Level.ERROR, "The high-water mark cannot be written; nothing is retired."

    # the daemon
    CONFIG_LOADED = "config.loaded", Level.INFO, "The configuration was read."
    CONFIG_RELOADED = "config.reloaded", Level.INFO, "The configuration was read again and is in force."
    CONFIG_REJECTED = "config.rejected", Level.ERROR, "The new configuration is wrong; the old one stays in force."
    CONFIG_DEFERRED = (
        "config.deferred",
        Level.WARNING,
        "Settings changed that only a restart brings into force; their names are in its fields.",
    )
    DAEMON_STARTED = "daemon.started", Level.INFO, "The daemon began."
    DAEMON_READY = (
        "daemon.became_ready",
        Level.INFO,
        "The daemon is at work; whether AWS and Vault let it, /readyz tells.",
    )
    DAEMON_FAILED = "daemon.failed", Level.CRITICAL, "The daemon could not start, or must not go on."
    DAEMON_STALLED = (
        "daemon.stalled",
        Level.CRITICAL,
        "The scheduler's heart does not beat; the supervisor's watchdog is not fed.",
    )
    DAEMON_STOPPING = (
        "daemon.asked_to_stop",
        Level.INFO,
        "The daemon was asked to stop and finishes or parks the step in flight.",
    )
    DAEMON_STOPPED = "daemon.stopped", Level.INFO, "The daemon ended."
    DAEMON_GAVE_UP = (
        "daemon.gave_up",
        Level.ERROR,
        "A step was still in flight when the time to stop was over; the next start looks at it again.",
    )
    HTTP_OPENED = "http.opened", Level.INFO, "The HTTP endpoints are served; the address is in its fields."
    API_CLOSED = (
        "api.closed",
        Level.WARNING,
        "http.listen is reached from other machines and no http.token_file is set: the API refuses everybody.",
    )
    SUPERVISOR_LOST = "supervisor.lost", Level.WARNING, "The supervisor did not take a message of the daemon."
    ACCOUNTS_UNLISTED = (
        "accounts.unlisted",
        Level.ERROR,
        "Which accounts to watch could not be told; those known before are watched on.",
    )
    CLOCK_SET_BACK = "clock.set_back", Level.WARNING, "The machine's clock was set back; the schedule begins anew."
    JOB_FAILED = "job.failed", Level.ERROR, "A scheduled job raised; the schedule goes on."
    LOOK_ASKED = (
        "look.asked",
        Level.INFO,
        "Messages of the event queue name a root user or managed users; they are looked at now.",
    )
    HEALTH_UNAVAILABLE = (
        "health.unavailable",
        Level.INFO,
        "AWS Health has no answer for this account, whose support plan is below Business; said once.",
    )
    MESSAGES_DISCARDED = (
        "messages.discarded",
        Level.WARNING,
        "The event queue had messages that are no events; they were deleted. Told at most once a minute.",
    )
    QUEUE_LOST = "queue.lost", Level.ERROR, "The event queue cannot be read; everything is seen at the next scan."
    QUEUE_RECOVERED = "queue.recovered", Level.INFO, "The event queue can be read again."
    REQUEST_RECEIVED = "request.received", Level.INFO, "The running daemon took over a request of rotate-now."
    REQUEST_SERVED = "request.served", Level.INFO, "A request of rotate-now was served."
    COMMAND_FAILED = "command.failed", Level.ERROR, "A command ended with an error that it did not foresee."
    LIBRARY_LOGGED = (
        "library.logged",
        Level.WARNING,
        "A library wrote a log line of its own; `logger` and `message` are its words.",
    )


def as_markdown() -> str:
    """The text of ``docs/events.md``."""
    lines = [
        "# Events",
        "",
        "Every log line is one of these events. The list is closed: a name keeps its meaning, and rekeyd's tests fail",
        "on a line that is not listed. The level is the usual one; alarms are logged at the level of their severity.",
        "",
        "Generated from `src/rekeyd/core/events.py` by `python -m rekeyd.logs > docs/events.md`.",
        "",
        "| event | level | meaning |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{event.value}` | {event.level.value} | {event.sentence} |" for event in Event]
    return "\n".join(lines) + "\n"
