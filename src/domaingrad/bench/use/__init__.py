"""What is done with a trained model: it is evaluated, inspected, and asked about new samples."""

from .estimation import Estimates, Estimation, estimate
from .evaluation import DomainEvaluation, Evaluation, evaluate
from .inspection import Inspection, inspect
from .prediction import Predictions, load_model, predict

__all__ = [
    "DomainEvaluation",
    "Estimates",
    "Estimation",
    "Evaluation",
    "Inspection",
    "Predictions",
    "estimate",
    "evaluate",
    "inspect",
    "load_model",
    "predict",
]
