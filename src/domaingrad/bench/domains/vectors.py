"""Embeddings of inputs by a frozen backbone: made once, kept in the cache, made on after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from domaingrad.bench.checked import DamagedError, with_header, without_header
from domaingrad.bench.disk import RunDirectoryError, remove_parts, replace
from domaingrad.bench.disk import make as make_directory
from domaingrad.bench.models import Network, build, digest_of, load_weights
from domaingrad.bench.models.pretrained import PACKAGE, BackboneError, directory_digest, weights_at

from .cache import alone, cache_directory
from .data import DataError, DomainData, News, Preparation
from .fetched import FetchedInputs, StandIns

FORMAT = 1
"""Part of every key; counted up when what makes vectors changes."""
ON_CPU, ELSEWHERE = 8, 128
"""Inputs that pass through a backbone together; few on a CPU, for its caches."""
KEPT = 128
"""Vectors that are written at a time; a kill loses as many at most."""


@dataclass(frozen=True)
class Maker:
    """What makes vectors: a frozen backbone, its weights, and what its inputs are made by."""

    backbone: str
    weights: str | None
    """The file, or ``None`` where the backbone brings them along."""
    digest: str
    """Hash of the weights."""
    inputs: Mapping[str, Any]
    """The preparation of what is stored, as it is written down."""

    @classmethod
    def of(cls, backbone: str, weights: str | None, inputs: Preparation) -> Maker:
        """Find the weights.

        Raises:
            BackboneError: there are none.
            DataError: inputs that no backbone takes.
        """
        if len(inputs.shape) != 3:
            raise DataError(
                f"a frozen backbone makes embeddings of images; these data are {inputs.kind} of "
                f"shape {list(inputs.shape)}. Train on them as they are."
            )
        file = weights_at(backbone, weights)
        if file is not None and not Path(file).expanduser().is_file():
            raise DataError(f"there is no file of weights {file}.")
        file = file and str(Path(file).expanduser().absolute())
        return cls(backbone, file, _hash(backbone, file), inputs.described())

    def key(self) -> list[object]:
        """What decides the vectors beside the inputs; nothing of where the weights lie."""
        name = "hf" if self.weights is None else self.backbone
        return [FORMAT, name, self.digest, dict(self.inputs)]

    def features(self, shape: tuple[int, ...], device: torch.device) -> Network:
        """The backbone, ready.

        Raises:
            BackboneError, WeightsError: weights that are not there, are others, or do not fit.
        """
        return _features(self.backbone, self.weights, self.digest, shape, device)


def _hash(backbone: str, weights: str | None) -> str:
    """Of a file of weights, or of the directory of a model."""
    if weights is not None:
        return digest_of(Path(weights))
    return directory_digest(Path(backbone.partition(":")[2]).expanduser())


@lru_cache(maxsize=2)
def _features(
    backbone: str, weights: str | None, digest: str, shape: tuple[int, ...], device: torch.device
) -> Network:
    if weights is not None and not Path(weights).is_file():
        package = weights_at(backbone, PACKAGE) if backbone == "efficientnet-lite0" else None
        if package is None:
            raise BackboneError(
                f"the weights of the frozen {backbone} were at {weights}, where no file is now; "
                f"put them back there."
            )
        weights = package
    if (found := _hash(backbone, weights)) != digest:
        raise BackboneError(
            f"{weights or backbone} holds other weights than the embeddings were made with: "
            f"expected the hash {digest}, found {found}. Put those back, or embed anew."
        )
    with torch.random.fork_rng():  # fresh heads draw
        network = Network(build(backbone, shape, 2), shape)
        if weights is not None:  # into a plain model, whose names the file has
            plain = build(backbone, shape, 2)
            load_weights(plain, Path(weights))
            network.load_plain_state(plain.state_dict())
    if not network.divided:
        raise BackboneError(
            f"the features that enter the classifier of {backbone} cannot be told apart; choose "
            f"another backbone (squeezenet, efficientnet-lite0, most of timm)."
        )
    network.eval().requires_grad_(requires_grad=False)
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def device_of(accelerator: str) -> torch.device:
    """Where embeddings are made."""
    if accelerator == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    found: torch.device = torch.accelerator.current_accelerator()  # type: ignore[assignment]
    return found


def vectors(
    maker: Maker, inputs: Preparation, stored: Tensor, device: torch.device | None = None
) -> Tensor:
    """Embeddings of stored inputs, float32 [n, width].

    On a CPU each thread has a few inputs of its own: several threads within one small convolution
    wait for each other, an order of magnitude longer than they compute where the CPU is busy.
    """
    device = device or (stored.device if isinstance(stored, Tensor) else torch.device("cpu"))
    network = maker.features(inputs.shape, device)

    @torch.no_grad()
    def of(rows: Tensor) -> Tensor:
        # Read a few at a time, where they lie on disk.
        return network.features(inputs(stored[rows].to(device))).float().cpu()

    places = torch.arange(len(stored))
    pieces = places.split(ON_CPU if device.type == "cpu" else ELSEWHERE)  # type: ignore[no-untyped-call]
    if device.type != "cpu":
        return torch.cat([of(piece) for piece in pieces])
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(of, pieces)))
    finally:
        torch.set_num_threads(threads)


def embedded_domains(
    data: DomainData, maker: Maker, news: News, accelerator: str
) -> dict[str, Any]:
    """By domain, embeddings [n, width] in place of the stored inputs, and the labels.

    An entry of the cache is found by the content of a domain's inputs, the weights and all that
    decides how inputs are seen; so domains that have been embedded once are not embedded again,
    wherever their files lie. What a killed process has left is gone on with.

    Raises:
        DataError: too little room on disk.
    """
    device = device_of(accelerator)
    total = sum(len(domain) for domain in data.domains.values())
    made, done = {}, 0
    for name, domain in data.domains.items():
        stored, labels = domain.tensors
        key = [*maker.key(), _content(stored, f"{data.fingerprint} {name}")]
        of = partial(vectors, maker, data.preparation, device=device)
        told = partial(_told, news, maker.backbone, done, total)
        made[name] = TensorDataset(kept(key, stored, of, news, told), labels)
        done += len(domain)
    return made


def counted_domains(data: DomainData, maker: Maker, news: News, accelerator: str) -> dict[str, Any]:
    """The same with random vectors; how long embedding takes is told, by the speed of a few."""
    device = device_of(accelerator)
    first = next(iter(data.domains.values())).tensors[0]
    some = StandIns((ELSEWHERE, *first.shape[1:])).fetch(range(ELSEWHERE))
    of = partial(vectors, maker, data.preparation, device=device)
    width = of(some[:ON_CPU]).shape[1]  # and all that is done once
    began = time.perf_counter()
    of(some)
    total = sum(len(domain) for domain in data.domains.values())
    minutes = (time.perf_counter() - began) / len(some) * total / 60
    news.say(
        f"to be embedded, unless the cache has them: {total:,} images by {maker.backbone}, once: "
        f"about {minutes:.1f} minutes"
    )
    return {
        name: TensorDataset(stand_ins(torch.empty(1, width), len(domain)), domain.tensors[1])
        for name, domain in data.domains.items()
    }


def stand_ins(like: Tensor, count: int) -> Tensor:
    """So many random vectors of the width of one, [n, width]."""
    return torch.randn(count, like.shape[1], generator=torch.Generator().manual_seed(0))


def _told(news: News, backbone: str, before: int, total: int, done: int) -> None:
    news.advance(f"embedding by {backbone}", before + done, total)


def _content(stored: Tensor, otherwise: str) -> str:
    """Hash of the inputs; what else they are known by, where they are fetched as needed."""
    if isinstance(stored, FetchedInputs):
        return otherwise
    digest = hashlib.sha256(f"{stored.dtype} {list(stored.shape)}".encode())
    digest.update(stored.contiguous().numpy().view(np.uint8).data)
    return digest.hexdigest()


def kept(
    key: Sequence[object],
    inputs: Sequence[Any] | Tensor,
    make: Callable[[Any], Tensor],
    news: News,
    told: Callable[[int], None],
) -> Tensor:
    """Vectors of inputs from the cache, or else made into it, ``KEPT`` by ``KEPT``.

    Each piece is a file with a checksum; those that are there and whole are not made again.

    Args:
        key: what decides them.
        inputs: that may be indexed by rows (tensors) or sliced (lists).
        make: of some inputs their vectors, float32 [n, width].
        news: hears where another process is at work, and of damage.
        told: hears how many are done.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    entry, total = cache_directory() / "embeddings" / name, len(inputs)
    pieces = [range(first, min(first + KEPT, total)) for first in range(0, total, KEPT)]
    places = [entry / f"{piece.start}-{piece.stop}" for piece in pieces]
    found = []
    try:
        make_directory(entry.parent, name)
        with ExitStack() as held:
            if not all(place.exists() for place in places):
                held.enter_context(alone(entry, news, "making these embeddings"))
                remove_parts(entry)
            for piece, place in zip(pieces, places, strict=True):
                some = _kept(place, len(piece), news)
                if some is None:
                    some = _finite(make(_rows(inputs, piece.start, piece.stop)), piece)
                    replace(place, with_header(some.numpy().astype("<f4").tobytes()))
                    told(piece.stop)
                found.append(some)
    except (OSError, RunDirectoryError) as error:
        raise DataError(
            f"embeddings cannot be kept in {entry.parent} ({str(error).rstrip('.')}); make room "
            f"there, or set DOMAINGRAD_CACHE to a directory that can be written to."
        ) from error
    return torch.cat(found)


def _kept(place: Path, count: int, news: News) -> Tensor | None:
    """Vectors in a file, if it is there and whole."""
    try:
        content = without_header(place)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        news.say(f"{error} These embeddings are made anew.")
        return None
    return torch.from_numpy(np.frombuffer(content, "<f4").reshape(count, -1).astype(np.float32))


def _finite(found: Tensor, piece: range) -> Tensor:
    if not found.isfinite().all():
        raise DataError(
            f"embeddings of inputs {piece.start} to {piece.stop} are not finite; the backbone and "
            f"its weights do not belong together, or not to these inputs."
        )
    return found


def _rows(inputs: Any, first: int, end: int) -> Any:
    if isinstance(inputs, (Tensor, FetchedInputs)):
        return inputs[torch.arange(first, end)]
    return inputs[first:end]
