"""Cron windows as intervals: crontab's weekdays, time zones, changes of the clock, the longest closed stretch."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.adapters.windows import WindowError, check_cron, longest_closed, open_intervals

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Spec:
    cron: str
    duration: timedelta
    timezone: str = "UTC"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def opened(spec: Spec | list[Spec], start: str, end: str) -> list[tuple[str, str]]:
    specs = spec if isinstance(spec, list) else [spec]
    return [
        (a.strftime("%m-%d %H:%M"), b.strftime("%m-%d %H:%M")) for a, b in open_intervals(specs, at(start), at(end))
    ]


def test_without_windows_it_is_always_open() -> None:
    start, end = at("2026-03-01"), at("2026-03-02")
    assert open_intervals([], start, end) == ((start, end),)
    assert longest_closed([]) == timedelta(0)


def test_weekdays_are_crontabs_monday_is_one() -> None:
    # 2026-11-23 is a Monday.
    days = opened(Spec("0 2 * * 1-5", 4 * HOUR), "2026-11-21", "2026-11-30")
    assert [opens for opens, _ in days] == [f"11-{day} 02:00" for day in (23, 24, 25, 26, 27)]
    assert days[0][1] == "11-23 06:00"


@pytest.mark.parametrize("sunday", ["0", "7", "SUN", "sun"])
def test_sunday_is_zero_and_seven(sunday: str) -> None:
    assert opened(Spec(f"0 3 * * {sunday}", HOUR), "2026-11-16", "2026-11-30") == [
        ("11-22 03:00", "11-22 04:00"),
        ("11-29 03:00", "11-29 04:00"),
    ]


def test_day_and_weekday_together_mean_either_as_in_crontab() -> None:
    starts = [opens for opens, _ in opened(Spec("0 0 1 * 1", HOUR), "2026-11-01", "2026-11-12")]
    assert starts == ["11-01 00:00", "11-02 00:00", "11-09 00:00"]


def test_a_window_that_is_open_at_the_edges_is_given_in_full() -> None:
    assert opened(Spec("0 22 * * *", 4 * HOUR), "2026-11-02T01:00", "2026-11-02T23:00") == [
        ("11-01 22:00", "11-02 02:00"),
        ("11-02 22:00", "11-03 02:00"),
    ]


def test_a_window_that_closes_exactly_at_the_start_is_not_given() -> None:
    assert opened(Spec("0 22 * * *", 4 * HOUR), "2026-11-02T02:00", "2026-11-02T22:00") == []


def test_windows_that_touch_or_overlap_are_one() -> None:
    both = [Spec("0 2 * * *", 2 * HOUR), Spec("0 4 * * *", HOUR), Spec("30 4 * * *", HOUR)]
    assert opened(both, "2026-11-02", "2026-11-03") == [("11-02 02:00", "11-02 05:30")]


def test_a_window_that_fires_while_open_stays_open() -> None:
    assert opened(Spec("*/30 8-11 * * *", HOUR), "2026-11-02", "2026-11-03") == [("11-02 08:00", "11-02 12:30")]


def test_times_are_the_wall_clock_of_the_time_zone() -> None:
    berlin = Spec("0 2 * * *", HOUR, "Europe/Berlin")
    assert opened(berlin, "2026-01-10", "2026-01-11") == [("01-10 01:00", "01-10 02:00")]
    assert opened(berlin, "2026-07-10", "2026-07-11") == [("07-10 00:00", "07-10 01:00")]


def test_a_start_in_the_hour_that_spring_skips_comes_after_the_change() -> None:
    # On 2026-03-29 in Berlin 02:00 CET becomes 03:00 CEST, at 01:00 UTC: 02:30 is 03:30 CEST.
    assert opened(Spec("30 2 * * *", HOUR, "Europe/Berlin"), "2026-03-28T12:00", "2026-03-29T12:00") == [
        ("03-29 01:30", "03-29 02:30")
    ]


def test_a_start_in_the_hour_that_autumn_repeats_is_the_first_and_the_only_one() -> None:
    # On 2026-10-25 in Berlin 02:30 comes at 00:30 and again at 01:30 UTC.
    assert opened(Spec("30 2 * * *", HOUR, "Europe/Berlin"), "2026-10-24T12:00", "2026-10-25T12:00") == [
        ("10-25 00:30", "10-25 01:30")
    ]


def test_a_window_over_the_change_of_the_clock_lasts_its_duration() -> None:
    (interval,) = open_intervals(
        [Spec("0 1 * * *", 4 * HOUR, "Europe/Berlin")], at("2026-10-24T12:00"), at("2026-10-25T12:00")
    )
    assert interval[1] - interval[0] == 4 * HOUR


@pytest.mark.parametrize(
    "case",
    {
        "a window each night": ([Spec("0 2 * * *", 4 * HOUR)], 20 * HOUR),
        "nights of weekdays: from Friday to Monday": ([Spec("0 2 * * 1-5", 4 * HOUR)], 68 * HOUR),
        "once a week": ([Spec("0 2 * * 3", 2 * HOUR)], 7 * DAY - 2 * HOUR),
        "two that complete each other": ([Spec("0 0 * * *", 12 * HOUR), Spec("0 12 * * *", 12 * HOUR)], timedelta(0)),
        "each minute": ([Spec("* * * * *", timedelta(minutes=5))], timedelta(0)),
        "hourly, half open": ([Spec("0 * * * *", HOUR / 2)], HOUR / 2),
        "autumn makes one day longer": ([Spec("0 12 * * *", 12 * HOUR, "Europe/Berlin")], 13 * HOUR),
        "the longest months": ([Spec("0 0 1 * *", DAY)], 30 * DAY),
        "once a year": ([Spec("0 0 1 1 *", DAY)], 364 * DAY),
    }.items(),
    ids=lambda case: case[0],
)
def test_the_longest_closed_stretch(case: tuple[str, tuple[list[Spec], timedelta]]) -> None:
    specs, closed = case[1]
    assert longest_closed(specs) == closed


def test_windows_that_open_less_than_once_a_year_are_refused() -> None:
    with pytest.raises(WindowError, match="less than once a year"):
        longest_closed([Spec("0 0 29 2 *", DAY)])


@pytest.mark.parametrize("cron", ["0 2 * * 1-5", "*/15 0-6 * JAN-MAR mon,fri", "0 2 1,15 * 7"])
def test_crontab_is_understood(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 2 * *", "has 4 fields"),
        ("0 0 2 * * 1", "has 6 fields"),
        ("@daily", "has 1 fields"),
        ("R 2 * * *", 'the field "R"'),
        ("H 2 * * *", 'the field "H"'),
        ("0 2 L * *", 'the field "L"'),
        ("0 2 * * 1#2", 'the field "1#2"'),
        ("60 2 * * *", "not a valid cron expression"),
        ("0 2 * * 8", "not a valid cron expression"),
        ("0 2 31 2 *", "a day that never comes"),
    ],
)
def test_what_is_not_crontab_is_refused(cron: str, message: str) -> None:
    with pytest.raises(WindowError, match=re.escape(message)):
        check_cron(cron)


@settings(max_examples=40, deadline=None)
@given(
    minute=st.sampled_from(["0", "30", "*/20"]),
    hour=st.sampled_from(["2", "0-4", "22", "*/6"]),
    weekday=st.sampled_from(["*", "1-5", "0,6"]),
    duration=st.integers(10, 600).map(lambda minutes: timedelta(minutes=minutes)),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    offset=st.integers(0, 700 * 24),
)
def test_intervals_are_apart_in_order_and_touch_the_span(
    minute: str, hour: str, weekday: str, duration: timedelta, zone: str, offset: int
) -> None:
    start = at("2025-02-01") + timedelta(hours=offset)
    end = start + 10 * DAY
    spec = Spec(f"{minute} {hour} * * {weekday}", duration, zone)
    intervals = open_intervals([spec], start, end)
    assert all(opens < closes and closes > start and opens < end for opens, closes in intervals)
    assert all(first[1] < second[0] for first, second in pairwise(intervals))
    # The stretch that configuration reckons with is never exceeded by one that behaviour meets.
    if start >= at("2025-02-01") and end <= at("2027-01-01"):
        closed = longest_closed([spec])
        assert all(second[0] - first[1] <= closed for first, second in pairwise(intervals))
