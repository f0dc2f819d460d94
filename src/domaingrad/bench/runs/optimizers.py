"""Optimizers by a run's recipe, and the schedule that all of them follow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, OneCycleLR

from domaingrad.bench.domains import OptimizerName, Schedule, Training

DECAY = 0.9995
"""Factor on the learning rate per step of the exponential schedule."""
CYCLED = ("betas", "momentum")
"""What a schedule moves beside the learning rate."""


class Course:
    """A schedule: by steps done, the share of the learning rate, and what else it moves.

    It is PyTorch's, of an optimizer of nothing with a learning rate of 1, taken as far as asked.
    """

    def __init__(
        self,
        schedule: Schedule,
        steps: int,
        warm_up: int,
        optimizer: OptimizerName,
        momentum: float,
    ) -> None:
        self._warm_up = warm_up
        self._leader = _made(optimizer, [torch.zeros(1)], 1.0, momentum, {})
        self._schedule = _schedule(self._leader, schedule, steps, warm_up)
        self._passed: list[dict[str, Any]] = []

    def after(self, done: int) -> dict[str, Any]:
        """As of the step after ``done`` others: ``lr`` and :data:`CYCLED`, as far as it has them.

        Raises:
            ValueError: the schedule has ended before.
        """
        (group,) = self._leader.param_groups
        while len(self._passed) <= done:
            if self._passed:
                self._leader.step()  # of nothing; PyTorch expects it before the schedule's
                self._schedule.step()
            begun = min(1.0, (len(self._passed) + 1) / max(1, self._warm_up))
            moved = {name: group[name] for name in CYCLED if name in group}
            self._passed.append({"lr": group["lr"] * begun, **moved})
        return self._passed[done]


_course = lru_cache(maxsize=32)(Course)


class Optimizers:
    """Makes optimizers, whenever one is asked for, and moves them along one schedule.

    Each follows with its own learning rate in proportion. So an optimizer may be made, left out or
    made anew at any step.

    Args:
        training: optimizer, learning rate, weight decay, schedule, number of steps.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._course = _course(
            training.schedule,
            training.steps,
            training.warm_up,
            training.optimizer,
            training.momentum,
        )
        self.done = 0
        """Steps that the schedule has been moved by."""

    def __call__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        betas: tuple[float, float] | None = None,
    ) -> Optimizer:
        """An optimizer by the recipe where nothing else is given, as far as the schedule is."""
        training = self._training
        given: dict[str, Any] = {
            "weight_decay": training.weight_decay if weight_decay is None else weight_decay
        }
        if betas is not None and training.optimizer != "sgd":
            given["betas"] = betas
        rate = training.learning_rate if learning_rate is None else learning_rate
        optimizer = _made(training.optimizer, parameters, rate, training.momentum, given)
        for group in optimizer.param_groups:
            group |= {"rate": rate, "own_betas": betas is not None}
        self._follow(optimizer)
        return optimizer

    def advance(self, optimizers: Iterable[Optimizer]) -> None:
        """Move the schedule by a step, and these along."""
        self.done += 1
        for optimizer in optimizers:
            self._follow(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.done = state["done"]

    def _follow(self, optimizer: Optimizer) -> None:
        """Take over the learning rate, and what else the schedule moves."""
        now = self._course.after(self.done)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * now["lr"]
            for name in CYCLED:
                if name in group and not group["own_betas"]:
                    group[name] = now[name]


def _made(
    kind: OptimizerName,
    parameters: Iterable[Tensor],
    rate: float,
    momentum: float,
    given: dict[str, Any],
) -> Optimizer:
    if kind == "sgd":
        return SGD(parameters, rate, momentum=momentum, **given)
    return (AdamW if kind == "adamw" else Adam)(parameters, rate, fused=True, **given)


def _schedule(optimizer: Optimizer, schedule: Schedule, steps: int, warm_up: int) -> LRScheduler:
    match schedule:
        case "one-cycle":
            return OneCycleLR(optimizer, 1.0, total_steps=steps + 1)
        case "exponential":
            return ExponentialLR(optimizer, DECAY)
        case "cosine":
            return LambdaLR(
                optimizer,
                lambda done: (
                    (1 + math.cos(math.pi * max(0, done - warm_up) / (steps - warm_up))) / 2
                ),
            )
        case "constant":
            return LambdaLR(optimizer, lambda _: 1.0)
