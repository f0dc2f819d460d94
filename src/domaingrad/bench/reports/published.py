"""Published numbers beside ours, where data, backbone and selection method match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from domaingrad.bench.domains import AUGMENTATIONS
from domaingrad.bench.domains.labelled import DEFAULT_SIZE
from domaingrad.bench.domains.presets import PUBLISHED as PUBLISHED_SETS
from domaingrad.bench.domains.recipes import for_digits, for_photographs
from domaingrad.bench.protocol import SELECTIONS
from domaingrad.bench.runs import TrainConfig

from .summary import DataSummary, Summary
from .tables import how, score

TRAINING, ORACLE = "training-domain-validation", "oracle-last"


@dataclass(frozen=True)
class Published:
    """Averages over held-out domains, in %, of one data set."""

    backbones: tuple[str, ...]
    """Ours that are the published one."""
    backbone: str
    """The published one, for people."""
    size: int | None
    """Height and width of images, where they are photographs."""
    domains: frozenset[str]
    """All of them, each held out in turn."""
    averages: dict[str, dict[str, str]]
    """By method and selection method, as printed."""

    @property
    def checkpoints(self) -> int:
        """How many of a run there are, the first after one step."""
        return 51 if self.size is None else 18


SOURCE = (
    "published averages: arXiv 2007.01434 and 2106.02266, 20 draws × 3 trials of 5001 steps, "
    "oracle at the last checkpoint"
)

RESNET50 = ("resnet50", "timm:resnet50", "torchvision:resnet50")
CNN = ("mnist-cnn",)


def _domains(name: str) -> frozenset[str]:
    """Of a published set of photographs."""
    return frozenset(PUBLISHED_SETS[name].domains)


def _rows(
    erm: tuple[str, str], and_mask: tuple[str, str], sand_mask: tuple[str, str]
) -> dict[str, dict[str, str]]:
    names = {"erm": erm, "and-mask": and_mask, "sand-mask": sand_mask}
    return {
        name: dict(zip((TRAINING, ORACLE), found, strict=True)) for name, found in names.items()
    }


PUBLISHED: dict[str, Published] = {
    "colored-mnist": Published(
        CNN, "MNIST CNN", None, frozenset({"+90%", "+80%", "-90%"}),
        _rows(
            ("51.5±0.1", "57.8±0.2"), ("51.3±0.2", "58.6±0.4"),
            ("51.8±0.2", "73.0±1.0 (62.3±1.0 in a later compilation)"),
        ),
    ),
    "rotated-mnist": Published(
        CNN, "MNIST CNN", None, frozenset(f"{angle}°" for angle in range(0, 90, 15)),
        _rows(("98.0", "97.8"), ("97.6", "97.5"), ("97.4", "97.4"))
    ),
    "vlcs": Published(
        RESNET50, "ResNet-50", 224, _domains("vlcs"),
        _rows(("77.5", "77.6"), ("78.1", "76.4"), ("77.4", "76.2"))
    ),
    "pacs": Published(
        RESNET50, "ResNet-50", 224, _domains("pacs"),
        _rows(("85.5", "86.7"), ("84.4", "86.4"), ("84.6", "85.9"))
    ),
    "office-home": Published(
        RESNET50, "ResNet-50", 224, _domains("office-home"),
        _rows(("66.5", "66.4"), ("65.6", "66.1"), ("65.8", "65.9"))
    ),
    "terra-incognita": Published(
        RESNET50, "ResNet-50", 224, _domains("terra-incognita"),
        _rows(("46.1", "53.0"), ("44.6", "49.8"), ("42.9", "50.2"))
    ),
    "spirals": Published(
        (), "a model that is not known here", None, frozenset(),
        _rows(("45.8±2.4", "94.2±1.3"), ("88.0±2.9", "96.7±0.3"), ("49.1±5.4", "91.1±2.4")),
    ),
}  # fmt: skip
"""By name of the data."""

PHOTOGRAPHS, DIGITS = for_photographs((3, 224, 224)), for_digits((2, 28, 28))
"""DomainBed's defaults, of its commit 7df6f06, from which the published numbers are."""
SELECTED_ON_CLEAN = "selected on images as they are, there on varied ones"
TIES = "of equals the first draw and latest checkpoint count, there the last and earliest"

COLUMNS = ("data", "selection", "method", "here", "published", "runs here", "other than there")
RECIPE = ("learning_rate", "batch", "weight_decay", "balance", "optimizer", "momentum", "schedule",
          "warm_up", "clip_norm")  # fmt: skip
BESIDE = ("dropout", "average", "precision")
"""Settings that are as there if they are at their defaults."""
DRAWS, TRIALS, STEPS = 20, 3, (5000, 5001)
"""Of the published runs; a first step more or less is none."""


