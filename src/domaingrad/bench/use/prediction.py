"""A trained model in use, and what it says of new samples."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from domaingrad.bench.domains import DataError, News
from domaingrad.bench.domains.data import Reading
from domaingrad.bench.runs.directory import GROUPS, RunDirectory
from domaingrad.bench.runs.trained import TrainedModel
from domaingrad.bench.sections import SECTIONS

from .run_parts import model_of_run


@dataclass(frozen=True)
class Predictions:
    """What a model says of samples in files."""

    model: TrainedModel
    names: tuple[str, ...]
    """Of the samples: a file, or a file and a row."""
    outputs: Tensor
    """Probabilities [n, classes], or numbers [n]."""
    threshold: tuple[str, float] | None = None
    """A class, and the probability from which on it is decided for, as the run's data have it."""

    @property
    def labels(self) -> list[str] | list[float]:
        """The likeliest class of each sample, or by the threshold; or its number."""
        classes = self.model.classes
        if self.threshold is not None:
            name, least = self.threshold
            (other,) = [each for each in classes if each != name]
            held = self.outputs[:, classes.index(name)].double() >= least
            return [name if each else other for each in held.tolist()]
        if self.model.task == "classification":
            return [self.model.classes[place] for place in self.outputs.argmax(1).tolist()]
        numbers: list[float] = self.outputs.tolist()
        return numbers


def load_model(path: str | Path) -> TrainedModel:
    """The model of a run, or in a file, ready to predict.

    Args:
        path: the directory of a run, or a ``model.safetensors`` that one left.

    Raises:
        RunDirectoryError: there is no model.
        PluginError: a plug-in of the run cannot be imported.
    """
    place = Path(path)
    return TrainedModel.load(place) if place.is_file() else model_of_run(place)


def predict(
    run: str | Path,
    files: Sequence[str | Path],
    *,
    skip_unreadable: bool = False,
    name: str | None = None,
    news: News | None = None,
) -> Predictions:
    """What the model of a run says of new files.

    Args:
        run: as for :func:`load_model`.
        files: images, folders of them or patterns; or tables.
        skip_unreadable: whether images that cannot be decoded are left out.
        name: the column of a table by which its rows are called; by file and line unless given.
        news: who hears of what is left out, and of texts that training has not seen.

    Raises:
        RunDirectoryError: there is no model.
        DataError: files that are not there or cannot be read.
    """
    model = load_model(run)
    reading = Reading(skip_unreadable, name, news or News())
    names, stored = model.transform.read(paths_of(files), reading)
    return Predictions(model, tuple(names), model.outputs(stored), _threshold(Path(run), model))


def _threshold(run: Path, model: TrainedModel) -> tuple[str, float] | None:
    """By what a run's data decide, where they do otherwise than for the likeliest class."""
    if not (run / GROUPS).is_file() or len(model.classes) != 2:
        return None
    recorded = RunDirectory.existing(run).groups().get(model.facts["step"], {})
    sources = {name: found for name, found in recorded.items() if name in model.sources}
    found = (section.threshold(sources) for section in SECTIONS.values())
    return next((each for each in found if each is not None and each[0] in model.classes), None)


def paths_of(files: Sequence[str | Path]) -> list[Path]:
    """Files and folders; patterns that no shell has filled in are filled in here."""
    paths: list[Path] = []
    for name in map(str, files):
        found = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))
        if not found:
            raise DataError(f"there is no file or folder {name}, and nothing of that pattern.")
        paths += map(Path, found)
    return paths
