"""The checks of `rekeyd doctor`, in the order in which one thing depends on another.

Nothing is changed anywhere; each channel is sent a test message.
"""

import os
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal_schema import REVISIONS
from rekeyd.app import alias_source, aws_settings, journal_of, rules_of
from rekeyd.cli.checks_aws import AwsChecks
from rekeyd.cli.checks_vault import VaultChecks
from rekeyd.cli.verdicts import Check, clock_check, failed, ok, skipped, warning
from rekeyd.config import Config
from rekeyd.errors import Error

# Names in one message.
_FEW = 3

# AWS tells its time to the second, and both are asked at different moments.
_APART = timedelta(seconds=30)

_CHANNEL = "check its address, its credentials and the network; `rekeyd alarms test` tries the channels alone"


class Doctor:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._cloud = AwsCloud(aws_settings(config), self._clock, instance=config.journal.instance)
        rules = rules_of(config, lambda: self._cloud.partition, alias_source(self._cloud))
        self._aws = AwsChecks(config, self._cloud, rules, self._clock)
        self._vault = VaultChecks(config, rules, self._clock)

    def checks(self) -> Iterator[Check]:
        yield from self._aws.checks()
        yield from self._vault.checks([user for user, _ in self._aws.managed])
        yield from self._journal()
        yield from self._channels()
        yield from self._owners()
        yield from self._times()

    # --- the journal ---

    def _journal(self) -> Iterator[Check]:
        path = Path(self._config.journal.url.removeprefix("sqlite:///"))
        if not path.exists():
            yield self._journal_to_be(path)
            return
        try:
            journal = journal_of(self._config, self._clock, read_only=True)
        except Error as error:
            yield failed("journal", error.message, error.hint)
            return
        try:
            revision = journal.schema_revision
        finally:
            journal.close()
        if revision != REVISIONS[-1]:
            yield warning(
                "journal", f"{path} has schema {revision}; the daemon brings it to {REVISIONS[-1]} when it starts"
            )
        yield _writable(path)

    def _journal_to_be(self, path: Path) -> Check:
        there = next(folder for folder in path.parents if folder.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return ok("journal", f"{path} is not there yet and can be made")
        return failed(
            "journal", f"{path} is not there and cannot be made in {there}", "run doctor as the daemon's user"
        )

    # --- people ---

    def _channels(self) -> Iterator[Check]:
        """Each is sent a test message, past the journal: no alarm is touched, and the outbox knows nothing of it."""
        from rekeyd.adapters.channels import channels_of
        from rekeyd.app import channel_settings
        from rekeyd.fleet.outbox import tried

        channels = channels_of(channel_settings(self._config), self._cloud.sessions)
        if not channels:
            yield warning("channels", "none: alarms are only logged", "see [alarms] in the configuration")
        for channel in channels:
            error = tried(channel, instance=self._config.journal.instance, at=self._clock.now())
            if error is None:
                yield ok(f"channel {channel.name}", "took a test message; see that somebody can read it")
            else:
                yield failed(f"channel {channel.name}", error.message, error.hint or _CHANNEL)
        if self._config.alarms.heartbeat_url_file is not None:
            yield _heartbeat(Path(self._config.alarms.heartbeat_url_file))

    def _owners(self) -> Iterator[Check]:
        """No owner is sent anything: a test would come to people who asked for none."""
        from rekeyd.adapters.channel_owners import OwnerWays
        from rekeyd.app import owner_settings
        from rekeyd.fleet.owners import owner_of

        ways = OwnerWays(owner_settings(self._config))
        if ways.problem is not None:
            yield failed("owners", ways.problem, "see [owners] in the configuration")
            return
        if not ways.names:
            return
        tag = self._config.owners.tag
        owners = {user.label: owner for user, _ in self._aws.managed if (owner := owner_of(user, tag)) is not None}
        unreached = sorted(label for label, owner in owners.items() if not ways.names_for(owner))
        told = f"by {', '.join(ways.names)}; {len(owners)} of {len(self._aws.managed)} managed users have the tag {tag}"
        if unreached:
            few = ", ".join(unreached[:_FEW]) + (f" and {len(unreached) - _FEW} more" if len(unreached) > _FEW else "")
            yield warning("owners", f"{told}, and what it says reaches nobody for {few}", "correct the tag")
            return
        yield ok("owners", f"{told}; nothing was sent: `rekeyd alarms test --owner OWNER` does that")

    # --- time ---

    def _times(self) -> Iterator[Check]:
        """Vault's, and how well it goes with AWS's: dates of both are compared to tell a published key from a stray."""
        aws, vault = self._aws.ahead, self._vault.ahead
        if not self._vault.reached:
            yield skipped("vault clock", "Vault could not be asked what time it is")
        else:
            now = self._clock.now()
            yield clock_check("vault clock", "Vault", now, None if vault is None else now + vault)
        if aws is None or vault is None:
            missing = " and ".join(name for name, ahead in (("AWS", aws), ("Vault", vault)) if ahead is None)
            yield skipped("time sources", f"not compared: {missing} did not say what time it is")
            return
        apart = abs(aws - vault)
        said = f"AWS's and Vault's clocks are {apart.total_seconds():.0f} s apart"
        yield ok("time sources", said) if apart <= _APART else warning("time sources", said, "set Vault's clock (NTP)")


def _writable(path: Path) -> Check:
    """By taking the write lock and giving it back."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.Error as error:
        return failed(
            "journal", f"{path} cannot be written: {error}", "run doctor as the daemon's user; check the disk"
        )
    return ok("journal", f"{path} can be written, schema {REVISIONS[-1]}")


def _heartbeat(url_file: Path) -> Check:
    from rekeyd.adapters.secret_file import read_secret_line

    try:
        read_secret_line(url_file, "alarms.heartbeat_url_file")
    except Error as error:
        return failed("heartbeat", error.message, error.hint)
    # Fetched now, it would tell whoever listens that passes end well, while perhaps no daemon runs.
    return ok("heartbeat", "its address can be read; only the daemon fetches it, after a pass that ended well")
