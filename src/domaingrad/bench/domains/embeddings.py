"""Embeddings: anyone's own vectors in a file, or those of a frozen backbone."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.data import TensorDataset

from domaingrad.bench.disk import IN_ZIP, is_machines, make, read_arrays, writing
from domaingrad.bench.models import Network
from domaingrad.bench.names import imported_when_used, look_up
from domaingrad.bench.schema import Option, settings

from .data import (
    AS_USUAL,
    GROUP,
    DataError,
    DomainData,
    Groups,
    News,
    Preparation,
    Reader,
    ReaderOptions,
    Reading,
)
from .files import listed
from .recipes import for_embeddings
from .vectors import Maker, counted_domains, embedded_domains, vectors

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = imported_when_used("pandas")

USUAL = {
    "target": ("label", "labels", "target", "targets", "class", "y"),
    "domain": ("domain", "domains", "site", "environment", "env", "d"),
    "group": ("group", "groups"),
}
"""By what names an array is found where none is told."""
MADE_BY = "made_by"
"""Name of the array in which ``domaingrad embed`` says what made the vectors, as JSON."""
MOST_CLASSES = 20
"""Up to so many different whole numbers, kept as fractions, are classes unless told otherwise."""
DAMAGED = (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error, RuntimeError)
"""What readers raise at a file that is not what its name says."""
_MAKER = TypeAdapter(Maker | None)
FLOOR = 0.01
"""Share of the mean variance that is added to each component's."""


@dataclass(frozen=True)
class Embeddings(Preparation):
    """Vectors, standardised: (z − μ) / √(σ² + 0.01 mean σ²) by the sources' training splits.

    Ours is the second term: a component that hardly varies in the sources may vary at a new domain,
    and would weigh as much as it is rare there.

    >>> prepared = Embeddings(2).fitted([torch.tensor([[0.0, 1.0], [2.0, 1.0]])])
    >>> prepared(torch.tensor([[2.0, 1.0]]))
    tensor([[0.9975, 0.0000]])
    """

    kind: ClassVar[str] = "embeddings"

    width: int
    array: str = "embeddings"
    """Under what name a file has them."""
    maker: Maker | None = None
    """What has made them, and makes those of new inputs; ``None`` for anyone's own."""
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Take the maker as it is written down, too."""
        if isinstance(self.maker, Mapping):
            object.__setattr__(self, "maker", Maker(**self.maker))

    @property
    def shape(self) -> tuple[int, ...]:
        """One vector."""
        return (self.width,)

    def fitted(self, stored: Sequence[Tensor]) -> Embeddings:
        """With mean and scale of the sources' training splits."""
        rows = torch.cat(list(stored)).double()
        variance, mean = torch.var_mean(rows, 0, correction=0)
        scale = (variance + FLOOR * variance.mean()).sqrt()
        scale = torch.where(scale > 0, scale, 1)
        return replace(self, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))

    def __call__(self, stored: Tensor) -> Tensor:
        """Vectors [n, width], or the stored inputs of which the maker makes them, standardised."""
        if self.maker is not None and stored.dim() > 2:
            stored = self.network(stored.device).features(self.raw(stored))
        if not self.mean:
            return stored.float()
        mean, scale = (each.to(stored.device) for each in self._estimates)
        return (stored.float() - mean).div_(scale)

    def network(self, device: torch.device) -> Network:
        """The maker's backbone."""
        assert self.maker is not None
        return self.maker.features(self.raw.shape, device)

    def read(self, paths: Sequence[Path], reading: Reading = AS_USUAL) -> tuple[list[str], Tensor]:
        """Vectors in files, or inputs that the maker makes them of.

        Vectors are called ``FILE:ROW`` from 1, or by an array.

        Raises:
            DataError: as :func:`arrays_of`, or vectors of another width.
        """
        if self.maker is not None and not all(is_embeddings(path) for path in paths):
            names, stored = self.raw.read(paths, reading)
            return names, vectors(self.maker, self.raw, stored)
        names, found = [], []
        for path in paths:
            arrays = arrays_of(path)
            own = _vectors(path, arrays, self.array if self.array in arrays else None, {})[1]
            if own.shape[1] != self.width:
                raise DataError(
                    f"the model takes vectors of {self.width} numbers; {path} has {own.shape[1]}."
                )
            if reading.name is None:
                names += [f"{path}:{row}" for row in range(1, len(own) + 1)]
            else:
                look_up("array", reading.name, dict(arrays))
                names += [str(each) for each in arrays[reading.name]]
            found.append(own)
        return names, torch.cat(found)

    def adopted(self, other: Preparation, stored: Tensor) -> Tensor:
        """Vectors of the same maker, or inputs that it makes them of.

        Raises:
            DataError: others.
        """
        if self.maker is not None and not isinstance(other, Embeddings):
            return vectors(self.maker, self.raw, self.raw.adopted(other, stored))
        makers = [e.maker and e.maker.key() for e in (self, other) if isinstance(e, Embeddings)]
        if len(makers) == 2 and makers[0] != makers[1]:
            raise DataError(
                "these embeddings were made by another backbone, other weights or of another size "
                "than those that the model was trained on."
            )
        return super().adopted(other, stored)

    @cached_property
    def raw(self) -> Preparation:
        """Of the maker's inputs."""
        from .preparations import preparation_from  # noqa: PLC0415 - which knows this one, too

        assert self.maker is not None
        return preparation_from(self.maker.inputs)

    @cached_property
    def _estimates(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean), torch.tensor(self.scale)


