"""Short runs whose numbers are pinned; `python -m tests.bench.golden` writes those of new ones.

Numbers that have changed are written only once ``NUMERICS`` has been raised.
"""

import json
import math
import os
import sys
import tempfile
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

import tests.conftest  # noqa: F401 - lets torchvision be imported
from domaingrad.bench.domains import AUGMENTATIONS, from_datasets
from domaingrad.bench.methods import METHODS
from domaingrad.bench.runs.identity import NUMERICS
from domaingrad.bench.runs.settings import TrainConfig
from domaingrad.bench.runs.training import Result, train

PINNED = Path(__file__).with_name("golden.json")
DIGITS = TrainConfig("colored-digits", "-90%", steps=12, checkpoints=3, accelerator="cpu")


def cameras():
    """Colour photographs of three domains, varied at random in training."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 20, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.arange(20) % 2
    return from_datasets(
        {f"camera-{k}": TensorDataset(images[k], labels) for k in range(3)}, "cameras"
    )


def pairs():
    """The same, each two photographs of one object."""
    data = cameras()
    groups = {name: [f"{name} {at // 2}" for at in range(20)] for name in data.domains}
    return from_datasets(data.domains, "pairs", groups=groups)


def sensors():
    """A regression of three domains, with more outputs' spread than 1."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 60, 4, generator=generator)
    y = 7 * x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 3
    return from_datasets({f"sensor-{k}": TensorDataset(x[k], y[k]) for k in range(3)}, "sensors")


