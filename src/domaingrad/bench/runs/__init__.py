"""Runs: train one model, keep its record, run many side by side."""

from .directory import FullDiskError, RunDirectory, RunDirectoryError
from .execution import (
    Crew,
    Event,
    Failed,
    Finished,
    Lost,
    Progress,
    execute,
    uninterrupted,
)
from .fitting import Checkpoint, HeldOutScores
from .plan import Plan, PlannedData, PlannedRun, Request, make_plan
from .sweep_directory import SweepDirectory

__all__ = [
    "Checkpoint",
    "Crew",
    "Event",
    "Failed",
    "Finished",
    "FullDiskError",
    "HeldOutScores",
    "Lost",
    "Plan",
    "PlannedData",
    "PlannedRun",
    "Progress",
    "Request",
    "RunDirectory",
    "RunDirectoryError",
    "SweepDirectory",
    "execute",
    "make_plan",
    "uninterrupted",
]
