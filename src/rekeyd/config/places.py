"""Where each principal's pair lives: the places of the policies, or else the one of [vault]."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from rekeyd.adapters.vault_fields import BadPathError, FieldNames, PathValues, field_names, render_path
from rekeyd.adapters.vault_settings import normal_address
from rekeyd.config.models import Config, FieldSettings
from rekeyd.core.model import AccountId, Place, Principal, Selection
from rekeyd.core.policy import Policy, select

AliasOf = Callable[[AccountId], str | None]
"""Raises TemporaryError when it cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    namespace: str
    mount: str
    path: str
    names: FieldNames


class Places:
    """The places of one configuration. Safe to share between threads."""

    def __init__(
        self, config: Config, policies: tuple[Policy, ...], *, partition: Callable[[], str], alias_of: AliasOf
    ) -> None:
        vault = config.vault
        self._address = normal_address(vault.address)
        self._policies = policies
        self._partition = partition
        self._alias_of = alias_of
        self._usual = _Template(
            namespace=vault.namespace or "", mount=vault.mount, path=vault.path, names=_names(vault.fields)
        )
        self._of_policy = {
            policy.name: _Template(
                namespace=policy.namespace or self._usual.namespace,
                mount=policy.mount or self._usual.mount,
                path=policy.path or self._usual.path,
                names=self._usual.names if policy.fields is None else _names(policy.fields),
            )
            for policy in config.policies
        }
        self._accounts_of = {policy.name: policy.match.accounts for policy in config.policies}
        self._one_account = len(config.aws.accounts) <= 1 and config.aws.organization is None
        state_path = vault.state_path.replace("{instance}", config.journal.instance)
        self._mark = (self._usual.namespace, self._usual.mount, state_path.casefold())

    def place_of(self, principal: Principal) -> Place:
        """BadPathError when the name makes no valid place. A principal of no policy has the place of [vault]."""
        selected = select(self._policies, principal)
        managed = selected.selection is Selection.MANAGED and selected.policy is not None
        template = self._of_policy[selected.policy.name] if managed and selected.policy else self._usual
        path = render_path(template.path, self._values(template, principal))
        if (template.namespace, template.mount, path.casefold()) == self._mark:
            raise BadPathError(
                f"{path} is where the journal's high-water mark is kept", hint="change vault.path or vault.state_path"
            )
        return Place(
            address=self._address,
            namespace=template.namespace,
            mount=template.mount,
            path=path,
            id_field=template.names.id_field,
            secret_field=template.names.secret_field,
        )

    def extra_of(self, policy: Policy) -> Mapping[str, str]:
        """The static fields beside the pair."""
        return self._of_policy.get(policy.name, self._usual).names.extra

    def sharers_of(self, principal: Principal, watched: Callable[[], Collection[AccountId]]) -> frozenset[AccountId]:
        """Of the `watched` accounts those, beside its own, to whose users some policy could give the same place.

        None where the path names the account, and in a configuration of one account: then `watched` is not called.
        """
        policy = select(self._policies, principal).policy
        if policy is None or self._one_account or _names_account(self._of_policy[policy.name].path):
            return frozenset()
        mine = self._of_policy[policy.name]
        return frozenset(
            account_id
            for account_id in watched()
            if account_id != principal.account_id and any(_may_coincide(mine, one) for one in self._used_in(account_id))
        )

    def _used_in(self, account_id: AccountId) -> list[_Template]:
        return [
            replace(self._of_policy[name], path=self._of_policy[name].path.replace("{account_id}", account_id))
            for name, accounts in self._accounts_of.items()
            if accounts is None or account_id in accounts
        ]

    def _values(self, template: _Template, principal: Principal) -> PathValues:
        # Asked only when it is wanted: it costs a permission and a call.
        wants_alias = "{account_alias}" in template.path
        return PathValues(
            account_id=principal.account_id,
            user_name=principal.user_name,
            user_path=principal.path,
            partition=self._partition(),
            account_alias=self._alias_of(principal.account_id) if wants_alias else None,
        )


def _names(fields: FieldSettings) -> FieldNames:
    return field_names(
        fields.preset.value,
        id_field=fields.access_key_id,
        secret_field=fields.secret_access_key,
        extra=fields.extra,
    )


def _names_account(path: str) -> bool:
    return "{account_id}" in path or "{account_alias}" in path


def _may_coincide(one: _Template, other: _Template) -> bool:
    """Whether some values could make one place of the two; in doubt yes."""
    if (one.namespace.casefold(), one.mount.casefold()) != (other.namespace.casefold(), other.mount.casefold()):
        return False
    for mine, theirs in zip_longest(one.path.casefold().split("/"), other.path.casefold().split("/")):
        if "{user_path}" in (mine, theirs):
            return True  # any number of segments, so the others need not stand side by side
        if mine is None or theirs is None or not _may_be_equal(mine, theirs):
            return False
    return True


def _may_be_equal(mine: str, theirs: str) -> bool:
    if "{" in mine and "{" in theirs:
        return True
    pattern, text = (mine, theirs) if "{" in mine else (theirs, mine)
    return re.fullmatch(".+".join(map(re.escape, re.split(r"{\w+}", pattern))), text) is not None
