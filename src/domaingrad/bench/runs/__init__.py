"""Runs: train one model, keep its record, run many side by side."""

from .directory import RunDirectory
from .events import Event, Failed, Finished, Lost, Progress
from .execution import AnyCrew, execute
from .files import FullDiskError, RunDirectoryError
from .plan import Plan, PlannedData, PlannedRun, Request, make_plan
from .processes import Crew, uninterrupted
from .ray_cluster import RayCrew
from .sweep_directory import SweepDirectory
from .trainer import Checkpoint, HeldOutScores

__all__ = [
    "AnyCrew",
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
    "RayCrew",
    "Request",
    "RunDirectory",
    "RunDirectoryError",
    "SweepDirectory",
    "execute",
    "make_plan",
    "uninterrupted",
]
