"""Runs: train one model, keep its record, run many side by side."""

from .comparison import Comparison, plan
from .execution import Event, Failed, Finished, Progress, execute, uninterrupted
from .fitting import Checkpoint, HeldOutScores
from .records import Records
from .run import HeldOutRecord, RunConfig, RunRecord, train

__all__ = [
    "Checkpoint",
    "Comparison",
    "Event",
    "Failed",
    "Finished",
    "HeldOutRecord",
    "HeldOutScores",
    "Progress",
    "Records",
    "RunConfig",
    "RunRecord",
    "execute",
    "plan",
    "train",
    "uninterrupted",
]
