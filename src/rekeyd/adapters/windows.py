"""Maintenance windows: cron expressions become intervals; the core sees intervals alone.

Five fields as in crontab: weekdays 0-7 with Sunday 0 and 7, so 1-5 is Monday to
Friday; day and weekday both given means either. Times are the time zone's wall
clock, durations are elapsed time. A start in the hour that spring skips comes as
much later as the clock jumped; one in the hour that autumn repeats is the first.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Protocol
from zoneinfo import ZoneInfo

from croniter import croniter

from rekeyd.errors import ConfigError

# croniter also takes H and R (a random value at each reading), L, # and seconds; a window must mean one thing.
_FIELD = re.compile(r"(?:[0-9*/,-]|(?i:SUN|MON|TUE|WED|THU|FRI|SAT|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))+")

# Two whole years hold every change of clock twice, and every pattern that opens at least once a year. The years are
# fixed, so that `config check` gives the same answer on every day. No leap day: without one the stretch is the longer.
_SPAN = (datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

Interval = tuple[datetime, datetime]
"""Opens at, closes at (not included); aware UTC."""


class WindowSpec(Protocol):
    @property
    def cron(self) -> str: ...
    @property
    def duration(self) -> timedelta: ...
    @property
    def timezone(self) -> str: ...


class WindowError(ConfigError):
    """A window that cannot be understood, or that hardly ever opens."""


def check_cron(cron: str) -> None:
    """Raises `WindowError` if it is not five crontab fields, or names a day that never comes."""
    fields = cron.split()
    if len(fields) != 5:
        raise WindowError(f"has {len(fields)} fields; a cron expression here has 5")
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise WindowError(f'the field "{field}" is not numbers, names of days or months, and * / , -')
    if not croniter.is_valid(cron):
        raise WindowError("is not a valid cron expression")
    try:
        croniter(cron, _SPAN[0].replace(tzinfo=None)).get_next(datetime)
    except ValueError:
        raise WindowError("names a day that never comes") from None


def open_intervals(specs: Sequence[WindowSpec], start: datetime, end: datetime) -> tuple[Interval, ...]:
    """When the windows are open between two moments: merged, in order, those at the edges in full length.

    No windows at all means always open: one interval from start to end.
    """
    if not specs:
        return ((start, end),)
    merged: list[Interval] = []
    for opens, closes in sorted(interval for spec in specs for interval in _stretches(spec, start, end)):
        if merged and opens <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], closes))
        else:
            merged.append((opens, closes))
    return tuple(merged)


def longest_closed(specs: Sequence[WindowSpec]) -> timedelta:
    """The longest stretch without an open window; zero without windows.

    Raises `WindowError` if the windows open less than once a year, which is too seldom for any key.
    """
    if not specs:
        return timedelta(0)
    intervals = open_intervals(specs, *_SPAN)
    year = timedelta(days=366)
    if not intervals or intervals[0][0] - _SPAN[0] > year or _SPAN[1] - intervals[-1][1] > year:
        raise WindowError("the windows open less than once a year")
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(intervals)]
    # What the edges of the span cut off is no longer than the whole stretch it belongs to.
    edges = [intervals[0][0] - _SPAN[0], _SPAN[1] - intervals[-1][1]]
    return max([*gaps, *edges, timedelta(0)])


def _stretches(spec: WindowSpec, start: datetime, end: datetime) -> Iterator[Interval]:
    """Open stretches of one window, those of one day merged."""
    zone = ZoneInfo(spec.timezone)
    minute, hour, day, month, weekday = spec.cron.split()
    firings = _times_of_day(minute, hour)
    usual = _merged_day(firings, spec.duration)
    # Two days more: one since croniter begins after the moment given, one for the offset of the zone.
    before = (start - spec.duration).astimezone(zone).replace(tzinfo=None) - timedelta(days=2)
    days = croniter(f"0 0 {day} {month} {weekday}", before)
    while True:
        midnight: datetime = days.get_next(datetime)
        opens_at = _as_utc(midnight, zone)
        if opens_at >= end:
            return
        if _as_utc(midnight + timedelta(days=1), zone) - opens_at == timedelta(days=1):
            stretches = [(opens_at + first, opens_at + last) for first, last in usual]
        else:  # the clock changes on this day: each firing has an offset of its own
            fired = (_as_utc(midnight + firing, zone) for firing in firings)
            stretches = [(moment, moment + spec.duration) for moment in fired]
        yield from ((opens, closes) for opens, closes in stretches if closes > start and opens < end)


def _times_of_day(minute: str, hour: str) -> list[timedelta]:
    minutes, hours = croniter.expand(f"{minute} {hour} * * *")[0][:2]
    return [
        timedelta(hours=int(h), minutes=int(m))
        for h in (range(24) if hours == ["*"] else sorted(hours))
        for m in (range(60) if minutes == ["*"] else sorted(minutes))
    ]


def _merged_day(firings: Sequence[timedelta], duration: timedelta) -> list[tuple[timedelta, timedelta]]:
    """Stretches of a day without a change of clock, from midnight."""
    merged: list[tuple[timedelta, timedelta]] = []
    for firing in firings:
        if merged and firing <= merged[-1][1]:
            merged[-1] = (merged[-1][0], firing + duration)
        else:
            merged.append((firing, firing + duration))
    return merged


def _as_utc(local: datetime, zone: ZoneInfo) -> datetime:
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)
