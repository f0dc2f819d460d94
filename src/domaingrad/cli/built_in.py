"""Comparisons on data that need no download, with each method's default hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from domaingrad.bench.domains import DATA_SETS
from domaingrad.bench.names import look_up
from domaingrad.bench.runs import Request, SweepDirectory, make_plan

from .errors import bad_input
from .session import carry_out_and_report, crew_of, names


def compare_built_in(
    data: Sequence[str],
    methods: Sequence[str],
    trials: int,
    steps: int | None,
    seed: int,
    out: Path,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Plan, train what is not there yet, and report; what failed before is tried again.

    Raises:
        typer.Exit: bad input (2), failed runs or a report that cannot be written (1), Ctrl-C (130).
    """
    errors = Console(stderr=True)
    with bad_input(errors):
        given = names(data, "--data")
        for name in given:
            look_up("data set", name, DATA_SETS)
        request = Request(
            data=given,
            methods=names(methods, "--methods"),
            trials=trials,
            seed=seed,
            any_plan=True,
            settings={"steps": steps, "accelerator": "cpu"},
        )
        plan, _ = make_plan(request)
        crew = crew_of(jobs, False, "cpu", 1, len(plan.runs))
        directory = SweepDirectory(out)
    with bad_input(errors), directory.alone():
        directory.replace(plan)
        for run in plan.runs:
            directory.put_aside(run.key)
        todo = [run for run in plan.runs if not directory.finished(run.key)]
        carry_out_and_report(directory, plan, todo, crew, as_json, errors)