def embedded(
    data: DomainData,
    backbone: str,
    weights: str | None,
    news: News,
    accelerator: str = "auto",
    counted: bool = False,
) -> DomainData:
    """The same data, as embeddings of a frozen backbone.

    Args:
        data: of images.
        backbone: its name.
        weights: their file; ``None`` or ``package`` where a package or directory has them.
        news: hears how it goes.
        accelerator: ``cpu`` for the CPU; else what there is.
        counted: whether random vectors will do, and nothing is embedded.

    Raises:
        BackboneError, WeightsError: no backbone or weights that fit.
        DataError: data of no images, or too little room on disk.
    """
    maker = Maker.of(backbone, weights, data.preparation)
    of = counted_domains if counted else embedded_domains
    domains = of(data, maker, news, accelerator)
    samples = sum(len(domain) for domain in domains.values())
    width = next(iter(domains.values())).tensors[0].shape[1]
    return replace(
        data,
        domains=domains,
        preparation=Embeddings(width, maker=maker),
        recipe=for_embeddings(samples, len(domains)),
        fingerprint=sha256(json.dumps([data.fingerprint, maker.key()]).encode()).hexdigest(),
    )


def write_embeddings(data: DomainData, path: Path) -> None:
    """Embedded data as an ``.npz`` that the reader reads: vectors, domain, label, group, maker.

    Raises:
        RunDirectoryError: the disk is full, or there is no such folder.
        OSError: they cannot be written there.
    """
    preparation = data.preparation
    assert isinstance(preparation, Embeddings)
    inputs, labels = (
        np.concatenate([domain.tensors[at].numpy() for domain in data.domains.values()])
        for at in (0, 1)
    )
    columns = {
        "embeddings": inputs,
        "label": np.array(data.classes)[labels] if data.classes else labels,
        "domain": np.concatenate([np.full(len(d), name) for name, d in data.domains.items()]),
        MADE_BY: np.array(json.dumps(preparation.maker and asdict(preparation.maker))),
    }
    if data.groups:
        columns["group"] = np.concatenate(
            [
                np.array(data.groups[name].names)[data.groups[name].of_sample]
                if name in data.groups
                else np.array([f"{name} {row}" for row in range(len(domain))])
                for name, domain in data.domains.items()
            ]
        )
    make(path.parent)
    with writing(path) as (_, file):
        np.savez(file, allow_pickle=False, **columns)
        file.seek(-2, os.SEEK_END)
        file.write(IN_ZIP)


@settings
class EmbeddingOptions(ReaderOptions):
    """What the reader of embeddings may be told."""

    vector: Annotated[
        str | None,
        Option(
            "Embeddings: the array or column of vectors, or how the names of its columns begin; "
            "the only one unless told."
        ),
    ] = None
    target: Annotated[str | None, Option("Embeddings: the array or column of labels.")] = None
    domain: Annotated[str | None, Option("Embeddings: that of domains.")] = None
    group: Annotated[str | None, GROUP] = None
    task: Annotated[
        Literal["classification", "regression"] | None,
        Option("Embeddings: classes, or a number; classes unless there are many different ones."),
    ] = None


