"""Comparisons on data that need no download, with each method's default hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from domaingrad.bench import DATA_SETS, SweepConfig, look_up, plan_sweep

from .errors import bad_input
from .session import carry_out_and_report, names


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
        config = SweepConfig(
            data=given,
            methods=names(methods, "--methods"),
            trials=trials,
            seed=seed,
            any_plan=True,
            settings={"steps": steps, "accelerator": "cpu"},
        )
        planned = plan_sweep(config, out, jobs=jobs, retry_failed=True)
    with bad_input(errors), planned.begun():
        carry_out_and_report(planned, as_json, errors)
