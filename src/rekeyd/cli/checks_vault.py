"""`rekeyd doctor` at Vault: reachable, unsealed, logged in for long enough, and allowed at each path."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.app import vault_settings
from rekeyd.cli.verdicts import Check, failed, ok, skipped, warning
from rekeyd.config import Config
from rekeyd.config.models import FleetMode
from rekeyd.core.model import Principal
from rekeyd.core.policy import step_time
from rekeyd.errors import ConfigError, Error, PreconditionError
from rekeyd.ports import Clock
from rekeyd.reconcile.rules import Rules


class VaultChecks:
    def __init__(self, config: Config, rules: Rules, clock: Clock) -> None:
        self._config, self._rules, self._clock = config, rules, clock
        self._observing = config.fleet.mode is FleetMode.OBSERVE
        self.ahead: timedelta | None = None
        """How far Vault's clock is before ours."""
        self.reached = False

    def checks(self, managed: Sequence[Principal]) -> Iterator[Check]:
        """At the places of these users."""
        try:
            vault = KvVault(vault_settings(self._config), self._clock)
        except ConfigError as error:
            yield failed("vault", error.message, error.hint)
            return
        try:
            yield from self._checks(vault, managed)
        finally:
            vault.close()

    def _checks(self, vault: KvVault, managed: Sequence[Principal]) -> Iterator[Check]:
        address = self._config.vault.address
        try:
            health = vault.health()
        except Error as error:
            yield failed("vault", error.message, error.hint)
            return
        self.reached = True
        if health.server_time is not None:
            self.ahead = health.server_time - self._clock.now()
        if health.sealed or not health.initialized:
            state = "sealed" if health.initialized else "not initialised"
            yield failed("vault", f"{address} is {state}", "an operator must unseal or initialise it")
            return
        yield ok("vault", f"{address}, version {health.version}" + (", a standby" if health.standby else ""))
        if self._config.vault.auth.secret_id_wrapped:
            # It can be opened once, and the daemon would take our look for an interception.
            yield skipped("vault login", "not tried, since that would use up the wrapped secret id")
            return
        vault.maintain()
        problem = vault.token_problem
        if problem is not None:
            yield failed("vault login", problem.message, problem.hint)
            return
        yield self._token(vault)
        if not self._observing:
            yield _checked("vault mark", self._config.vault.state_path, vault.check_mark)
        yield from self._places(vault, managed)

    def _token(self, vault: KvVault) -> Check:
        longest = max(
            (
                step_time(
                    verify_first=p.verify_first, verify_timeout=p.verify_timeout, publish_timeout=p.publish_timeout
                )
                for p in self._rules.policies
            ),
            default=timedelta(0),
        )
        method = self._config.vault.auth.method.value
        now = self._clock.now()
        too_early = vault.token_ends_before(now + longest)
        if too_early is not None and not self._observing:
            return failed(
                "vault login",
                f"by {method}; the token ends in {too_early - now}, and issuing one key may take {longest}",
                "let tokens live longer, or shorten verify_timeout and publish_timeout",
            )
        ends_at = vault.token_ends_at()
        if ends_at is None:
            return ok("vault login", f"by {method}; the token does not end, or may not look itself up")
        if ends_at < now + longest and not self._observing:
            # Not even a new one lives that long, so the daemon begins all the same and renews it on the way.
            return warning(
                "vault login",
                f"by {method}; tokens of this role live for {ends_at - now}, and issuing one key may take {longest}: "
                "each rotation depends on a renewal in the middle of it",
                "give the role a longer token_ttl",
            )
        return ok("vault login", f"by {method}; the token ends at {ends_at:%Y-%m-%dT%H:%M:%SZ} unless it is renewed")

    def _places(self, vault: KvVault, managed: Sequence[Principal]) -> Iterator[Check]:
        """Mount version and capabilities, at the path of each managed user; good ones are counted, not listed."""
        if not managed:
            yield skipped(
                "vault paths",
                "neither the mount nor the token's rights were tried, since no user is known to be managed",
                "run doctor again once a user is managed",
            )
            return
        good = 0
        for user in managed:
            try:
                place = self._rules.place_of(user)
                (vault.check_readable if self._observing else vault.check_writable)(place)
            except (PreconditionError, Error) as error:
                yield failed(f"vault path of {user.label}", error.message, error.hint)
            else:
                good += 1
        may = "read" if self._observing else "written"
        yield ok("vault paths", f"{good} of {len(managed)} are on KV version 2 and may be {may}")


def _checked(name: str, what: str, check: Callable[[], object]) -> Check:
    try:
        check()
    except Error as error:
        return failed(name, error.message, error.hint)
    return ok(name, f"{what} can be read and written")
