"""Domains from anyone's PyTorch data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from domaingrad.bench.names import look_up

from .data import AsStored, DataError, DomainData, Groups
from .fetched import Fetch, FetchedSamples, MapStyle
from .photographs import Photographs
from .recipes import Recipe, for_digits, for_photographs, for_tables

MOST_GAPS = 1000
"""Classes up to which some may have no samples; of more, one in a hundred has to have some."""
AT_ONCE = 256
"""Samples of a data set that is not kept that are in memory together."""


def from_datasets(
    domains: Mapping[str, Dataset[Any]],
    name: str,
    classes: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[object]] | None = None,
    fetch: Fetch = "once",
) -> DomainData:
    """Data in memory, from one map-style data set a domain.

    Inputs are tensors of one shape. Square colour images in uint8 become photographs, with
    DomainBed's normalisation and augmentation; everything else goes to the model as it is. Integer
    labels are classes from 0, others numbers to predict.

    Args:
        domains: data sets that give (input, label), by name of the domain.
        name: what the data are called; seeds derive from it.
        classes: names of the classes; their numbers unless given.
        groups: by domain the name of each sample's group, which is never split; the same name is
            the same group in all domains.
        fetch: whether inputs are kept in memory, or asked for as they are needed; then each data
            set is gone through once, for its labels and its fingerprint.

    Raises:
        DataError: no domain, an empty one, inputs of different shapes, labels that are no classes,
            groups of other domains or numbers of samples.

    >>> left = TensorDataset(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))
    >>> data = from_datasets({"left": left, "right": left}, "demo", ["cat", "dog"])
    >>> data.task, data.classes, data.preparation.shape
    ('classification', ('cat', 'dog'), (3,))
    """
    if not domains:
        raise DataError(f"{name}: expected at least one domain; found none.")
    digest = sha256()
    stored = {
        domain: _stacked(domain, data) if fetch == "once" else _passed(domain, data, digest)
        for domain, data in domains.items()
    }
    shapes = {domain: tuple(data.tensors[0].shape[1:]) for domain, data in stored.items()}
    for domain, data in stored.items() if fetch == "once" else ():
        _require_finite(domain, data)
    kinds = {data.tensors[1].is_floating_point() for data in stored.values()}
    if len(set(shapes.values())) > 1 or len(kinds) > 1:
        raise DataError(
            f"{name}: all domains must have inputs of one shape and labels of one kind; found the "
            f"shapes {shapes}."
        )
    first = next(iter(stored.values())).tensors[0][torch.tensor([0])]
    shape = tuple(first.shape[1:])
    square = len(shape) == 3 and shape[1] == shape[2]
    photographs = first.dtype == torch.uint8 and square and shape[0] == 3
    regression = kinds == {True}
    return DomainData(
        name=name,
        domains=stored,
        preparation=Photographs(shape[1]) if photographs else AsStored(shape),
        recipe=_recipe(shape, photographs, [len(data) for data in stored.values()]),
        task="regression" if regression else "classification",
        classes=() if regression else _classes(name, stored, classes),
        fingerprint=_fingerprint(stored, groups or {}, None if fetch == "once" else digest),
        groups=_groups(stored, groups or {}),
    )


def _recipe(shape: tuple[int, ...], photographs: bool, sizes: Sequence[int]) -> Recipe:
    if len(shape) == 1:
        return for_tables(sizes)
    return for_photographs(shape) if photographs else for_digits(shape)


def _stacked(domain: str, data: Dataset[Any]) -> TensorDataset:
    if isinstance(data, Sized) and len(data) == 0:
        raise DataError(f"domain {domain} has no samples; leave it out.")
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        inputs, labels = data.tensors
    else:
        try:
            samples = [data[index] for index in range(len(data))]  # type: ignore[arg-type]
            inputs = torch.stack([x for x, _ in samples])
            truth = [y for _, y in samples]
            # Python's numbers keep their digits.
            precise = torch.float64 if any(type(y) is float for y in truth) else None
            labels = torch.tensor(truth, dtype=precise)
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise DataError(
                f"domain {domain}: expected a map-style data set of samples (tensor, label), all "
                f"tensors of one shape; {type(error).__name__}: {error}. Let the data set have a "
                f"length, and turn its inputs into tensors."
            ) from error
    if labels.dim() != 1:
        raise DataError(
            f"domain {domain}: expected one label a sample; found labels of shape "
            f"{list(labels.shape)}."
        )
    if inputs.is_floating_point():
        inputs = inputs.float()
    whole = not labels.is_floating_point()
    kept = labels.long() if whole else labels if labels.dtype == torch.float64 else labels.float()
    return TensorDataset(inputs, kept)


def _passed(domain: str, data: Dataset[Any], digest: Any) -> TensorDataset:
    """Once through a data set that is not kept, for its labels and what it is known by."""
    digest.update(domain.encode())
    labels, shapes = [], set()
    rows = torch.arange(len(data)).split(AT_ONCE)  # type: ignore[arg-type, no-untyped-call]
    for some in rows:
        part = _stacked(domain, Subset(data, some.tolist()))
        _require_finite(domain, part)
        for tensor in part.tensors:
            digest.update(_bytes(tensor))
        labels.append(part.tensors[1])
        shapes.add(tuple(part.tensors[0].shape[1:]))
    if len(shapes) > 1:
        raise DataError(f"domain {domain}: expected inputs of one shape; found {sorted(shapes)}.")
    return FetchedSamples(MapStyle(data, shapes.pop()), torch.cat(labels))


def _require_finite(domain: str, data: TensorDataset) -> None:
    for what, tensor in zip(("input", "label"), data.tensors, strict=True):
        if tensor.is_complex() or not tensor[:1].numel():
            raise DataError(
                f"domain {domain}: expected an {what} of real numbers, one at least; found "
                f"{list(tensor.shape)} of {tensor.dtype}."
            )
        if not tensor.is_floating_point():
            continue
        odd = (~tensor.isfinite().flatten(1).all(1)) if tensor.dim() > 1 else ~tensor.isfinite()
        if odd.any():
            rows = odd.nonzero().flatten().tolist()
            raise DataError(
                f"domain {domain}: {len(rows):,} samples have an {what} that is not finite, the "
                f"first at {rows[0]}; mend or leave them out."
            )


def _classes(
    name: str, stored: Mapping[str, TensorDataset], classes: Sequence[str] | None
) -> tuple[str, ...]:
    labels = torch.cat([data.tensors[1] for data in stored.values()])
    least, most = int(labels.min()), int(labels.max())
    count = most + 1 if classes is None else len(classes)
    if least < 0 or most >= count or count < 2:
        raise DataError(
            f"{name}: labels must be classes numbered from 0, of at least two classes; found "
            f"{least} to {most}, and {count} classes. Give floating-point labels for regression."
        )
    if classes is None and count > max(MOST_GAPS, 100 * len(torch.unique(labels))):
        raise DataError(
            f"{name}: labels must be numbered from 0 without gaps; found {most} as the largest of "
            f"{len(torch.unique(labels)):,} different ones. Number them anew, or name all classes."
        )
    if classes is not None and len(set(classes)) < count:
        raise DataError(f"{name}: expected different names of classes; found {list(classes)}.")
    return tuple(map(str, range(count) if classes is None else classes))


def _groups(
    stored: Mapping[str, TensorDataset], groups: Mapping[str, Sequence[object]]
) -> dict[str, Groups]:
    for domain, names in groups.items():
        count = len(look_up("domain", domain, stored))
        if len(names) != count:
            raise DataError(
                f"domain {domain}: expected the group of each of its {count:,} samples; found "
                f"{len(names):,}."
            )
    return {domain: Groups.of(names) for domain, names in groups.items()}


def _fingerprint(
    stored: Mapping[str, TensorDataset],
    groups: Mapping[str, Sequence[object]],
    passed: Any,
) -> str:
    """Of all samples, unless they have been passed through already, and the groups."""
    digest = sha256() if passed is None else passed
    for name, data in stored.items():
        digest.update(name.encode())
        for tensor in data.tensors if passed is None else ():
            digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
        if name in groups:
            digest.update(repr([str(each) for each in groups[name]]).encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
