"""Paths in Vault that nobody can escape from, and names of fields that every consumer accepts."""

import pytest

from rekeyd.adapters.vault_fields import (
    PRESETS,
    BadPathError,
    PathValues,
    check_template,
    field_names,
    render_path,
)
from rekeyd.core.reasons import Reason
from rekeyd.errors import ConfigError


def values(user_name: str = "ci", **more: str) -> PathValues:
    given = {"account_id": "000022223333", "user_path": "/service/ci/", "partition": "aws", "account_alias": "shop"}
    return PathValues(user_name=user_name, **{**given, **more})


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("aws/{account_id}/{user_name}", "aws/000022223333/ci"),
        ("{partition}-{account_alias}/x-{user_name}", "aws-shop/x-ci"),
        ("aws/{user_path}/{user_name}", "aws/service/ci/ci"),
        ("fixed/place", "fixed/place"),
    ],
)
def test_a_template_becomes_a_path(template: str, path: str) -> None:
    assert render_path(template, values()) == path


def test_the_root_path_of_iam_is_no_segment() -> None:
    assert render_path("aws/{user_path}/{user_name}", values(user_path="/")) == "aws/ci"


@pytest.mark.parametrize("name", ["+=,.@_-", "...", "..a", "%2e%2e", "a b", "Zoë", "~", "{user_name}"])
def test_odd_names_stay_in_their_segment(name: str) -> None:
    assert render_path("aws/{account_id}/{user_name}", values(name)) == f"aws/000022223333/{name}"


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/", "a\nb", "a\x00", "a\x7f", "\u2028", "a\u0085"])
def test_a_name_that_would_leave_its_segment_is_refused(name: str) -> None:
    with pytest.raises(BadPathError, match=r"in Vault|cannot be made") as caught:
        render_path("aws/{account_id}/{user_name}", values(name))
    assert caught.value.reason is Reason.BAD_PATH
    assert caught.value.code == "bad_path"


@pytest.mark.parametrize("user_path", ["/../", "//", "/a//b/", "/./"])
def test_an_iam_path_with_odd_segments_is_refused(user_path: str) -> None:
    with pytest.raises(BadPathError, match="in Vault has"):
        render_path("aws/{user_path}/{user_name}", values(user_path=user_path))


def test_two_dots_that_meet_in_one_segment_are_refused() -> None:
    with pytest.raises(BadPathError, match=r'has a segment "\.\."'):
        render_path("aws/.{user_name}", values("."))


def test_an_account_without_an_alias_has_no_path_by_alias() -> None:
    with pytest.raises(BadPathError, match="account_alias of user 'ci' is empty"):
        render_path(
            "{account_alias}/{user_name}", PathValues(account_id="1", user_name="ci", user_path="/", partition="aws")
        )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("aws/{username}", 'unknown placeholder "{username}"'),
        ("aws/x{user_path}/{user_name}", "mixes {user_path} with other text"),
        ("aws/{user_name", "has an unpaired brace"),
        ("/aws/{user_name}", "has an empty segment"),
        ("aws/../{user_name}", 'has a segment ".."'),
        ("", "has an empty segment"),
    ],
)
def test_a_template_that_cannot_make_a_path_is_refused(template: str, said: str) -> None:
    with pytest.raises(ConfigError, match="vault") as caught:
        check_template(template)
    assert said in caught.value.message


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_names_two_fields(preset: str) -> None:
    names = field_names(preset, extra={"team": "payments"})
    assert names.id_field != names.secret_field
    assert names.extra == {"team": "payments"}


def test_own_names_replace_those_of_the_preset() -> None:
    names = field_names("env", id_field="KEY")
    assert (names.id_field, names.secret_field) == ("KEY", "AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"preset": "vault"}, 'preset = "vault" is unknown'),
        ({"id_field": "same", "secret_field": "same"}, "two fields have the same name"),
        ({"extra": {"access_key_id": "x"}}, "two fields have the same name"),
        ({"extra": {"_raw": "x"}}, '"_raw" cannot be the name'),
        ({"extra": {"rekeyd_burned": "x"}}, '"rekeyd_burned" cannot be the name'),
        ({"id_field": "with space"}, '"with space" cannot be the name'),
        ({"extra": {"port": 5432}}, "extra.port is not a string"),
    ],
)
def test_names_that_some_consumer_would_choke_on_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match="vault") as caught:
        field_names(**arguments)  # type: ignore[arg-type]  # wrong on purpose
    assert said in caught.value.message
