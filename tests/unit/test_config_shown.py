"""The configuration shown: the example, what is in force, the schema, what the core gets; and any input at all."""

import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd import config
from rekeyd.config import ConfigProblemsError
from rekeyd.config.models import Config, FieldPreset, FleetMode, Settings
from rekeyd.config.shape import keys_of, model_at
from rekeyd.core.policy import Attribution, SpareKey

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
VAULT = """
[vault]
address = "https://vault.example:8200"
[vault.auth]
token_file = "/etc/rekeyd/vault-token"
"""
POLICY = '[[policies]]\nname = "ci"\n'


def read(text: str) -> Config:
    return config.parse(VAULT + text, {})


def every_setting(model: type[Settings] = Config, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key in keys_of(model):
        below = model_at(model, (key,)) or model_at(model, (key, 0))
        if below is None:
            yield (*path, key)
        else:
            assert issubclass(below, Settings)
            yield from every_setting(below, (*path, key))


def keys_in(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (*path, key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from keys_in(item, (*path, key))


def uncommented() -> str:
    """The example with its settings without a default switched on, and the long forms of empty ones."""
    text = re.sub(r"^#(?=\[|[a-z_]+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(freezes = \[\]|extra = \{\}|match = .*)$", "", text, flags=re.MULTILINE)
    return re.sub(r"^# (?=(freezes|extra|match) = )", "", text, flags=re.MULTILINE)


def test_the_example_is_right_as_it_stands_and_begins_in_observe_mode() -> None:
    got = config.load(EXAMPLE, {})
    assert got.fleet.mode is FleetMode.OBSERVE
    assert config.example() == EXAMPLE.read_text()


def test_the_example_names_every_setting_and_no_other() -> None:
    named = set(keys_in(tomllib.loads(uncommented())))
    known = {path for path in every_setting() if path[:2] != ("policies", "exclude")}
    missing = known - named
    assert missing == set()
    tables = {path[:n] for path in every_setting() for n in range(1, len(path))}
    free = {path for path in named if path[:-1] in known}  # the keys of tables of free names: tags, extra
    assert {
        path for path in named if path not in known | tables | free and path[:2] != ("policies", "exclude")
    } == set()


def test_the_values_of_the_example_are_the_defaults() -> None:
    example = config.effective(config.load(EXAMPLE, {}))
    default = config.effective(read(POLICY.replace('"ci"', '"default"')))
    for given_on_purpose in (("fleet", "mode"), ("vault", "auth")):
        example[given_on_purpose[0]].pop(given_on_purpose[1])
        default[given_on_purpose[0]].pop(given_on_purpose[1])
    for key in ("match", "exclude", "windows"):
        example["policies"][0].pop(key)
        default["policies"][0].pop(key)
    assert example == default


def test_what_is_shown_reads_back_to_the_same() -> None:
    text = POLICY + (
        "match = { users = ['ci-*'], tags = { 'a \"b\"' = 'x', from = '2026-01-01' } }\n"
        "windows = [{ cron = '0 2 * * *', duration = '4h' }]\n"
        "verify_regions = ['eu-west-1']\nverify_first = '0.2s'\nunused_for = '0s'\n"
        "[fleet]\nfreezes = [{ from = 2026-12-20, to = 2027-01-04, reason = 'year \"end\"\\n' }]\n"
        "[[aws.accounts]]\nid = '111122223333'\n"
    )
    got = read(text)
    assert config.parse(config.as_toml(got), {}) == got
    assert json.loads(json.dumps(config.effective(got)))["policies"][0]["verify_first"] == "0.2s"


def test_the_schema_describes_every_setting() -> None:
    schema = config.schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["vault"]
    undescribed = [
        f"{name}.{key}"
        for name, table in {**schema["$defs"], "": schema}.items()
        for key, setting in table.get("properties", {}).items()
        if "description" not in setting and name and "$ref" not in json.dumps(setting)
    ]
    assert undescribed == []


def test_the_core_gets_the_policies_with_lead_and_orphans() -> None:
    text = POLICY + (
        "match = { users = ['ci-*'], paths = ['/svc/'] }\nexclude = { tags = { keep = '*' } }\n"
        "spare_key = 'retire-unused'\n"
        "[orphans]\nattribution = 'window'\nwait = '2d'\n"
    )
    (policy,) = config.policies_of(read(text))
    assert (policy.match.users, policy.match.paths, policy.exclude.tags) == (("ci-*",), ("/svc/",), {"keep": "*"})
    assert policy.spare_key is SpareKey.RETIRE_UNUSED
    assert (policy.orphans.attribution, policy.orphans.wait) == (Attribution.WINDOW, timedelta(days=2))
    assert policy.lead == timedelta(hours=1, minutes=12, seconds=3)


def test_a_freeze_holds_from_its_first_day_to_its_last() -> None:
    (freeze,) = config.freezes_of(read("[fleet]\nfreezes = [{ from = 2026-12-20, to = 2027-01-04, reason = 'x' }]"))
    assert freeze.covers(datetime(2026, 12, 20, tzinfo=UTC))
    assert freeze.covers(datetime(2027, 1, 4, 23, 59, tzinfo=UTC))
    assert not freeze.covers(datetime(2027, 1, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        (FieldPreset.DEFAULT, ("access_key_id", "secret_access_key")),
        (FieldPreset.VAULT_AWS, ("access_key", "secret_key")),
        (FieldPreset.ENV, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        (FieldPreset.SHARED_CREDENTIALS, ("aws_access_key_id", "aws_secret_access_key")),
    ],
)
def test_each_preset_names_the_pair(preset: FieldPreset, names: tuple[str, str]) -> None:
    assert (preset.access_key_id, preset.secret_access_key) == names


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:9744", ("::1", 9744)), ("localhost:80", ("localhost", 80))],
)
def test_an_address_to_listen_on_has_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert config.listen_address(text) == address


# --- anything at all -------------------------------------------------------------------------------------------------

_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 400) | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_PATHS = sorted(every_setting())


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(_PATHS), _JUNK, max_size=6))
def test_whatever_stands_in_the_environment_only_our_own_error_comes_out(junk: dict[tuple[str, ...], object]) -> None:
    environ = {"REKEYD_" + "__".join(path).upper(): json.dumps(value, default=str) for path, value in junk.items()}
    with suppress(ConfigProblemsError):
        config.parse(VAULT, environ)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.sampled_from(list("\"'[]{}=.,#\n09ax\\"))), max_size=4))
def test_whatever_is_typed_into_the_example_only_our_own_error_comes_out(edits: list[tuple[int, str]]) -> None:
    text = EXAMPLE.read_text()
    for place, sign in edits:
        text = text[:place] + sign + text[place + 1 :]
    with suppress(ConfigProblemsError):
        config.parse(text, {})
