"""`rekeyd alarms`: what is open, and what a person has to say about it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import (
    ConfigOption,
    JsonOption,
    LogLevelOption,
    Session,
    command,
    given_before,
    given_so_far,
    group,
)
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption, duration
from rekeyd.cli.status import exit_code, reading, show_findings
from rekeyd.errors import AccessDeniedError, ConfigError, StateError, UsageError

if TYPE_CHECKING:
    from rekeyd.app import App
    from rekeyd.core.model import AccessKeyId, AccountId
    from rekeyd.ports import Alarm

alarms = group("List the open alarms, acknowledge one, raise one, or try the channels.")
app.add_typer(alarms, name="alarms")

BecauseOption = Annotated[
    str, typer.Option("--because", metavar="TEXT", help="Why; everybody who is told reads it.", show_default=False)
]


@alarms.callback(invoke_without_command=True)
def _alone(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    json: JsonOption = False,
    log_level: LogLevelOption = None,
) -> ExitCode | None:
    given_before(given_so_far(config=config, json=json, log_level=log_level))
    if context.invoked_subcommand is not None:
        return None
    return show(given_so_far())


@command(alarms, "list")
def show(session: Session) -> ExitCode:
    """List the open alarms, the worst first. Exit code 3 if one is critical, acknowledged or not."""
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.fleet.documents import time_text, worst_first

    config = session.load()
    clock = SystemClock()
    now = clock.now()
    with reading(config, clock) as journal:
        findings = [_entry(alarm, clock) for alarm in journal.alarms()]
        channels = [
            {
                "name": state.name,
                "waiting": state.waiting,
                "failing_since": time_text(state.failing_since),
                "retry_at": time_text(state.retry_at),
                "error": state.error or None,
            }
            for state in journal.channel_states()
        ]
    findings.sort(key=worst_first)
    if session.json:
        output.document(
            {"schema_version": SCHEMA_VERSION, "as_of": time_text(now), "alarms": findings, "channels": channels}
        )
        return exit_code(findings)
    show_findings(findings, now, none="no alarm is open")
    for each in findings:
        output.line(f"{each['id']}  {each['state']} since {each['first_seen_at']}")
    for channel in channels:
        if channel["error"] is not None:
            output.say(f"channel {channel['name']}: {channel['waiting']} waiting, {channel['error']}")
    return exit_code(findings)


@command(alarms, "ack")
def ack(
    session: Session,
    alarm_id: Annotated[str, typer.Argument(metavar="ID", help="As `rekeyd alarms list` shows it.")],
    *,
    because: BecauseOption,
    for_: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long, at most 90d; a critical root alarm 7d.")
    ] = "1d",
) -> ExitCode:
    """Say that somebody knows: the alarm is not repeated for so long. It stays open, and as red as it was."""
    from rekeyd.app import opened
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.fleet.alarms import longest_acknowledgement

    config = session.load()
    refuse_other_user(config)
    lasts = duration("--for", for_)
    if not because.strip():
        raise UsageError("--because is empty")
    with opened(config, actor=actor()) as running:
        known = next((each for each in running.journal.alarms() if each.fingerprint == alarm_id), None)
        if known is None:
            raise UsageError(f"no open alarm has the id {alarm_id}", hint="rekeyd alarms list")
        most = longest_acknowledgement(known)
        if lasts > most:
            raise UsageError(f"--for {for_} is more than {output.span(most)}, the most for this alarm")
        until = running.clock.now() + lasts
        alarm = running.fleet.alarms.acknowledge(alarm_id, until=until, by=actor(), because=because.strip())
        if alarm is None:
            raise StateError(f"the alarm {alarm_id} has just ended")
        _tell(running)
        entry = _entry(alarm, running.clock)
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "alarm": entry})
    else:
        output.line(f"{alarm_id} is acknowledged until {entry['acknowledged_until']}; it stays open")
    return ExitCode.DONE


@command(alarms, "raise")
def raise_(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="exposed", help="`exposed`: the key is in wrong hands.")],
    access_key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The access key ID.")],
    *,
    because: BecauseOption = "a person said so",
    account: AccountOption = None,
) -> ExitCode:
    """Say that an access key is in wrong hands: critical until the key is gone, or Inactive."""
    from rekeyd.app import opened
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.core.model import AccessKeyId

    if what != "exposed":
        raise UsageError(f'"{what}" cannot be raised', hint="rekeyd alarms raise exposed KEY_ID")
    config = session.load()
    refuse_other_user(config)
    key_id = AccessKeyId(access_key_id)
    with opened(config, actor=actor()) as running:
        account_id, user_name = _owner(running, key_id, account)
        running.fleet.watch.expose(account_id, user_name, key_id, because=because, by=actor())
        _tell(running)
    message = f"{key_id} of {user_name} in account {account_id} is marked as exposed"
    if session.json:
        entry = {"account_id": account_id, "user_name": user_name, "access_key_id": key_id}
        output.document({"schema_version": SCHEMA_VERSION, "exposed": entry})
    else:
        output.line(message)
        output.say(f"replace it at once with: rekeyd rotate-now {user_name} --account {account_id} --emergency")
    return ExitCode.DONE


@command(alarms, "test")
def test(
    session: Session,
    *,
    owner: Annotated[
        str | None,
        typer.Option("--owner", metavar="OWNER", help="Instead, to this owner of users, by every way of [owners]."),
    ] = None,  # noqa: PT028 - a command, no test
) -> ExitCode:
    """Send a test message through every channel. Exit code 1 if one did not take it."""
    from rekeyd.app import opened
    from rekeyd.cli.person import actor, refuse_other_user

    config = session.load()
    refuse_other_user(config)
    with opened(config, actor=actor()) as running:
        ways = running.postman.owners
        if owner is not None and not (ways and (ways.problem or ways.names_for(owner))):
            raise UsageError(
                f'nothing reaches the owner "{owner}"',
                hint="an e-mail address or a plain name, and a way in [owners] that takes it",
            )
        results = running.postman.test(owner=owner)
        if ways is not None and ways.problem is not None:
            results["owners"] = ConfigError(ways.problem)
    entries = [
        {"name": name, "taken": error is None, "error": None if error is None else error.message}
        for name, error in results.items()
    ]
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "channels": entries})
    elif not entries:
        output.line("no channel is configured: alarms are only logged")
    else:
        output.table(("channel", "taken", "why not"), [(e["name"], e["taken"], e["error"]) for e in entries])
    if owner is None and ways is not None and ways.names:
        output.say(f"owners are told by {', '.join(ways.names)}: rekeyd alarms test --owner OWNER tries that")
    return ExitCode.DONE if all(entry["taken"] for entry in entries) else ExitCode.FAILED


def _entry(alarm: "Alarm", clock: Any) -> dict[str, Any]:
    from rekeyd.fleet.documents import acknowledgement_entry, finding_entry

    told = {"id": alarm.fingerprint, "state": alarm.state(clock.now()).value}
    return finding_entry(alarm) | told | acknowledgement_entry(alarm)


def _tell(running: "App") -> None:
    """A daemon may be doing it already; without one nobody else would."""
    from rekeyd.fleet.outbox import GATHER

    running.clock.sleep(GATHER)
    running.postman.deliver(wait=True)


def _account_of(running: "App", key_id: "AccessKeyId") -> "AccountId":
    try:
        return running.cloud.sts.account_of_key(key_id)
    except AccessDeniedError as error:
        raise AccessDeniedError(error.message, hint="name the account: --account ID") from None


def _owner(running: "App", key_id: "AccessKeyId", account: str | None) -> "tuple[AccountId, str]":
    """Whose key it is: by the journal, else by AWS."""
    for status in running.journal.statuses():
        if key_id in (status.held_access_key_id, status.old_access_key_id):
            return status.account_id, status.user_name
    from rekeyd.core.model import AccountId

    account_id = AccountId(account) if account is not None else _account_of(running, key_id)
    user_name = running.cloud.iam(account_id).owner_of_key(key_id)
    if user_name is None:
        raise StateError(
            f"{key_id} is the root user's of account {account_id}", hint="rekeyd root delete-keys --account ID"
        )
    return account_id, user_name
