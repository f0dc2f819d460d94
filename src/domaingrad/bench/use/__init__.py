"""What is done with a trained model: it is evaluated, inspected, exported, asked about samples."""

from .average_runs import AveragedRuns, average_runs
from .estimation import Estimates, Estimation, estimate
from .evaluation import DomainEvaluation, Evaluation, evaluate
from .exporting import Exported, export
from .inspection import Inspection, inspect
from .prediction import Predictions, load_model, predict

__all__ = [
    "AveragedRuns",
    "DomainEvaluation",
    "Estimates",
    "Estimation",
    "Evaluation",
    "Exported",
    "Inspection",
    "Predictions",
    "average_runs",
    "estimate",
    "evaluate",
    "export",
    "inspect",
    "load_model",
    "predict",
]