def is_embeddings(path: Path) -> bool:
    """Whether a file's name ends as those of embeddings do."""
    return path.suffix.lower() in READ


def read_embeddings(path: Path, options: EmbeddingOptions, news: News) -> DomainData:  # noqa: ARG001
    """Vectors with domain, label and group beside them, a row a sample.

    ``.npz`` with arrays by name; ``.safetensors`` likewise, whose metadata may hold the names of
    domains and labels as JSON lists under ``domain`` and ``label``; ``.parquet`` with a column of
    vectors, or a column a component.

    Args:
        path: the file.
        options: names of the arrays, unless they are the usual ones.
        news: hears nothing, as this is quick.

    Raises:
        DataError: a file that cannot be read, arrays that are not there or not as long, vectors
            that are not finite, fewer than two domains or classes.
    """
    arrays = arrays_of(path)
    named = {
        what: _named(path, arrays, what, getattr(options, what)) for what in ("target", "domain")
    }
    group = options.group or next((n for n in USUAL["group"] if n in arrays), None)
    if group is not None:
        look_up("array", group, arrays)
        named["group"] = group
    array, inputs = _vectors(path, arrays, options.vector, named)
    if odd := {n: len(arrays[n]) for n in named.values() if arrays[n].shape != (len(inputs),)}:
        raise DataError(
            f"{path}: expected one value for each of the {len(inputs):,} vectors; found "
            f"{listed([f'{length:,} in {name}' for name, length in odd.items()])}."
        )
    labels, classes = _labels(path, arrays[named["target"]], named["target"], options)
    found, of_domain = np.unique(_texts(arrays[named["domain"]]), return_inverse=True)
    names = found.tolist()
    if len(names) < options.least:
        raise DataError(
            f"{path}: expected two domains or more in {named['domain']!r}; found {listed(names)}."
        )
    rows = {name: np.flatnonzero(of_domain == at) for at, name in enumerate(names)}
    maker = _maker(path, str(arrays[MADE_BY])) if MADE_BY in arrays else None
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    told = (*named.items(), array, options.task)
    return DomainData(
        name=path.stem,
        domains={n: TensorDataset(inputs[at], labels[at]) for n, at in rows.items()},
        preparation=Embeddings(inputs.shape[1], array, maker),
        recipe=for_embeddings(len(inputs), len(rows)),
        task="classification" if classes else "regression",
        classes=classes,
        notes=(
            f"vectors {array} [{len(inputs):,}, {inputs.shape[1]:,}], "
            + ", ".join(f"{what} {name}" for what, name in named.items())
            + (f", {len(classes)} classes" if classes else ", a number to predict"),
        ),
        fingerprint=sha256(repr((digest, told)).encode()).hexdigest(),
        groups={}
        if group is None
        else {n: Groups.of(_texts(arrays[group])[at].tolist()) for n, at in rows.items()},
    )


def _maker(path: Path, told: str) -> Maker | None:
    from .preparations import preparation_from  # noqa: PLC0415 - which knows embeddings, too

    try:
        maker = _MAKER.validate_json(told)
        if maker is not None:
            preparation_from(maker.inputs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{path}: its {MADE_BY} is not what domaingrad embed writes ({said}); leave it out, or "
            f"embed anew."
        ) from error
    return maker


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays by name, each with a row a sample.

    Raises:
        DataError: no such file, one of another kind, or one that holds Python objects.
    """
    if not path.is_file() or path.suffix.lower() not in READ:
        found = "none" if not path.is_file() else path.suffix or "no suffix"
        raise DataError(f"expected a file {', '.join(READ)} at {path}; found {found}.")
    try:
        return READ[path.suffix.lower()](path)
    except DAMAGED as error:
        if is_machines(error):
            raise
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            f"{path} cannot be read ({said}). Arrays have to be "
            f"numbers or texts (np.array(names, dtype=str)), no Python objects."
        ) from error


def _safetensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {
        name: np.array(names[name])[tensor.numpy()]
        if isinstance(names.get(name), list) and not tensor.is_floating_point()
        else (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in found.items()
    }


def _parquet(path: Path) -> dict[str, NDArray[Any]]:
    try:
        table = pd.read_parquet(path)
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow, which is not installed; run `pip install 'domaingrad[tables]'`."
        ) from error
    found = {}
    for name in table.columns:
        column = table[name]
        if len(column) and isinstance(column.iloc[0], (list, np.ndarray)):
            found[str(name)] = np.stack([np.asarray(each) for each in column])
        elif pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            found[str(name)] = column.to_numpy()
        else:
            found[str(name)] = column.astype(str).to_numpy(dtype=str)
    return found


def holds_vectors(path: Path) -> bool:
    """Whether a Parquet file has a column of vectors; without pyarrow it is taken for none."""
    try:
        from pyarrow import ArrowInvalid, types  # noqa: PLC0415 - an extra
        from pyarrow.parquet import read_schema  # noqa: PLC0415
    except ImportError:
        return False
    try:
        kinds = [field.type for field in read_schema(path)]
    except (OSError, ArrowInvalid):
        return False
    return any(types.is_list(k) or types.is_fixed_size_list(k) for k in kinds)


READ = {".npz": read_arrays, ".safetensors": _safetensors, ".parquet": _parquet}
"""How arrays are read, by a file's suffix."""


