"""A trained model as a file that runs without this package."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from domaingrad.bench.disk import IN_ZIP, MARK, RunDirectoryError, make, replace, require_ours
from domaingrad.bench.domains import DataError, Embeddings, News
from domaingrad.bench.domains import load as load_data
from domaingrad.bench.domains.embeddings import is_embeddings
from domaingrad.bench.models import Network
from domaingrad.bench.runs.settings import config_from
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.runs.training import drawing

from .run_parts import directory_of, model_of_run

Form = Literal["torchscript", "onnx", "safetensors"]

SUFFIXES: dict[Form, str] = {"torchscript": ".pt", "onnx": ".onnx", "safetensors": ".safetensors"}
DESCRIPTION = "description"
"""Under which a file has classes, preparation and architecture, as JSON."""
HEAD, BACKBONE = "head.", "backbone."
"""Before the names of weights, where a backbone is frozen."""
CHECKED = 16
"""Samples of each domain on which a file is compared with the run."""
TOLERANCE = 1e-4
"""Largest difference of a probability, or of a number in units of the labels' deviation."""


@dataclass(frozen=True)
class Exported:
    """A file, and how it was checked."""

    path: Path
    samples: int
    """On which it was compared with the run's own predictions."""
    difference: float
    """Largest found there."""


class WholeModel(nn.Module):
    """From inputs as the data store them to probabilities, or numbers in the labels' unit.

    Args:
        trained: the model of a run.
        embeds: whether inputs are those that a frozen backbone embeds, not embeddings.
    """

    def __init__(self, trained: TrainedModel, embeds: bool) -> None:
        super().__init__()
        self.predictor, self.transform = trained.predictor, trained.transform
        self.classes, self.target = trained.task == "classification", trained.target
        self.backbone: Network | None = None
        if isinstance(self.transform, Embeddings) and embeds:
            self.backbone = self.transform.network(torch.device("cpu"))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs [n, classes] or [n] of stored inputs [n, *stored]."""
        if self.backbone is not None:
            assert isinstance(self.transform, Embeddings)
            inputs = self.backbone.features(self.transform.raw(inputs))
        found: Tensor = self.predictor(self.transform(inputs))
        return found.softmax(1) if self.classes else self.target.unscaled(found.squeeze(1))


def export(
    run: str | Path,
    to: Form,
    out: str | Path | None = None,
    *,
    check: Sequence[str | Path] = (),
    news: News | None = None,
) -> Exported:
    """Write the model of a run as a file that needs nothing of this package, and check it.

    ``torchscript`` and ``onnx`` take inputs as the data store them (uint8 pictures, rows of a
    table, vectors) and give probabilities or numbers: preparation and a frozen backbone are inside,
    this where the run's data, or the files that it is checked on, are what it embeds.
    ``safetensors`` holds the weights in the architecture's own names, under ``head.`` and
    ``backbone.`` where a backbone is frozen. All describe classes, preparation and architecture.

    Args:
        run: the directory of a run.
        to: the form.
        out: the file; in the run's directory unless told.
        check: files whose samples it is compared on; the run's own data unless told.
        news: who hears of reading these.

    Raises:
        RunDirectoryError: there is no model, the file predicts otherwise than the run, or one that
            is not ours is there.
        DataError: no samples to compare on, or a package is missing.
    """
    directory, trained = directory_of(run), model_of_run(run)
    path = Path(out) if out is not None else directory.path / f"exported{SUFFIXES[to]}"
    require_ours([path], lambda _: MARK.encode())
    paths = [Path(each) for each in check]
    reader, made = trained.transform, isinstance(trained.transform, Embeddings)
    if isinstance(reader, Embeddings) and reader.maker and not all(map(is_embeddings, paths)):
        reader = reader.raw
    stored = reader.read(paths)[1] if check else _own_samples(run, news or News())
    expected = trained.outputs(stored)
    whole = WholeModel(trained, embeds=made and stored.dim() > 2).eval()
    content, again = WRITE[to](whole, trained, stored)
    # One by one and all together: a file must not depend on the number of inputs it was made with.
    found = torch.cat([again(stored[:1]), again(stored[1:])])
    scale = 1.0 if trained.task == "classification" else trained.target.scale
    difference = ((found - expected).abs().max() / scale).item()
    if not difference <= TOLERANCE:
        raise RunDirectoryError(
            f"the {to} file predicts otherwise than {run}, by up to {difference:.2g} on "
            f"{len(stored)} samples, so it is not kept; choose another form."
        )
    make(path.parent)
    replace(path, content)
    return Exported(path, len(stored), difference)


def _own_samples(run: str | Path, news: News) -> Tensor:
    """Some stored inputs of each domain of a run's data."""
    config = config_from(directory_of(run).config())
    try:
        data = load_data(config.data, config.data_options, news, drawing(config))
    except DataError as error:
        raise DataError(
            f"an exported file is checked on samples of the run's own data, which cannot be read: "
            f"{error} Name other files to check on."
        ) from error
    inputs = [domain.tensors[0] for domain in data.domains.values()]
    return torch.cat([each[torch.arange(min(CHECKED, len(each)))] for each in inputs])


