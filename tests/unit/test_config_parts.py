"""Durations, and positions within TOML."""

import tomllib
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.config.durations import format_duration, parse_duration
from rekeyd.config.positions import Path, Position, find_positions
from rekeyd.config.rendering import _inline, _key


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("2s", timedelta(seconds=2)),
        ("0.2s", timedelta(milliseconds=200)),
        ("250ms", timedelta(milliseconds=250)),
        ("1h30m", timedelta(minutes=90)),
        ("1w2d", timedelta(days=9)),
        ("1m5ms", timedelta(minutes=1, milliseconds=5)),
        (" 0s ", timedelta(0)),
    ],
)
def test_a_duration_is_read(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text", ["", "d", "5", "-5d", "5 d", "1m1h", "1h1h", "1.d", "1e3s", "90D", "٣d", "1d\n2h", "inf"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|has no unit"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=99999)))
def test_a_duration_survives_being_written(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


def test_durations_are_written_short() -> None:
    assert [
        format_duration(timedelta(**parts)) for parts in ({"days": 22, "hours": 1}, {"seconds": 90}, {"days": 0})
    ] == [
        "22d1h",
        "1m30s",
        "0s",
    ]


TEXT = '''\
# a comment with = and [brackets]
title = "a # b" # more
"quoted key".'and another' = 1
[a.b]
list = [
  1, # one, two ]
  "]", [2, 3],
  { x = 1, y = { z = 2 } },
]
long = """
[not a table]
key = 1 \\""" still """
c = \'\'\'
x = 2\'\'\'\'
[[t]]
n = 1
[[t]]
n = 2
[t.sub]
m = 1979-05-27T07:32:00Z
[[t.deep]]
d = 1
last = true
'''


@pytest.mark.parametrize(
    ("path", "position"),
    [
        (("title",), (2, 1)),
        (("quoted key", "and another"), (3, 1)),
        (("a",), (4, 1)),
        (("a", "b"), (4, 1)),
        (("a", "b", "list"), (5, 1)),
        (("a", "b", "list", 0), (6, 3)),
        (("a", "b", "list", 1), (7, 3)),
        (("a", "b", "list", 2, 1), (7, 12)),
        (("a", "b", "list", 3, "y", "z"), (8, 18)),
        (("a", "b", "long"), (10, 1)),
        (("a", "b", "c"), (13, 1)),
        (("t", 0), (15, 1)),
        (("t", 0, "n"), (16, 1)),
        (("t", 1, "n"), (18, 1)),
        (("t", 1, "sub", "m"), (20, 1)),
        (("t", 1, "deep", 0, "d"), (22, 1)),
        (("t", 1, "deep", 0, "last"), (23, 1)),
    ],
)
def test_a_key_has_its_place(path: Path, position: tuple[int, int]) -> None:
    assert find_positions(TEXT)[path] == Position(*position)


def test_nothing_has_a_place_that_is_not_in_the_text() -> None:
    assert set(find_positions(TEXT)) == set(paths_in(tomllib.loads(TEXT)))


_TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
_VALUES = st.recursive(
    st.booleans() | st.integers(-99, 99) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_TEXTS, _VALUES, max_size=4), st.dictionaries(_TEXTS, _VALUES, min_size=1, max_size=3))
def test_every_key_of_any_toml_has_a_place(plain: dict[str, Any], tables: dict[str, Any]) -> None:
    lines = [f"{_key(name)} = {_inline(value)} # {{[" for name, value in plain.items()]
    for name, value in tables.items():
        lines += [f"[[tables.{_key(name)}]]", f"value = {_inline(value)}", f"[[ tables . {_key(name)} ]]", "v=1"]
    lines = [line for line in lines if not line.startswith("tables = ")]
    text = "\n".join(lines)
    assert set(find_positions(text)) == set(paths_in(tomllib.loads(text)))


def paths_in(value: object, path: Path = ()) -> list[Path]:
    found: list[Path] = [path] if path else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += paths_in(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += paths_in(item, (*path, index))
    return found
