"""Heads on embeddings against scikit-learn's logistic regression, on the very splits of the runs.

    domaingrad embed --data PACS/ --size 64 --backbone efficientnet-lite0 --out pacs64.npz
    python benchmarks/embeddings.py pacs64.npz --trials 2

Held-out accuracy, mean over held-out domains and trials: logistic regression at scikit-learn's
defaults, with its strength chosen by source validation, and the two heads by their recipe.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from domaingrad.bench import train
from domaingrad.bench.domains import DomainData, News, load
from domaingrad.bench.runs.trainer import Splits

STRENGTHS = (1.0, 0.1, 0.01, 0.001)


def logistic(data: DomainData, held_out: str, trial: int) -> tuple[float, float]:
    """Held-out accuracy at C = 1, and at the C that the sources' validation chooses."""
    splits = Splits.of(data, (held_out,), (0, data.name, f"trial {trial}"))
    sources = splits.sources.values()
    x, y = (np.concatenate([s.data.tensors[at][s.train] for s in sources]) for at in (0, 1))
    scaler, target = StandardScaler().fit(x), splits.held_out[held_out]
    found = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300).fit(scaler.transform(x), y)

        def score(split, rows, model=model):
            inputs, labels = (tensor[rows].numpy() for tensor in split.data.tensors)
            return model.score(scaler.transform(inputs), labels)

        chosen_by = float(np.mean([score(source, source.val) for source in sources]))
        found.append((chosen_by, score(target, target.train)))
    return found[0][1], max(found)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="embeddings, as domaingrad embed writes them")
    parser.add_argument("--trials", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = load(told.data, {}, News(), torch.Generator())
    rows = []
    print("trial, held out: logistic regression, tuned, linear, mlp (seconds a run)")
    with tempfile.TemporaryDirectory() as out:
        for trial in range(told.trials):
            for held_out in data.domains:
                row, seconds = [*logistic(data, held_out, trial)], []
                for head in ("linear", "mlp"):
                    began = time.process_time()
                    place = Path(out) / f"{head} {trial} {held_out}"
                    result = train(
                        told.data, place, hold_out=held_out, trial=trial, head=head,
                        accelerator="cpu",
                    )  # fmt: skip
                    row.append(result.held_out.score)
                    seconds.append(f"{time.process_time() - began:.1f}")
                rows.append(row)
                shown = ", ".join(f"{100 * each:.1f}" for each in row)
                print(f"{trial}, {held_out}: {shown} ({', '.join(seconds)})", flush=True)
    print("mean:", ", ".join(f"{100 * each:.1f}" for each in np.mean(rows, 0)))


if __name__ == "__main__":
    main()
