"""The recipe of tables against scikit-learn's MLP and linear models, on the splits of the runs.

    python benchmarks/tables.py --heart ../shared/data/heart_disease_4sites.csv.gz --trials 2

Source validation and held-out score (accuracy, or R²), mean over held-out domains and trials, and
by how much the recipe's held-out score differs from each, ± the standard error of the pairs.
Heart disease has four hospitals as domains, and five classes or two (disease or none);
scikit-learn's diabetes and breast cancer have quarters by age and by mean smoothness.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

from domaingrad.bench import train
from domaingrad.bench.domains import DomainData, News, load
from domaingrad.bench.runs.trainer import Splits

HEART = {"domain": "site", "missing": ("?",), "categorical": ("cp", "restecg", "slope", "thal")}
QUARTERS = {"target": "target", "domain": "quarter"}


def tables(place: Path, heart: Path | None) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Name, file and options of each."""
    if heart is not None:
        frame = pd.read_csv(heart).rename(columns={"num": "classes"})
        frame["disease"] = np.where(frame["classes"] > 0, "yes", "no")
        for target, other in (("classes", "disease"), ("disease", "classes")):
            frame.drop(columns=other).to_csv(place / f"heart, {target}.csv", index=False)
            yield f"heart, {target}", place / f"heart, {target}.csv", HEART | {"target": target}
    for name, frame, by, task in (
        ("diabetes", load_diabetes(as_frame=True, scaled=False).frame, "age", "regression"),
        ("cancer", load_breast_cancer(as_frame=True).frame, "mean smoothness", "classification"),
    ):
        frame["quarter"] = pd.qcut(frame[by], 4, labels=list("abcd")).astype(str)
        frame.to_csv(place / f"{name}.csv", index=False)
        yield name, place / f"{name}.csv", QUARTERS | {"task": task}


def theirs(data: DomainData, held_out: str, trial: int) -> Iterator[tuple[float, float]]:
    """Of scikit-learn's MLP and linear model: source validation, held out."""
    splits = Splits.of(data, (held_out,), (0, data.name, f"trial {trial}"))
    regression, target = data.task == "regression", splits.held_out[held_out]

    def part(split, rows):
        inputs, labels = (tensor[rows] for tensor in split.data.tensors)
        return splits.preparation(inputs).numpy(), splits.target.scaled(labels).numpy()

    sources = splits.sources.values()
    x, y = map(np.concatenate, zip(*(part(s, s.train) for s in sources), strict=True))
    validation = [part(s, s.val) for s in sources]
    if regression:
        validation = [tuple(map(np.concatenate, zip(*validation, strict=True)))]
    network = MLPRegressor if regression else MLPClassifier
    linear = Ridge() if regression else LogisticRegression(max_iter=2000)
    for model in (network(random_state=trial, max_iter=500), linear):
        model.fit(x, y)
        own = float(np.mean([model.score(*each) for each in validation]))
        yield own, model.score(*part(target, target.train))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--heart", type=Path, help="heart_disease_4sites.csv.gz")
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--backbone", help="another than the recipe's, as mlp")
    told = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("source validation / held out: the recipe, scikit-learn's MLP, its linear model")
    with tempfile.TemporaryDirectory() as out:
        for name, file, options in tables(Path(out), told.heart):
            data, rows = load(str(file), options, News(), torch.Generator()), []
            for trial in range(told.trials):
                for held_out in data.domains:
                    result = train(
                        str(file), Path(out) / f"{name} {trial} {held_out}", hold_out=held_out,
                        trial=trial, data_options=options, backbone=told.backbone,
                        accelerator="cpu",
                    )  # fmt: skip
                    ours = result.selected.val_score, result.held_out.score
                    rows.append([ours, *theirs(data, held_out, trial)])
            found = np.array(rows)
            means = ", ".join(f"{val:.3f} / {held:.3f}" for val, held in found.mean(0))
            pairs = found[:, :1, 1] - found[:, 1:, 1]
            errors = pairs.std(0, ddof=1) / len(pairs) ** 0.5
            told_pairs = (f"{d:+.3f} ± {e:.3f}" for d, e in zip(pairs.mean(0), errors, strict=True))
            print(
                f"{name}: {means}; held out, ours less theirs: {', '.join(told_pairs)}", flush=True
            )


if __name__ == "__main__":
    main()
