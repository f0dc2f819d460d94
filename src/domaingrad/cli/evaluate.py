"""`domaingrad evaluate`: how well does a trained model do, where?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from domaingrad.bench import (
    METRICS,
    SECTIONS,
    DataError,
    DomainEvaluation,
    Evaluation,
    SectionTable,
    in_words,
    plot_confusion,
    print_whole,
)
from domaingrad.bench import evaluate as run_evaluation

from .errors import bad_input
from .training_view import TrainingView

SHOWN = 10
"""Groups of a domain that the table shows; JSON has all."""
Run = Annotated[Path, typer.Argument(help="Directory that `domaingrad train` wrote.")]


def evaluate(
    run: Run,
    data: Annotated[
        str | None, typer.Option(help="Other data than the run's own, as for `train`.")
    ] = None,
    by_group: Annotated[
        bool, typer.Option("--by-group", help="Tell each group, too, the worst first.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Where the confusion matrices go.  [default: RUN/confusion.png]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Evaluate a trained model, domain by domain and class by class.

    On the source domains the validation splits count, which also selected the model; on the domain
    held out all of its samples; of other data all samples of each domain.

    Data that have more to tell, as videos of faces, get tables and a picture of their own.

    - `domaingrad evaluate runs/train/PACS-sketch-erm-1a2b3c4d`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        evaluation = run_evaluation(run, data, view.listener.news, by_group)
        picture = plot or run / "confusion.png"
        drawn = evaluation.trained.task == "classification"
        drawings: list[tuple[Path, Callable[[Path], None]]]
        drawings = [(picture, partial(plot_confusion, evaluation))] if drawn else []
        drawings += [
            (run / SECTIONS[name].picture, section.draw)
            for name, section in evaluation.sections.items()
            if section.draw is not None
        ]
        said = [_draw(draw, place, plot is not None) for place, draw in drawings]
    if as_json:
        typer.echo(json.dumps(_as_json(evaluation), indent=2, ensure_ascii=False))
    else:
        console = Console()
        print_whole(console, _by_domain(evaluation))
        if evaluation.estimate:
            print_whole(console, _estimate(evaluation))
        if evaluation.trained.task == "classification":
            print_whole(console, _by_class(evaluation))
        if by_group:
            print_whole(console, _by_group(evaluation))
        for section in evaluation.sections.values():
            for table in section.tables:
                print_whole(console, _section(table))
    for text in (*(f"Note: {note}." for note in evaluation.notes), *said):
        errors.print(text, highlight=False, markup=False, soft_wrap=True)


def _draw(draw: Callable[[Path], None], place: Path, asked: bool) -> str:
    """What came of a picture; where nobody has asked for it, the numbers do without."""
    try:
        draw(place)
    except DataError as error:
        if asked:
            raise
        return f"Note: {error}"
    return f"Wrote {place}."


def _estimate(evaluation: Evaluation) -> Table:
    """What to expect on a new domain, from the trainings that held out one each."""
    task, scores = evaluation.trained.task, evaluation.estimate
    name = evaluation.trained.facts.get("metric")
    table = Table("estimate for a new domain", "", box=None)
    for domain, found in scores.items():
        told = in_words(found.score, task, name, found.beside)
        table.add_row(f"{escape(domain)}, while held out", told)
    mean = sum(found.score for found in scores.values()) / len(scores)
    worst = min(scores, key=lambda domain: scores[domain].score)
    table.add_row("mean", in_words(mean, task, name))
    table.add_row("worst", f"{in_words(scores[worst].score, task, name)} ({escape(worst)})")
    return table


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
                "interval": found.interval,
                "groups": [vars(group) for group in found.groups],
                "confusion": None if found.confusion is None else found.confusion.tolist(),
            }
            for found in evaluation.domains
        ],
        "estimate": {domain: found.score for domain, found in evaluation.estimate.items()},
        "pooled": dict(evaluation.pooled),
        "notes": list(evaluation.notes),
        **{name: section.document for name, section in evaluation.sections.items()},
    }


def _section(table: SectionTable) -> Table:
    shown = Table(box=None, title=escape(table.title), title_justify="left")
    for place, name in enumerate(table.columns):
        shown.add_column(escape(name), justify="left" if place < table.left else "right")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown


def _by_domain(evaluation: Evaluation) -> Table:
    names = list(dict.fromkeys(name for found in evaluation.domains for name in found.metrics))
    table = Table("domain", "", Column("samples", justify="right"), box=None)
    for place, name in enumerate(names):
        table.add_column(name, justify="right")
        if not place:
            table.add_column("95 %", justify="right")
    for found in evaluation.domains:
        first, *others = [_value(name, found) for name in names]
        row = [first, _interval(names[0], found), *others]
        table.add_row(escape(found.domain), found.role, str(found.samples), *row)
    if evaluation.pooled:
        count = sum(f.samples for f in evaluation.domains if f.role == "source, validation")
        first, *others = [f"{evaluation.pooled.get(name, math.nan):.4g}" for name in names]
        table.add_row("sources together", "source, validation", str(count), first, "", *others)
    return table


def _interval(name: str, found: DomainEvaluation) -> str:
    """Of the first metric."""
    if found.interval is None or name not in found.metrics:
        return "–"
    percent = any(metric.percent for metric in METRICS.values() if metric.title == name)
    low, high = (f"{100 * end:.1f}" if percent else f"{end:.3g}" for end in found.interval)
    return f"{low} to {high}"


def _by_group(evaluation: Evaluation) -> Table:
    """The worst groups of each domain, and their mean."""
    table = Table("domain", "group", Column("samples", justify="right"), "score", box=None)
    for found in evaluation.domains:
        mean = sum(group.score for group in found.groups) / len(found.groups)
        count = f"mean of {len(found.groups)} groups"
        table.add_row(escape(found.domain), count, str(found.samples), _score(mean, found))
        for group in found.groups[:SHOWN]:
            told = _score(group.score, found)
            table.add_row("", escape(group.group), str(group.samples), told)
    return table


def _by_class(evaluation: Evaluation) -> Table:
    """Recall of each class: the share of its samples that is told right."""
    table = Table("recall of class", box=None)
    for found in evaluation.domains:
        table.add_column(found.domain, justify="right")
    for index, name in enumerate(evaluation.trained.classes):
        table.add_row(name, *(_recall(found, index) for found in evaluation.domains))
    return table


def _score(value: float, found: DomainEvaluation) -> str:
    regression = "MAE" in found.metrics
    return f"MAE {-value:.4g}" if regression else f"{100 * value:.1f} %"


def _value(name: str, found: DomainEvaluation) -> str:
    if name not in found.metrics:
        return "–"
    percent = any(metric.percent for metric in METRICS.values() if metric.title == name)
    value = found.metrics[name]
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def _recall(found: DomainEvaluation, index: int) -> str:
    assert found.confusion is not None
    row = found.confusion[index]
    count = int(row.sum())
    return f"{100 * int(row[index]) / count:.1f} % of {count}" if count else "no sample"
