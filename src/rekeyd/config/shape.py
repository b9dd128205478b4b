"""What the models say about a key: whether it exists, what kind it takes, what its neighbours are called."""

import difflib
import re
import types
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from rekeyd.config.positions import Path

_SECRET_NAME = re.compile(r"token|passw|secret|credential|private|api_?key|access_?key|client_key$", re.IGNORECASE)


class Shape(StrEnum):
    TEXT = "text"
    NUMBER = "number"
    FLAG = "flag"
    LIST = "list"
    TABLE = "table"
    TEXT_OR_LIST = "text or list"


def looks_secret(key: str) -> bool:
    """Whether a key of this name would hold a secret (`token`), and not the way to one (`token_file`)."""
    return _SECRET_NAME.search(key) is not None and not key.endswith(("_file", "_id", "_arn"))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; None if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """The keys as the file spells them, with their types."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def model_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model of the table at this path; None if no table of ours stands there."""
    kind: Any = root
    for part in path:
        kind = _step(kind, part)
    inner = _plain(kind)
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def shape_of(root: type[BaseModel], path: Path) -> Shape | None:
    """The kind of value at this path; None if there is no such key."""
    kind: Any = root
    for part in path:
        kind = _step(kind, part)
    if kind is None:
        return None
    inner = _plain(kind)
    origin = get_origin(inner)
    if inner is bool:
        return Shape.FLAG
    if inner is int:
        return Shape.NUMBER
    if origin is dict or (isinstance(inner, type) and issubclass(inner, BaseModel)):
        return Shape.TABLE
    if origin is tuple:
        return Shape.TEXT_OR_LIST if path and path[-1] == "verify_regions" else Shape.LIST
    return Shape.TEXT


def _step(kind: Any, part: str | int) -> Any:
    inner = _plain(kind)
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return keys_of(inner).get(str(part))
    if get_origin(inner) is tuple and isinstance(part, int):
        return get_args(inner)[0]
    if get_origin(inner) is dict:
        return get_args(inner)[1]
    return None


def _plain(kind: Any) -> Any:
    """Without `Annotated` and `| None`."""
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind = get_args(kind)[0]
        elif origin in (Union, types.UnionType):
            kind = next(arg for arg in get_args(kind) if arg is not type(None))
        else:
            return kind
