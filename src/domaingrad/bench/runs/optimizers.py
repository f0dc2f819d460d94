"""Optimizers by a run's recipe, and the schedule that all of them follow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, OneCycleLR

from domaingrad.bench.domains import Training

DECAY = 0.9995
"""Factor on the learning rate per step of the exponential schedule."""
CYCLED = ("betas", "momentum")
"""What a schedule moves beside the learning rate."""


class Optimizers:
    """Makes optimizers, whenever one is asked for, and moves them along one schedule.

    The schedule is PyTorch's, on an optimizer of nothing; the others follow that one, each with its
    own learning rate in proportion. So an optimizer may be made, left out or made anew at any step.

    Args:
        training: optimizer, learning rate, weight decay, schedule, number of steps.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._leader = self._made([torch.zeros(1)], {})
        self._schedule = _schedule(self._leader, training)

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
        optimizer = self._made(parameters, given)
        share = 1.0 if learning_rate is None else learning_rate / training.learning_rate
        for group in optimizer.param_groups:
            group |= {"share": share, "own_betas": betas is not None}
        self._follow(optimizer)
        return optimizer

    def advance(self, optimizers: Iterable[Optimizer]) -> None:
        """Move the schedule by a step, and these along."""
        self._leader.step()  # of nothing; PyTorch expects it before the schedule's
        self._schedule.step()
        for optimizer in optimizers:
            self._follow(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is."""
        return {"leader": self._leader.state_dict(), "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self._leader.load_state_dict(state["leader"])
        self._schedule.load_state_dict(state["schedule"])

    def _made(self, parameters: Iterable[Tensor], given: dict[str, Any]) -> Optimizer:
        rate = self._training.learning_rate
        if self._training.optimizer == "sgd":
            return SGD(parameters, rate, momentum=self._training.momentum, **given)
        kind = AdamW if self._training.optimizer == "adamw" else Adam
        return kind(parameters, rate, fused=True, **given)

    def _follow(self, optimizer: Optimizer) -> None:
        """Take over the leader's learning rate, and what else the schedule moves."""
        (leader,) = self._leader.param_groups
        done, warm_up = self._schedule.last_epoch, self._training.warm_up
        rate = leader["lr"] * (done + 1) / warm_up if done < warm_up else leader["lr"]
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
            for name in CYCLED:
                if name in group and not group["own_betas"]:
                    group[name] = leader[name]


def _schedule(optimizer: Optimizer, training: Training) -> LRScheduler:
    match training.schedule:
        case "one-cycle":
            return OneCycleLR(optimizer, training.learning_rate, total_steps=training.steps + 1)
        case "exponential":
            return ExponentialLR(optimizer, DECAY)
        case "cosine":
            begin, most = training.warm_up, training.steps
            return LambdaLR(
                optimizer,
                lambda done: (1 + math.cos(math.pi * max(0, done - begin) / (most - begin))) / 2,
            )
        case "constant":
            return LambdaLR(optimizer, lambda _: 1.0)
