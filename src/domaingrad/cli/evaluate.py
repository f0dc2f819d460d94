"""`domaingrad evaluate`: how well does a trained model do, where?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from domaingrad.bench import (
    METRICS,
    SECTIONS,
    DomainEvaluation,
    Evaluation,
    SectionTable,
    in_words,
    plot_confusion,
    print_table,
    require_room_for_plot,
    terminal,
)
from domaingrad.bench import evaluate as run_evaluation

from .errors import bad_input
from .shown import echo_json, say
from .training_view import TrainingView

SHOWN = 10
"""Groups of a domain that the table shows; JSON has all."""
SHOWN_CLASSES, SHOWN_DOMAINS = 60, 12
"""Likewise of classes, the worst, and domains."""
MANY = 100
"""Classes beyond which JSON has the counts of a confusion that are not 0."""
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
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no pictures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Evaluate a trained model, domain by domain and class by class.

    On the source domains the validation splits count, which also selected the model; on the domain
    held out all of its samples; of other data all samples of each domain.

    Data that have more to tell, as videos of faces, get tables and a picture of their own.

    - `domaingrad evaluate runs/train/PACS-sketch-erm-1a2b3c4d`
    """
    errors = Console(stderr=True)
    with bad_input(errors):
        if plot is not None:
            require_room_for_plot(plot)
        with TrainingView(errors) as view:
            evaluation = run_evaluation(run, data, view.listener.news, by_group)
        _tell(evaluation, by_group, as_json)
        for note in evaluation.notes:
            say(errors, f"{note}.", "Note:", "yellow")
        if not no_plot:
            _draw(evaluation, run, plot, errors)


def _draw(evaluation: Evaluation, run: Path, plot: Path | None, errors: Console) -> None:
    """Draw what there is to draw; what fails costs nothing else, and ends the command if named."""
    pictures: dict[Path, Callable[[Path], None]] = {}
    if evaluation.trained.task == "classification":
        pictures[plot or run / "confusion.png"] = partial(plot_confusion, evaluation)
    for name, section in evaluation.sections.items():
        if section.draw is not None:
            pictures[run / SECTIONS[name].picture] = section.draw
    for path, draw in pictures.items():
        try:
            draw(path)
            say(errors, f"Wrote {path}.")
        except ValueError as error:
            if path == plot:
                raise
            say(errors, error, "No picture:", "yellow")


def _tell(evaluation: Evaluation, by_group: bool, as_json: bool) -> None:
    if as_json:
        echo_json(_as_json(evaluation))
    else:
        console = Console()
        print_table(_by_domain(evaluation), console)
        if evaluation.estimate:
            print_table(_estimate(evaluation), console)
        if evaluation.trained.task == "classification":
            print_table(_by_class(evaluation), console)
        if by_group:
            print_table(_by_group(evaluation), console)
        for section in evaluation.sections.values():
            for table in section.tables:
                print_table(_section(table), console)


def _estimate(evaluation: Evaluation) -> Table:
    """What to expect on a new domain, from the trainings that held out one each."""
    task, scores = evaluation.trained.task, evaluation.estimate
    name = evaluation.trained.facts.get("metric")
    table = Table("estimate for a new domain", "", box=None)
    for domain, found in scores.items():
        told = in_words(found.score, task, name, found.beside)
        table.add_row(f"{terminal(domain)}, while held out", told)
    mean = sum(found.score for found in scores.values()) / len(scores)
    worst = min(scores, key=lambda domain: scores[domain].score)
    table.add_row("mean", in_words(mean, task, name))
    table.add_row("worst", f"{in_words(scores[worst].score, task, name)} ({terminal(worst)})")
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
                "confusion": _confusion(found),
            }
            for found in evaluation.domains
        ],
        "estimate": {domain: found.score for domain, found in evaluation.estimate.items()},
        "pooled": dict(evaluation.pooled),
        "notes": list(evaluation.notes),
        **{name: section.document for name, section in evaluation.sections.items()},
    }


def _confusion(found: DomainEvaluation) -> Any:
    """Rows of counts; of many classes the counts that are not 0."""
    if found.pairs is None:
        return None
    if found.classes <= MANY:
        assert found.confusion is not None
        return found.confusion.tolist()
    return dict(zip(("true", "predicted", "samples"), found.pairs.T.tolist(), strict=True))


def _section(table: SectionTable) -> Table:
    shown = Table(box=None, title=terminal(table.title, "table.title"), title_justify="left")
    for place, name in enumerate(table.columns):
        shown.add_column(terminal(name), justify="left" if place < table.left else "right")
    for row in table.rows:
        shown.add_row(*map(terminal, row))
    return shown


def _by_domain(evaluation: Evaluation) -> Table:
    names = list(dict.fromkeys(name for found in evaluation.domains for name in found.metrics))
    table = Table("domain", "", Column("samples", justify="right"), box=None)
    for place, name in enumerate(names):
        table.add_column(terminal(name), justify="right")
        if not place:
            table.add_column("95 %", justify="right")
    for found in evaluation.domains:
        first, *others = [_value(name, found) for name in names]
        row = [first, _interval(names[0], found), *others]
        table.add_row(terminal(found.domain), found.role, str(found.samples), *row)
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
        table.add_row(terminal(found.domain), count, str(found.samples), _score(mean, found))
        for group in found.groups[:SHOWN]:
            told = _score(group.score, found)
            table.add_row("", terminal(group.group), str(group.samples), told)
    return table


def _by_class(evaluation: Evaluation) -> Table:
    """Recall of each class: the share of its samples that is told right."""
    names, domains = evaluation.trained.classes, evaluation.domains[:SHOWN_DOMAINS]
    shown = list(range(len(names)))
    table = Table("recall of class", box=None)
    if len(names) > SHOWN_CLASSES or len(domains) < len(evaluation.domains):
        every = sum((found.by_class for found in evaluation.domains[1:]), domains[0].by_class)
        samples, right = every.T.tolist()
        worst = sorted(shown, key=lambda c: right[c] / samples[c] if samples[c] else 2)
        shown = sorted(worst[:SHOWN_CLASSES])
        table.caption = (
            f"The {len(shown)} worst of {len(names):,} classes, {len(domains)} of "
            f"{len(evaluation.domains)} domains; --json has all."
        )
    for found in domains:
        table.add_column(terminal(found.domain), justify="right")
    recalls = [found.by_class.tolist() for found in domains]
    for index in shown:
        table.add_row(terminal(names[index]), *(_recall(*each[index]) for each in recalls))
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


def _recall(samples: int, right: int) -> str:
    return f"{100 * right / samples:.1f} % of {samples}" if samples else "no sample"
