"""Settings from the environment: REKEYD_SECTION__KEY=value over the file, $VAULT_… under it.

Text, durations, names and paths are taken as they are; numbers, flags, lists and
tables are JSON. Names with a double underscore are ours, so an unknown one is a
mistake. Others are not: Kubernetes sets REKEYD_PORT and the like for a Service.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekeyd.config.models import Config
from rekeyd.config.positions import Path
from rekeyd.config.shape import Shape, looks_secret, nearest, shape_of

PREFIX = "REKEYD_"

# Understood by Vault's own tools too. A token is not among them: a secret never comes from the environment.
_VAULT_VARIABLES: Mapping[str, Path] = {
    "VAULT_ADDR": ("vault", "address"),
    "VAULT_NAMESPACE": ("vault", "namespace"),
    "VAULT_CACERT": ("vault", "ca_file"),
    "VAULT_CLIENT_CERT": ("vault", "client_cert_file"),
    "VAULT_CLIENT_KEY": ("vault", "client_key_file"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FromEnvironment:
    overrides: Mapping[str, tuple[Path, object]]
    """By variable; these win over the file."""
    fallbacks: Mapping[str, tuple[Path, object]]
    """By variable; the file wins over these."""
    mistakes: tuple[tuple[str, str, str | None], ...]
    """Variable, message, hint; never a value."""


def read_environment(environ: Mapping[str, str]) -> FromEnvironment:
    overrides: dict[str, tuple[Path, object]] = {}
    mistakes: list[tuple[str, str, str | None]] = []
    known = _known_variables()
    misspelt = {name.replace("__", "_"): name for name in known if "__" in name}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX):
            continue
        if variable in misspelt:
            mistakes.append((variable, "has one underscore between table and key", f"write {misspelt[variable]}"))
            continue
        if "__" not in variable and variable not in known:
            continue
        path = tuple(part.lower() for part in variable.removeprefix(PREFIX).split("__"))
        shape = shape_of(Config, path)
        if shape is None:
            mistakes.append((variable, *_unknown(variable, known)))
            continue
        try:
            overrides[variable] = (path, _value(shape, text))
        except ValueError:
            mistakes.append((variable, f"is not JSON, which a {shape.value} is written in here", None))
    fallbacks: dict[str, tuple[Path, object]] = {
        variable: (path, environ[variable]) for variable, path in _VAULT_VARIABLES.items() if environ.get(variable)
    }
    return FromEnvironment(overrides=overrides, fallbacks=fallbacks, mistakes=tuple(mistakes))


def _known_variables() -> list[str]:
    names = []
    for section, field in Config.model_fields.items():
        names.append(PREFIX + section.upper())
        model = shape_of(Config, (section,))
        if model is Shape.TABLE:
            names += _below(field.annotation, PREFIX + section.upper())
    return names


def _below(model: Any, prefix: str) -> list[str]:
    names = []
    for key, field in getattr(model, "model_fields", {}).items():
        name = f"{prefix}__{key.upper()}"
        names += [name, *_below(field.annotation, name)]
    return names


def _unknown(variable: str, known: list[str]) -> tuple[str, str | None]:
    if looks_secret(re.split("__", variable)[-1].lower()) or variable.endswith("_TOKEN"):
        return (
            "is no setting; a secret is never taken from the environment",
            f"write the secret into a file and its path into {variable}_FILE" if f"{variable}_FILE" in known else None,
        )
    near = nearest(variable, known)
    return "is no setting", None if near is None else f"did you mean {near}?"


def _value(shape: Shape, text: str) -> object:
    """Raises `ValueError` if JSON is asked for and the text is none."""
    if shape is Shape.TEXT:
        return text
    if shape is Shape.TEXT_OR_LIST and not text.startswith("["):
        return text
    return json.loads(text)
