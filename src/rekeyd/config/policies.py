"""The settings as the core's policies: the same numbers, with what is derived from them."""

from datetime import timedelta

from rekeyd.adapters.windows import longest_closed
from rekeyd.config.models import Config, MatchSettings, PolicySettings
from rekeyd.core.policy import Freeze, Match, Orphans, Policy, WindowSpec, lead_time, step_time


def policies_of(config: Config) -> tuple[Policy, ...]:
    """The policies in the order of the file, each with its `lead` and the orphan settings."""
    orphans = Orphans(
        attribution=config.orphans.attribution, wait=config.orphans.wait, quarantine=config.orphans.quarantine
    )
    return tuple(_policy(settings, config, orphans) for settings in config.policies)


def freezes_of(config: Config) -> tuple[Freeze, ...]:
    return tuple(
        Freeze(first_day=freeze.first_day, last_day=freeze.last_day, reason=freeze.reason)
        for freeze in config.fleet.freezes
    )


def lead_of(settings: PolicySettings, scan_every: timedelta) -> timedelta:
    """Raises `WindowError` if the windows hardly ever open."""
    step = step_time(
        verify_first=settings.verify_first,
        verify_timeout=settings.verify_timeout,
        publish_timeout=settings.publish_timeout,
    )
    return lead_time(longest_closed=longest_closed(settings.windows), scan_every=scan_every, step=step)


def _policy(settings: PolicySettings, config: Config, orphans: Orphans) -> Policy:
    return Policy(
        name=settings.name,
        match=_match(settings.match),
        exclude=_match(settings.exclude),
        max_age=settings.max_age,
        overlap=settings.overlap,
        quarantine=settings.quarantine,
        adopt=settings.adopt,
        create=settings.create,
        repair=settings.repair,
        spare_key=settings.spare_key,
        spare_key_silent_for=settings.spare_key_silent_for,
        unused_after=settings.unused_after,
        on_exposed=settings.on_exposed,
        still_used=settings.still_used,
        max_hold=settings.max_hold,
        unused_for=settings.unused_for,
        verify_regions=settings.verify_regions,
        verify_timeout=settings.verify_timeout,
        verify_first=settings.verify_first,
        verify_probes=settings.verify_probes,
        verify_spacing=settings.verify_spacing,
        publish_timeout=settings.publish_timeout,
        windows=tuple(
            WindowSpec(cron=window.cron, duration=window.duration, timezone=window.timezone)
            for window in settings.windows
        ),
        lead=lead_of(settings, config.scan.every),
        orphans=orphans,
    )


def _match(settings: MatchSettings) -> Match:
    return Match(
        accounts=settings.accounts or (),
        users=settings.users or (),
        paths=settings.paths or (),
        tags=settings.tags or {},
    )