def against_published(summary: Summary) -> Iterator[tuple[str, ...]]:
    """Rows of :data:`COLUMNS`: our averages beside those published."""
    for data in summary.data:
        known = PUBLISHED.get(data.data.name)
        if known is None or _unlike(data, known) is not None:
            continue
        for selection, rows in data.tables.items():
            for row in rows:
                printed = known.averages.get(row.method.info.name, {}).get(selection)
                if printed is not None:
                    yield (
                        data.data.name,
                        SELECTIONS[selection].title,
                        row.method.info.title,
                        score(row.average),
                        printed,
                        how(summary, data),
                        "; ".join(_differences(summary, data, known)),
                    )


def not_comparable(summary: Summary) -> list[str]:
    """Why data have no published numbers beside theirs."""
    found = []
    for data in summary.data:
        known = PUBLISHED.get(data.data.name)
        if known is None:
            found.append(f"{data.data.name}: no published numbers are known here.")
        elif (reason := _unlike(data, known)) is not None:
            found.append(f"{data.data.name}: {reason}")
    return found


def published_lines(summary: Summary) -> Iterator[str]:
    """All of that in words, a line each."""
    for row in against_published(summary):
        words = dict(zip(COLUMNS, row, strict=True))
        yield (
            "{data}, {selection}, {method}: {here} here ({runs here}), {published} published. "
            "Other than there: {other than there}.".format(**words)
        )
    yield from not_comparable(summary)
    yield f"({SOURCE})"


def _model(data: DataSummary) -> str:
    return data.data.recipe.partition(", ")[0]


def _unlike(data: DataSummary, known: Published) -> str | None:
    """In what the runs differ from the published ones, if that makes them another thing."""
    if data.data.backbone not in known.backbones:
        return (
            f"the published numbers are of {known.backbone}, these of {_model(data)}: not "
            f"comparable."
        )
    if {_bare(name) for name in data.data.held_out} != {_bare(name) for name in known.domains}:
        return (
            f"the published averages are over {', '.join(sorted(known.domains))}, this one is over "
            f"{', '.join(data.data.held_out)}."
        )
    return None


def _differences(summary: Summary, data: DataSummary, known: Published) -> Iterator[str]:
    """Every way in which runs that stand beside published ones differ from these."""
    request = summary.plan.request
    config = next(run.config for run in summary.plan.runs if run.data == data.data.name)
    there = DIGITS if known.size is None else PHOTOGRAPHS
    if request.draws != DRAWS:
        yield f"{request.draws} draws of hyper-parameters, not {DRAWS}"
    if request.trials != TRIALS:
        yield f"{request.trials} trials, not {TRIALS}"
    if data.data.steps not in STEPS:
        yield f"{data.data.steps} steps, not {STEPS[-1]}"
    checkpoints = known.checkpoints
    if config.checkpoints != checkpoints:
        yield f"{config.checkpoints} checkpoints, not {checkpoints}"
    expected = {
        **{name: getattr(there, name) for name in RECIPE},
        **{name: TrainConfig.__dataclass_fields__[name].default for name in BESIDE},
    }
    for name, value in expected.items():
        own = getattr(config, name)
        if own != value:
            yield f"{name.replace('_', ' ')} {_told(own)}, not {_told(value)}"
    search = there.distributions
    if request.draws > 1 and (given := [name for name in search if name in request.settings]):
        yield f"given, there drawn: {', '.join(name.replace('_', ' ') for name in given)}"
    yield from _of_images(summary, known, config) if known.size else _of_digits(data, config)
    yield TIES


def _of_images(summary: Summary, known: Published, config: TrainConfig) -> Iterator[str]:
    options = summary.plan.request.data_options
    size = options.get("size") or DEFAULT_SIZE
    if size != known.size:
        yield f"images of {size}², not {known.size}²"
    if missing := [name for name in AUGMENTATIONS if name not in (config.augment or ())]:
        yield f"images not varied in training by {', '.join(missing)}"
    if not config.frozen_norms:
        yield "statistics of BatchNorm not frozen"
    if config.weights is None:
        yield "fresh weights, not ImageNet's"
    else:
        yield "whether the weights are ImageNet's is not known here"
    yield SELECTED_ON_CLEAN
    stored = options.get("stored_size") or size
    yield f"crops of a stored square of {stored}², there of the original"


def _of_digits(data: DataSummary, config: TrainConfig) -> Iterator[str]:
    if config.data_options.get("drawn") == "once":
        yield "one draw of the data for all trials, there one for each run"
    else:
        yield "a draw of the data for each trial, there one for each run"
    if data.data.name == "rotated-mnist":
        yield "rotated bilinearly, there bicubically"


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bare(name: str) -> str:
    """Letters, digits and signs alone: copies of a data set spell their domains in several ways."""
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter in "+-")
