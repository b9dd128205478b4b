"""Where each principal's pair lives: the places of the policies, or else the one of [vault]."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rekeyd.adapters.vault_fields import BadPathError, FieldNames, PathValues, field_names, render_path
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
        self._address = vault.address
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