def table(place: Path) -> str:
    """Numbers and names by site, some missing."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(120, 3, generator=generator).tolist()
    lines = ["site,age,kind,size,ill"]
    for at, (a, b, c) in enumerate(rows):
        age = "" if at % 11 == 0 else f"{a:.3f}"
        lines.append(f"site-{at % 3},{age},{'xyz'[int(10 * abs(b)) % 3]},{c:.3f},{int(a + c > 0)}")
    path = place / "patients.csv"
    path.write_text("\n".join(lines))
    return str(path)


def folder(place: Path) -> str:
    """Pictures of two classes by two cameras and one more, decoded, cropped and varied."""
    generator = torch.Generator().manual_seed(3)
    for camera, kind, number in product("abc", ("cat", "dog"), range(4)):
        pixels = torch.randint(256, (40, 52, 3), generator=generator, dtype=torch.uint8)
        path = place / "pictures" / camera / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
    return str(place / "pictures")


FILES = {"a table": table, "a folder": folder}
"""Data on disk, by name: made in a folder, they are read from the path that is returned."""
DATA = {"cameras": cameras, "pairs": pairs, "sensors": sensors}
"""Data in memory, by name."""
CAMERAS = replace(
    DIGITS, data="cameras", hold_out="camera-2", steps=3, batch=4, augment=AUGMENTATIONS
)
BEFORE = {
    "learning_rate": 1e-3, "weight_decay": 0.0, "optimizer": "adam", "schedule": "constant",
    "backbone": "mlp",
}  # fmt: skip
"""How tables were trained when their runs were pinned."""
ROTATED = replace(DIGITS, data="rotated-digits", hold_out="0°")
OF_MORE_DOMAINS = ("mldg-published",)
"""Methods for which colored-digits have too few."""
LATE = {
    **dict.fromkeys(("irm", "vrex", "rdm", "ib-erm", "ib-irm", "fishr"), ("anneal", 0)),
    "eqrm": ("anneal", 4),
    "lp-ft": ("linear_share", 0.4),
}
"""Methods of which twelve updates with the defaults do not show all."""
RUNS: dict[str, TrainConfig] = {
    **{
        name: replace(ROTATED if name in OF_MORE_DOMAINS else DIGITS, method=name)
        for name in METHODS
    },
    **{
        f"{name}, {field} {at}": replace(DIGITS, method=name, hyperparameters={field: at})
        for name, (field, at) in LATE.items()
    },
    "spirals": replace(DIGITS, data="spirals", hold_out="random-shortcut", method="and-mask"),
    "linear-toy": replace(DIGITS, data="linear-toy", hold_out="noise", method="and-mask"),
    "regression": replace(
        DIGITS,
        data="sensors",
        hold_out="sensor-2",
        method="sand-mask",
        score_over="domains",
        **BEFORE,
    ),
    "rotated-digits": replace(ROTATED, method="agr-rand"),
    "table": replace(
        DIGITS,
        data="a table",
        hold_out="site-2",
        method="agr-sum",
        data_options={"target": "ill", "domain": "site"},
        **BEFORE,
    ),
    "folder": replace(CAMERAS, data="a folder", hold_out="c", data_options={"size": 36}),
    "cnn": replace(CAMERAS, backbone="mnist-cnn", method="sand-mask"),
    "resnet18": replace(CAMERAS, backbone="resnet18", schedule="one-cycle", weight_decay=0.01),
    "resnet18, and-mask": replace(CAMERAS, backbone="resnet18", method="and-mask"),
    "resnet18, frozen": replace(CAMERAS, backbone="resnet18", frozen_norms=True, method="agr-sum"),
    "timm": replace(CAMERAS, backbone="timm:resnet10t", schedule="exponential", method="pcgrad"),
    "adamw": replace(
        DIGITS, optimizer="adamw", schedule="cosine", warm_up=3, clip_norm=0.5, weight_decay=0.1
    ),
    "sgd": replace(DIGITS, optimizer="sgd", momentum=0.9, schedule="constant", method="and-mask"),
    "swad": replace(DIGITS, average="swad", checkpoints=6, method="sand-mask"),
    "ema": replace(CAMERAS, backbone="resnet18", average="ema", average_from=1, average_decay=0.7),
    "groups": replace(CAMERAS, data="pairs", backbone="mnist-cnn", balance="group"),
    "larger square": replace(
        CAMERAS, data="a folder", hold_out="c", data_options={"size": 24, "stored_size": 36}
    ),
    "bf16": replace(CAMERAS, backbone="mnist-cnn", precision="bf16-mixed", method="and-mask"),
}
"""By name: every method, and what the loop has beside methods."""


def result_of(name: str, out: Path) -> Result:
    config = RUNS[name]
    data = DATA[config.data]() if config.data in DATA else None
    if config.data in FILES:
        place = out.with_name(f"{out.name} data")
        place.mkdir()
        os.environ["DOMAINGRAD_CACHE"] = str(place / "cache")
        config = replace(config, data=FILES[config.data](place))
    return train(config, out, data=data)


def numbers_of(name: str, out: Path) -> dict[str, list[float]]:
    """All that a run has found, and the size of its weights, as lists of numbers by name."""
    result = result_of(name, out)
    seen = [asdict(each) for each in result.directory.checkpoints()]
    weights = load_file(result.directory.model).values()
    sealed = result.directory.unseal().values()
    return {
        **{key: [each[key] for each in seen] for key in ("loss", "val_score", "agreement")},
        "metrics": [value for each in seen for _, value in sorted(each["metrics"].items())],
        "held out": [
            score
            for each in sealed
            for one in each.values()
            for score in (one.score, one.oracle_validation)
        ],
        "weights": [sum(f(w.double()) for w in weights) for f in (_sum, _square)],
    }  # fmt: skip


def _sum(tensor):
    return tensor.sum().item()


def _square(tensor):
    return tensor.square().sum().item()


def bits_of(name: str, out: Path) -> str:
    """Of the selected weights, whatever they are called; equal on one machine alone."""
    weights = load_file(result_of(name, out).directory.model).values()
    digests = sorted(sha256(w.contiguous().numpy().tobytes()).hexdigest() for w in weights)
    return sha256("".join(digests).encode()).hexdigest()


def differences(name: str, found, pinned) -> list[str]:
    """Names of what differs by more than machines round otherwise; none of what is new."""
    if pinned is None:
        return []
    # Float32 rounds at 1e-7; twelve steps of a rule with a threshold make more of it.
    rel, least = (2e-2, 2e-3) if name == "bf16" else (1e-4, 1e-6)
    # A sample or two of 60 to 600 may be told otherwise.
    close = {key: {"rel_tol": 0.0, "abs_tol": 0.02} for key in ("val_score", "held out")}
    return [
        key
        for key, values in pinned.items()
        if len(values) != len(found[key])
        or not all(
            math.isclose(one, other, **close.get(key, {"rel_tol": rel, "abs_tol": least}))
            for one, other in zip(values, found[key], strict=True)
        )
    ]


def main() -> None:
    old = json.loads(PINNED.read_text())
    with tempfile.TemporaryDirectory() as out:
        found = {name: numbers_of(name, Path(out) / str(at)) for at, name in enumerate(RUNS)}
    changed = [name for name in found if differences(name, found[name], old["runs"].get(name))]
    if changed and old["numerics"] == NUMERICS:
        sys.exit(f"the numbers of {', '.join(changed)} have changed: raise NUMERICS first.")
    if old["numerics"] == NUMERICS:
        found |= old["runs"]
    lines = [f" {json.dumps(name)}: {json.dumps(found[name])}" for name in RUNS]
    runs = ",\n".join(lines)
    PINNED.write_text(f'{{"numerics": {NUMERICS}, "runs": {{\n{runs}\n}}}}\n')


if __name__ == "__main__":
    main()