def _described(trained: TrainedModel) -> str:
    return json.dumps(
        {
            "note": MARK,
            "architecture": asdict(trained.architecture),
            "preparation": trained.transform.described(),
            "task": trained.task,
            "classes": list(trained.classes),
            "target": asdict(trained.target),
            "sources": list(trained.sources),
            "held_out": trained.held_out,
        }
    )


Again = Callable[[Tensor], Tensor]
"""Predicts by what was written."""


def _torchscript(whole: WholeModel, trained: TrainedModel, stored: Tensor) -> tuple[bytes, Again]:
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecation; what a trace cannot follow is compared after
        traced = torch.jit.trace(whole, stored[:2], check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, content, {DESCRIPTION: _described(trained)})
        again = torch.jit.load(io.BytesIO(content.getvalue()))  # type: ignore[no-untyped-call]

    return content.getvalue()[:-2] + IN_ZIP, _asked(again)


def _onnx(whole: WholeModel, trained: TrainedModel, stored: Tensor) -> tuple[bytes, Again]:
    try:
        runtime = import_module("onnxruntime")
        import_module("onnxscript")
    except ImportError as error:
        raise DataError(
            f"ONNX needs {error.name}, which is not installed; run "
            f"`pip install 'domaingrad[onnx]'`."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole, (stored[:2],), dynamo=True, verbose=False, input_names=["inputs"],
            output_names=["outputs"], dynamic_shapes={"inputs": {0: torch.export.Dim("n")}},
        )  # fmt: skip
    assert program is not None
    program.model.doc_string = MARK
    program.model.metadata_props[DESCRIPTION] = _described(trained)
    content: bytes = program.model_proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def predicted(inputs: Tensor) -> Tensor:
        (found,) = session.run(None, {"inputs": inputs.numpy()})
        return torch.from_numpy(found)

    return content, predicted


def _safetensors(whole: WholeModel, trained: TrainedModel, _: Tensor) -> tuple[bytes, Again]:
    weights, body, prefix = TrainedModel.weights_of(trained.predictor), {}, ""
    if whole.backbone is not None:
        body, prefix = TrainedModel.weights_of(whole.backbone), HEAD
        for name in whole.backbone.classifier.state_dict():  # fresh, and of no use
            body.pop(whole.backbone.plain_name(f"classifier.{name}"))
    written = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    written |= {f"{BACKBONE}{name}": tensor for name, tensor in body.items()}
    content = save(written, {DESCRIPTION: _described(trained)})
    found, again = load(content), copy.deepcopy(whole)
    for tensor in again.state_dict().values():  # nothing but what the file has may count
        tensor.zero_()
    own = {name: found[f"{prefix}{name}"] for name in weights}
    if isinstance(again.predictor, Network):
        again.predictor.load_plain_state(own)
    else:
        again.predictor.load_state_dict(own)
    if again.backbone is not None:
        again.backbone.body.load_state_dict({name: found[f"{BACKBONE}{name}"] for name in body})
    return content, _asked(again)


def _asked(model: nn.Module) -> Again:
    @torch.no_grad()
    def predicted(inputs: Tensor) -> Tensor:
        found: Tensor = model(inputs)
        return found

    return predicted


WRITE: dict[Form, Callable[[WholeModel, TrainedModel, Tensor], tuple[bytes, Again]]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
    "safetensors": _safetensors,
}