def _named(path: Path, arrays: Mapping[str, Any], what: str, told: str | None) -> str:
    """The array of labels or domains."""
    if told is not None:
        look_up("array", told, dict(arrays))
        return told
    found = [name for name in USUAL[what] if name in arrays]
    if not found:
        raise DataError(
            f"{path}: expected an array of each sample's {what}, called {listed(USUAL[what])}; "
            f"found {listed(list(arrays))}. Name it as {what}."
        )
    return found[0]


def _vectors(
    path: Path, arrays: Mapping[str, NDArray[Any]], told: str | None, named: Mapping[str, str]
) -> tuple[str, Tensor]:
    """Name and values of the vectors, float32 [n, width]: an array, or columns side by side."""
    free = {n: a for n, a in arrays.items() if n not in named.values() and a.dtype.kind in "fiu"}
    whole = {name: array for name, array in free.items() if array.ndim == 2}
    columns = [n for n, a in free.items() if a.ndim == 1 and n.startswith(told or "")]
    if told is not None and told in whole:
        whole = {told: whole[told]}
    elif not whole or told is not None:
        whole = {told or "columns": np.stack([free[n] for n in columns], 1)} if columns else {}
    if len(whole) != 1:
        shapes = [f"{name} {list(array.shape)}" for name, array in arrays.items()]
        raise DataError(
            f"{path}: expected one array of vectors [n, width]{f' {told!r}' if told else ''}, or "
            f"columns of numbers; found {listed(shapes)}. Name it as vector."
        )
    ((name, array),) = whole.items()
    found = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if not (finite := found.isfinite().all(1)).all():
        raise DataError(
            f"{path}: {int((~finite).sum()):,} vectors of {name} are not finite, the first in row "
            f"{int(finite.int().argmin())}; mend or leave them out."
        )
    return name, found


def _labels(
    path: Path, values: NDArray[Any], name: str, options: EmbeddingOptions
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels, and the names of classes, which are none for numbers."""
    fractions = values.dtype.kind == "f"
    if fractions and not np.isfinite(values).all():
        raise DataError(f"{path}: labels in {name!r} are not all finite; leave those rows out.")
    different = np.unique(values)
    few = len(different) <= MOST_CLASSES and bool((different % 1 == 0).all()) if fractions else True
    if options.task == "regression" or (options.task is None and not few):
        if values.dtype.kind not in "fiub":
            raise DataError(f"{path}: expected numbers in {name!r} to predict; found texts.")
        return torch.from_numpy(values.astype(np.float32)), ()
    if fractions:
        values = values.astype(np.int64) if few else values
        different = np.unique(values)
    if len(different) < options.least:
        raise DataError(
            f"{path}: expected two classes or more in {name!r}; found {listed(different.tolist())}."
        )
    return torch.from_numpy(np.searchsorted(different, values)), tuple(map(str, different))


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(str)


EMBEDDINGS = Reader(
    kind="embeddings",
    summary="Vectors of samples (.npz, .safetensors, .parquet), with domain and label beside them.",
    read=read_embeddings,
    options=EmbeddingOptions,
)
