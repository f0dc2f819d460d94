"""What is done with a trained model: it is evaluated, inspected, and asked about new samples."""

from .evaluation import DomainEvaluation, Evaluation, evaluate
from .inspection import Inspection, inspect
from .prediction import Predictions, load_model, predict

__all__ = [
    "DomainEvaluation",
    "Evaluation",
    "Inspection",
    "Predictions",
    "evaluate",
    "inspect",
    "load_model",
    "predict",
]
