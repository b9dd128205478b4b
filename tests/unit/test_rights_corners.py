"""Corners of administrator rights and quarantine policies."""

import json

import pytest

from rekeyd.core.rights import administrator_by, allows_everything, quarantined_by

QUARANTINE = "arn:aws:iam::aws:policy/AWSCompromisedKeyQuarantineV3"
ON_ALL_BUT_ONE = {"Effect": "Allow", "Action": "iam:*", "NotResource": "arn:aws:s3:::logs"}


def test_everything_on_all_resources_but_one_is_everything() -> None:
    assert allows_everything({"Statement": ON_ALL_BUT_ONE})
    without = {name: value for name, value in ON_ALL_BUT_ONE.items() if name != "NotResource"}
    assert not allows_everything({"Statement": without})


def test_a_percent_sign_in_a_plain_policy_is_not_decoded() -> None:
    assert not allows_everything(json.dumps({"Statement": {**ON_ALL_BUT_ONE, "Action": "iam:%2A"}}))


def test_a_policy_nested_without_end_allows_nothing() -> None:
    assert not allows_everything("[" * 5000)


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        (QUARANTINE, "AWSCompromisedKeyQuarantineV3"),
        ("arn:aws:iam::aws:policy/ReadOnlyAccess", None),
        ("arn:aws:iam::111122223333:policy/AWSCompromisedKeyQuarantineV3", None),
    ],
)
def test_only_awss_own_quarantine_policy_is_one(arn: str, name: str | None) -> None:
    assert quarantined_by([arn]) == name


def test_a_policy_of_aws_is_named_by_its_last_word() -> None:
    assert administrator_by(["arn:aws:iam::aws:policy/AdministratorAccess"], []) == "AdministratorAccess"
