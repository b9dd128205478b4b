"""`rekeyd policy`: the rights that this configuration needs, to be given to AWS and Vault."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command, group
from rekeyd.cli.program import app
from rekeyd.errors import UsageError

if TYPE_CHECKING:
    from rekeyd.cli.policies_aws import Printed
    from rekeyd.config import Config

policy = group("Print the rights that rekeyd needs. Remarks go to stderr.")
app.add_typer(policy, name="policy")


class Purpose(StrEnum):
    ROOT_CLEANUP = "root-cleanup"
    REVOKE_SESSIONS = "revoke-sessions"


@command(policy, "aws")
def aws(
    session: Session,
    *,
    account: Annotated[
        str | None,
        typer.Option(
            "--account",
            metavar="ID",
            help="For the role in this account. [default: the only one, else any]",
            show_default=False,
        ),
    ] = None,
    hub: Annotated[
        bool,
        typer.Option("--hub", help="For rekeyd's own credentials, which enter the other accounts.", show_default=False),
    ] = False,
    purpose: Annotated[
        Purpose | None,
        typer.Option("--for", help="The rights of a person instead of the daemon's.", show_default=False),
    ] = None,
) -> ExitCode:
    """Print the IAM policy, as JSON."""
    from rekeyd.cli.policies_aws import hub_policy, revoke_sessions_policy, root_cleanup_policy, work_policy

    config = session.load()
    partition = _partition(config.aws.region)
    if purpose is not None and hub:
        raise UsageError("--hub is about the daemon, --for about a person", hint="give one of them")
    match purpose:
        case Purpose.ROOT_CLEANUP:
            return _print(session, root_cleanup_policy(partition))
        case Purpose.REVOKE_SESSIONS:
            return _print(session, revoke_sessions_policy(partition, account))
        case None:
            pass
    if hub:
        if account is not None:
            raise UsageError("--hub is about no single account", hint="give --hub or --account, not both")
        return _print(session, hub_policy(config, partition))
    known = [each.id for each in config.aws.accounts]
    if account is not None and known and account not in known:
        raise UsageError(f"account {account} is not among [[aws.accounts]]", hint=f"there are {', '.join(known)}")
    chosen = account if account is not None else (known[0] if len(known) == 1 else None)
    return _print(session, work_policy(config, partition, chosen), _hints(config, chosen))


@command(policy, "vault")
def vault(session: Session) -> ExitCode:
    """Print the Vault policy, as HCL. It is OpenBao's as well."""
    from rekeyd.cli.policies_vault import vault_policy

    return _print(session, vault_policy(session.load()))


def _hints(config: "Config", account: str | None) -> tuple[str, ...]:
    entered = config.aws.organization is not None or any(each.role_arn for each in config.aws.accounts)
    hints = ("rekeyd's own credentials must also be allowed to enter the accounts: rekeyd policy aws --hub",)
    open_ended = ("the account id is left open, so it fits every account; --account ID writes it out",)
    return (hints if entered else ()) + (open_ended if account is None else ())


def _print(session: Session, printed: "Printed", more: tuple[str, ...] = ()) -> ExitCode:
    notes = [*printed.notes, *more]
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "document": printed.document, "notes": notes})
        return ExitCode.DONE
    output.raw(printed.document)
    for note in notes:
        output.say(f"# {note}")
    return ExitCode.DONE


def _partition(region: str) -> str:
    """From botocore's data; nothing is asked of AWS."""
    import boto3

    return str(boto3.Session().get_partition_for_region(region))
