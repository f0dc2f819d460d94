"""Preparations as they were written down beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domaingrad.bench.names import Registry

from .data import AsStored, DataError, Preparation
from .embeddings import Embeddings
from .mnist import Digits
from .photographs import Photographs
from .table import Table
from .texts import TextEmbeddings, Words

PREPARATIONS = Registry[type[Preparation]]("preparation")
"""Every kind of preparation, by the name under which it is written down."""

for _kind in (AsStored, Digits, Embeddings, Photographs, Table, TextEmbeddings, Words):
    PREPARATIONS.add(_kind.kind, _kind)


def preparation_from(described: Mapping[str, Any]) -> Preparation:
    """What :meth:`Preparation.described` had described.

    Raises:
        DataError: a kind of another version.

    >>> preparation_from({"kind": "tensors", "stored_shape": [3, 8]})
    AsStored(stored_shape=(3, 8))
    """
    fields = {name: _tuples(value) for name, value in described.items() if name != "kind"}
    try:
        return PREPARATIONS[described["kind"]](**fields)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"the model's inputs are described as {described.get('kind')!r}, which this version of "
            f"domaingrad does not read ({error}). Use the version that trained it."
        ) from error


def _tuples(value: Any) -> Any:
    """JSON has lists where a preparation has tuples."""
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    return value
