"""Where pairs live: the policies' own places, and what a principal of none has."""

from typing import Any

import pytest

from rekeyd import config
from rekeyd.adapters.vault_fields import BadPathError
from rekeyd.adapters.vault_settings import normal_address
from rekeyd.config import Problem, policies_of
from rekeyd.config.places import Places
from rekeyd.core.model import AccountId, Principal, UserId
from rekeyd.errors import TemporaryError

VAULT = """
[vault]
address = "https://vault.example:8200"
namespace = "platform"
path = "aws/{account_id}/{user_name}"
fields = { extra = { team = "platform" } }
[vault.auth]
token_file = "/t"
"""
PAYMENTS = """
[[policies]]
name = "payments"
match = { paths = ["/payments/"] }
namespace = "payments"
mount = "kv"
path = "{partition}/{account_alias}/{user_path}/{user_name}"
fields = { preset = "env", access_key_id = "ID" }
[[policies]]
name = "rest"
match = { users = ["ci-*"] }
"""


def principal(name: str, path: str = "/") -> Principal:
    return Principal(
        account_id=AccountId("111122223333"),
        user_name=name,
        user_id=UserId(f"AIDA{name}"),
        path=path,
        arn=f"arn:aws:iam::111122223333:user{path}{name}",
        tags={},
    )


def places(text: str = VAULT + PAYMENTS, alias: str | None = "shop") -> Places:
    read = config.parse(text, {})
    return Places(read, policies_of(read), partition=lambda: "aws", alias_of=lambda _: alias)


def test_a_policy_has_a_place_of_its_own() -> None:
    place = places().place_of(principal("till", "/payments/emea/"))
    assert (place.namespace, place.mount) == ("payments", "kv")
    assert place.path == "aws/shop/payments/emea/till"
    assert (place.id_field, place.secret_field) == ("ID", "AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("name", ["ci-deploy", "nobodys"], ids=["of a policy without one", "of no policy"])
def test_everybody_else_has_the_place_of_vault(name: str) -> None:
    place = places().place_of(principal(name))
    assert (place.namespace, place.mount, place.path) == ("platform", "secret", f"aws/111122223333/{name}")
    assert (place.id_field, place.secret_field) == ("access_key_id", "secret_access_key")


def test_the_static_fields_of_a_policy_replace_those_of_vault() -> None:
    text = VAULT + PAYMENTS.replace('"ID" }', '"ID", extra = { team = "payments" } }')
    read = config.parse(text, {})
    payments, rest = policies_of(read)
    made = places(text)
    assert (made.extra_of(payments), made.extra_of(rest)) == ({"team": "payments"}, {"team": "platform"})


def test_an_account_without_an_alias_has_no_such_place() -> None:
    with pytest.raises(BadPathError, match="account_alias of user 'till' is empty"):
        places(alias=None).place_of(principal("till", "/payments/"))


def test_the_alias_is_asked_for_only_where_it_is_wanted() -> None:
    def unreadable(_: AccountId) -> str | None:
        raise TemporaryError("the alias cannot be read")

    read = config.parse(VAULT + PAYMENTS, {})
    made = Places(read, policies_of(read), partition=lambda: "aws", alias_of=unreadable)
    assert made.place_of(principal("ci-deploy")).path == "aws/111122223333/ci-deploy"
    with pytest.raises(TemporaryError, match="the alias cannot be read"):
        made.place_of(principal("till", "/payments/"))


SPELLINGS = {
    "https://vault.example": ("https://vault.example/", "https://VAULT.example:443", "HTTPS://vault.example"),
    "http://127.0.0.1:8200": ("http://127.0.0.1:8200/",),
    "https://[::1]:8200": ("https://[::1]:8200/",),
    "http://vault.example:443": ("http://vault.example:443",),
    "https://vault.example:no": ("https://vault.example:no",),
}


@pytest.mark.parametrize("address", SPELLINGS)
def test_an_address_has_one_spelling(address: str) -> None:
    assert {normal_address(spelling) for spelling in (address, *SPELLINGS[address])} == {address}
    if address.startswith("https://v") and not address.endswith("no"):
        text = VAULT.replace("https://vault.example:8200", SPELLINGS[address][0])
        assert places(text).place_of(principal("ci")).address == address


def test_no_user_gets_the_place_of_the_mark() -> None:
    text = VAULT.replace("aws/{account_id}/{user_name}", "rekeyd/{user_name}")
    with pytest.raises(BadPathError, match="is where the journal's high-water mark is kept"):
        places(text).place_of(principal("Default"))
    assert places(text).place_of(principal("ci")).path == "rekeyd/ci"


WRONG: dict[str, tuple[str, str, str]] = {
    "a path without a user": ('path = "aws/{account_id}"', "policies[0].path", "has no {user_name}"),
    "a user's path beside other text": (
        'path = "a{user_path}/{user_name}"',
        "policies[0].path",
        "mixes {user_path} with other text",
    ),
    "an unknown placeholder": ('path = "{user}/{user_name}"', "policies[0].path", "unknown placeholder"),
    "one name for both halves": (
        'fields = { access_key_id = "k", secret_access_key = "K" }',
        "policies[0].fields",
        "gives both halves of the pair one name",
    ),
    "a name that consumers refuse": (
        'fields = { access_key_id = "the id" }',
        "policies[0].fields.access_key_id",
        "cannot be the name of a field",
    ),
    "a static field with a name of the pair": (
        'fields = { preset = "env", extra = { aws_access_key_id = "x" } }',
        "policies[0].fields.extra.aws_access_key_id",
        "has the name of a field of the pair",
    ),
}


@pytest.mark.parametrize("case", WRONG.items(), ids=lambda case: case[0])
def test_a_mistake_about_a_place_is_named(case: tuple[str, tuple[str, str, str]]) -> None:
    text, key, message = case[1]
    found = _problems(VAULT + f'[[policies]]\nname = "p"\n{text}')
    assert [problem for problem in found if problem.key == key and message in problem.message], found


def test_a_policy_of_one_account_needs_no_account_in_its_path() -> None:
    accounts = "".join(
        f'[[aws.accounts]]\nid = "{n * 12}"\nrole_arn = "arn:aws:iam::{n * 12}:role/r"\n' for n in ("1", "2")
    )
    one = '[[policies]]\nname = "p"\npath = "team/{user_name}"\nmatch = { accounts = ["111111111111"] }'
    assert config.parse(accounts + VAULT + one, {}).policies[0].path == "team/{user_name}"
    found = _problems(accounts + VAULT + one.replace('["111111111111"]', '["111111111111", "222222222222"]'))
    assert "has no {account_id}" in found[0].message


def _problems(text: str) -> list[Problem]:
    with pytest.raises(config.ConfigProblemsError, match="mistake") as raised:
        config.parse(text, {})
    problems: Any = raised.value.problems
    return list(problems)
