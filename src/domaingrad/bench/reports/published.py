"""Published numbers beside ours, where data, backbone and selection method match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from domaingrad.bench.domains.labelled import DEFAULT_SIZE
from domaingrad.bench.domains.presets import PUBLISHED as PUBLISHED_SETS
from domaingrad.bench.protocol import SELECTIONS

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

COLUMNS = ("data", "selection", "method", "here", "published", "runs here", "other than there")
DRAWS, TRIALS, STEPS = 20, 3, (5000, 5001)
"""Of the published runs; a first step more or less is none."""


def against_published(summary: Summary) -> Iterator[tuple[str, ...]]:
    """Rows of :data:`COLUMNS`: our averages beside those published."""
    for data in summary.data:
        known = PUBLISHED.get(data.data.name)
        if known is None or _unlike(summary, data, known) is not None:
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
        elif (reason := _unlike(summary, data, known)) is not None:
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


def _unlike(summary: Summary, data: DataSummary, known: Published) -> str | None:
    """In what the runs differ from the published ones, if that makes them another thing."""
    if data.data.backbone not in known.backbones:
        return (
            f"the published numbers are of {known.backbone}, these of {_model(data)}: not "
            f"comparable."
        )
    size = summary.plan.request.data_options.get("size") or DEFAULT_SIZE
    if known.size not in (None, size):
        return f"the published numbers are of images at {known.size}², these at {size}²."
    settings = summary.plan.request.settings
    if known.size is not None and "weights" not in settings:
        return "the published numbers start from ImageNet weights, these do not."
    if known.size is not None and not settings.get("frozen_norms"):
        return "the published numbers have frozen BatchNorm statistics, these have not."
    if {_bare(name) for name in data.data.held_out} != {_bare(name) for name in known.domains}:
        return (
            f"the published averages are over {', '.join(sorted(known.domains))}, this one is over "
            f"{', '.join(data.data.held_out)}."
        )
    return None


def _differences(summary: Summary, data: DataSummary, known: Published) -> Iterator[str]:
    """Every way in which runs that may stand beside published ones still differ from these."""
    request = summary.plan.request
    if request.draws != DRAWS:
        yield f"{request.draws} draws of hyper-parameters, not {DRAWS}"
    if request.trials != TRIALS:
        yield f"{request.trials} trials, not {TRIALS}"
    if data.data.steps not in STEPS:
        yield f"{data.data.steps} steps, not {STEPS[-1]}"
    own = [name for name in request.settings if name not in ("weights", "frozen_norms", "steps")]
    if own:
        yield f"given, not as there: {', '.join(name.replace('_', ' ') for name in own)}"
    if known.size is None:
        yield "one draw of the data for all trials, there one for each run"
        if data.data.name == "rotated-mnist":
            yield "rotated bilinearly, there bicubically"
    else:
        yield "selected on images as they are, there on varied ones"
        yield "crops of the stored square, there of the original"
        yield "whether the weights are those of ImageNet is not known here"


def _bare(name: str) -> str:
    """Letters, digits and signs alone: copies of a data set spell their domains in several ways."""
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter in "+-")
