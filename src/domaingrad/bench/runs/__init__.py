"""Runs: train one model, keep its record, run many side by side."""

from domaingrad.bench.disk import FullDiskError, RunDirectoryError

from .bundling import Stacking, bundles_of
from .directory import RunDirectory
from .events import Apart, Event, Failed, Finished, Lost, Progress
from .execution import AnyCrew, execute
from .interrupts import uninterrupted
from .launching import processes_of
from .plan import Bundle, Plan, PlannedData, PlannedRun, SweepConfig, make_plan
from .processes import Crew
from .ranks import FailedElsewhereError, LostProcessError
from .ray_cluster import RayCrew
from .resumable import Listener, Status
from .settings import TrainConfig
from .sweep_directory import SweepDirectory
from .trained import TrainedModel
from .trainer import Checkpoint, HeldOutScores
from .training import Result

__all__ = [
    "AnyCrew",
    "Apart",
    "Bundle",
    "Checkpoint",
    "Crew",
    "Event",
    "Failed",
    "FailedElsewhereError",
    "Finished",
    "FullDiskError",
    "HeldOutScores",
    "Listener",
    "Lost",
    "LostProcessError",
    "Plan",
    "PlannedData",
    "PlannedRun",
    "Progress",
    "RayCrew",
    "Result",
    "RunDirectory",
    "RunDirectoryError",
    "Stacking",
    "Status",
    "SweepConfig",
    "SweepDirectory",
    "TrainConfig",
    "TrainedModel",
    "bundles_of",
    "execute",
    "make_plan",
    "processes_of",
    "uninterrupted",
]
