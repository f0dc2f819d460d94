"""Four protocols on generated faces: rates by video of ERM, agreement rules and GSNR dropout.

    python benchmarks/face_anti_spoofing.py [--trials 3] [--steps 150] [--jobs 2] [--page]

Generates the faces, sweeps, evaluates every model that the sweep has selected, and writes
benchmarks/results/face_anti_spoofing.md. Goes on where it was left; ``--page`` writes the page from
what is there.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from timing import RESULTS, environment

from domaingrad.bench.methods import ALL_METHODS
from domaingrad.bench.reports.evaluation import evaluate
from domaingrad.bench.reports.liveness import LivenessMetrics
from domaingrad.bench.runs import RunDirectory, SweepDirectory

COMPARED = (
    "erm", "and-mask", "sand-mask", "agr-sum", "gsnr-dropout", "gsnr-dropout-fixed",
    "drop-random-fixed", "drop-low-gsnr-fixed",
)  # fmt: skip
PROTOCOLS = {"O": "I&C&M-O", "C": "O&M&I-C", "I": "O&C&M-I", "M": "O&C&I-M"}
OUT = Path("runs/face-anti-spoofing")


def rates(metrics: LivenessMetrics) -> dict[str, float]:
    """What the page tells, in %."""
    source, target = metrics.at_source, metrics.at_target
    found = {
        "HTER": source.hter,
        "ACER": source.acer,
        "AUC": metrics.auc,
        "EER": metrics.eer,
        "TPR": metrics.tpr_at_fpr,
        "oracle": None if target is None else target.hter,
    }
    return {name: 100 * each.value for name, each in found.items() if each is not None}


def cell(values: Sequence[float]) -> str:
    """Mean ± standard error (ddof 0)."""
    error = f"±{np.std(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{error}" if values else "–"


def page(command: str, sweep: str) -> str:
    """All there is so far."""
    directory = SweepDirectory.existing(OUT / "sweep")
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for run in directory.plan().runs:
        if directory.finished(run.key):
            held_out = str(run.config.hold_out)
            evaluation = evaluate(RunDirectory(directory.place(run.key)))
            found[run.config.method, held_out].append(rates(evaluation.liveness[held_out].metrics))
    parts = [
        "# Face anti-spoofing across generated cameras",
        f"`{command}`",
        environment(),
        f"`{sweep}`",
        "Generated faces (`domaingrad fas-synthetic`, seed 0): nothing here says anything of real "
        "attacks. By video, in %; mean ± standard error over trials (ddof 0). HTER, ACER at the "
        "threshold chosen on the sources' validation; *oracle*: HTER at the held-out camera's own. "
        "Default hyper-parameters, the checkpoint with the best source validation.",
    ]
    names = ("HTER", "ACER", "AUC", "EER", "TPR", "oracle")
    titles = ("HTER", "ACER", "AUC", "EER", "TPR at FPR = 1 %", "HTER, oracle")
    for held_out, protocol in PROTOCOLS.items():
        rows = ["| " + " | ".join(("method", *titles, "trials")) + " |", "|---" * 8 + "|"]
        for method in COMPARED:
            runs = found[method, held_out]
            cells = [cell([run[name] for run in runs if name in run]) for name in names]
            row = (ALL_METHODS[method].title, *cells, str(len(runs)))
            rows.append("| " + " | ".join(row) + " |")
        parts += [f"## {protocol}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def main(
    trials: Annotated[int, typer.Option(help="Trials.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 150,
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    only_page: Annotated[bool, typer.Option("--page", help="Write the page alone.")] = False,
) -> None:
    """Generate, sweep, evaluate, and write the page."""
    options = (
        f"--data faces:faces --size 64 --backbone resnet18 --no-augment --methods "
        f"{','.join(COMPARED)} --draws 1 --trials {trials} --steps {steps} --batch 12 "
        f"--learning-rate 1e-3 --checkpoints 3"
    ).split()
    given = [*options, "--accelerator", "cpu", "--keep-models", "--jobs", str(jobs)]
    given[1] = f"faces:{OUT / 'faces'}"
    if not only_page:
        program = [sys.executable, "-m", "domaingrad"]
        subprocess.run([*program, "fas-synthetic", str(OUT / "faces")], check=True)
        subprocess.run([*program, "sweep", *given, "--out", str(OUT / "sweep")], check=False)
    command = f"python benchmarks/face_anti_spoofing.py --trials {trials} --steps {steps}"
    text = page(command, f"domaingrad sweep {' '.join(options)} --keep-models")
    (RESULTS / "face_anti_spoofing.md").write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
