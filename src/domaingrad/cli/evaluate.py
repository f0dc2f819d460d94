"""`domaingrad evaluate`: how well does a trained model do, where?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from domaingrad.bench.reports.evaluation import DomainEvaluation, Evaluation
from domaingrad.bench.reports.evaluation import evaluate as run_evaluation
from domaingrad.bench.reports.evaluation_plot import plot_confusion
from domaingrad.bench.reports.liveness import Estimate, LivenessMetrics
from domaingrad.bench.reports.liveness_plot import plot_liveness
from domaingrad.bench.runs.directory import RunDirectory

from .errors import bad_input
from .training_view import TrainingView

Run = Annotated[Path, typer.Argument(help="Directory that `domaingrad train` wrote.")]


def evaluate(
    run: Run,
    data: Annotated[
        str | None, typer.Option(help="Other data than the run's own, as for `train`.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Where the confusion matrices go.  [default: RUN/confusion.png]"),
    ] = None,
    roc: Annotated[
        Path | None,
        typer.Option(help="Faces: where ROC and DET curves go.  [default: RUN/roc.png]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Evaluate a trained model, domain by domain and class by class.

    On the source domains the validation splits count, which also selected the model; on the domain
    held out all of its samples; of other data all samples of each domain.

    Of faces, live or not, also by video: HTER, AUC, EER, APCER (of the worst kind of attack),
    BPCER, ACER and TPR at FPR = 1 %, with intervals by bootstrap over videos, at the threshold
    chosen on the sources' validation, and at the held-out domain's own, which is an oracle.

    - `domaingrad evaluate runs/train/PACS-sketch-erm-1a2b3c4d`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        directory = RunDirectory.existing(run)
        evaluation = run_evaluation(directory, data, view.listener.news)
        picture = plot or directory.path / "confusion.png"
        drawn = evaluation.trained.task == "classification"
        curves = {
            name: curve
            for name, curve in evaluation.liveness.items()
            if curve.metrics.auc is not None
        }
        if drawn:
            plot_confusion(evaluation, picture)
        if curves:
            plot_liveness(curves, roc or directory.path / "roc.png")
    if as_json:
        typer.echo(json.dumps(_as_json(evaluation), indent=2, ensure_ascii=False))
    else:
        console = Console()
        console.print(_by_domain(evaluation))
        if evaluation.trained.task == "classification":
            console.print(_by_class(evaluation))
        for name, curve in evaluation.liveness.items():
            console.print(_by_video(name, curve.metrics))
    if curves:
        place = roc or directory.path / "roc.png"
        errors.print(f"Wrote {place}.", highlight=False, markup=False, soft_wrap=True)
    if drawn:
        errors.print(f"Wrote {picture}.", highlight=False, markup=False, soft_wrap=True)


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    trained = evaluation.trained
    return {
        "data": trained.data,
        "held_out": trained.held_out,
        "sources": list(trained.sources),
        "classes": list(trained.classes),
        "trained": dict(trained.facts),
        "domains": [
            {
                "domain": found.domain,
                "role": found.role,
                "samples": found.samples,
                "metrics": dict(found.metrics),
                "confusion": None if found.confusion is None else found.confusion.tolist(),
            }
            for found in evaluation.domains
        ],
        "liveness": {name: asdict(curve.metrics) for name, curve in evaluation.liveness.items()},
    }


def _by_video(name: str, metrics: LivenessMetrics) -> Table:
    attacks = ", ".join(f"{count} {kind}" for kind, count in metrics.attacks.items()) or "none"
    table = Table(
        f"{escape(name)}, by video", Column("", justify="right"), box=None,
        title=f"{metrics.live} live, attacks: {escape(attacks)}", title_justify="left",
    )  # fmt: skip
    for title, found in (
        ("AUC", metrics.auc),
        ("EER", metrics.eer),
        ("TPR at FPR = 1 %", metrics.tpr_at_fpr),
    ):
        table.add_row(title, _estimate(found))
    for rates in (metrics.at_source, metrics.at_target):
        if rates is not None:
            table.add_row(f"[bold]{rates.threshold.title}", f"{rates.threshold.value:.3f}")
            for title, found in (
                ("HTER", rates.hter),
                ("APCER, worst kind", rates.apcer),
                ("BPCER", rates.bpcer),
                ("ACER", rates.acer),
            ):
                table.add_row(f"  {title}", _estimate(found))
    return table


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _by_domain(evaluation: Evaluation) -> Table:
    names = list(dict.fromkeys(name for found in evaluation.domains for name in found.metrics))
    table = Table("domain", "", Column("samples", justify="right"), box=None)
    for name in names:
        table.add_column(name, justify="right")
    for found in evaluation.domains:
        values = [_value(name, found) for name in names]
        table.add_row(found.domain, found.role, str(found.samples), *values)
    return table


def _by_class(evaluation: Evaluation) -> Table:
    """Recall of each class: the share of its samples that is told right."""
    table = Table("recall of class", box=None)
    for found in evaluation.domains:
        table.add_column(found.domain, justify="right")
    for index, name in enumerate(evaluation.trained.classes):
        table.add_row(name, *(_recall(found, index) for found in evaluation.domains))
    return table


def _value(name: str, found: DomainEvaluation) -> str:
    if name not in found.metrics:
        return "–"
    value = found.metrics[name]
    return f"{100 * value:.1f} %" if found.confusion is not None else f"{value:.4g}"


def _recall(found: DomainEvaluation, index: int) -> str:
    assert found.confusion is not None
    row = found.confusion[index]
    count = int(row.sum())
    return f"{100 * int(row[index]) / count:.1f} % of {count}" if count else "no sample"
