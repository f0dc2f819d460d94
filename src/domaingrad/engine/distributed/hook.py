"""Agreement as a communication hook of DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from importlib import import_module
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from domaingrad.rules import Rule

from ..scaling import factors, loss_scale, positive
from ..writing import NonFinite
from .exchange import Bucket, Exchange
from .placement import Likeness, Placement, one_row_each

HOOKED: WeakSet[DistributedDataParallel] = WeakSet()
"""Models whose domains agree in their communication."""


class DDPAgreement:
    r"""Let the domains agree where DistributedDataParallel would average.

    One line after the model is wrapped; the loop stays as it is. Each rank's batch is of one
    domain, several ranks may have the same:

    .grad = rule([g_1 … g_K]),  g_e = Σ_{r has e} n_r ∇L_r / Σ_{r has e} n_r

    with L_r the mean loss of rank r over n_r samples. Exact for every rule: each rank gets all
    rows of a shard (all_to_all), the rule works there, what it sums over a tensor or over the model
    is summed over the shards, and all ranks get the update (all_gather), bucket by bucket while the
    backward pass goes on. That is as many bytes as averaging by a ring all-reduce takes.

    To go back several times before a step, put all but the last into ``model.no_sync()``, as with
    DDP: the rule sees their sum. After an error from here, wrap the model anew. A hooked model
    cannot be copied or pickled; copy ``model.module``.

    Where parameters are used by no rank, Agr-Rand's noise differs from that of one process, which
    draws none for them.

    A rank whose domain changes sets :attr:`domain` before the step; one with fewer samples than
    others of its domain sets :attr:`samples`. BatchNorm is DDP's business: running statistics are
    those of rank 0, so of its domain; use ``SyncBatchNorm``, other norms, or
    ``agree(x, domain)``, which averages them.

    Args:
        model: wrapped, with nothing else hooked into its communication.
        rule: what to do with the domains' gradients; with the same seed on every rank.
        domain: the domain of this rank's batches.
        samples: samples in this rank's batch, where ranks of one domain differ.
        scaler: the ``torch.amp.GradScaler`` in use: its scale is undone before the rule, and put
            back after.
        weights: positive factor on g_e by domain; 1 for those not named.
        comm_dtype: send gradients and updates in this dtype; bfloat16 keeps their signs.

    Raises:
        TypeError: a model that is not wrapped.
        AgreementError: ranks with different rules, seeds, models or versions.
        ValueError: from the backward pass, fewer domains than the rule needs.
    """

    def __init__(
        self,
        model: DistributedDataParallel,
        rule: Rule,
        *,
        domain: int,
        samples: int = 1,
        scaler: torch.amp.GradScaler | None = None,
        weights: Mapping[Hashable, float] | None = None,
        comm_dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(model, DistributedDataParallel):
            raise TypeError(
                f"expected a model in DistributedDataParallel; found a {type(model).__name__}. "
                f"In one process, use GradientAgreement."
            )
        self.domain = domain
        self.samples = samples
        self.rule = rule
        self._scaler = scaler
        self._model = model
        self._group = model.process_group
        self._wire = comm_dtype
        self._weights = positive(weights)
        self._removed = False
        self._exchange: Exchange | None = None
        self._labels: list[int] = []
        self._non_finite = NonFinite()
        self._promised: dict[int, tuple[torch.futures.Future[Tensor], Tensor]] = {}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        options = {
            "comm_dtype": comm_dtype,
            "weights": self._weights,
            "scaler": scaler is not None and scaler.is_enabled(),
        }
        Likeness().require(rule, trained, self._group, options)
        self._number = {id(parameter): index for index, parameter in enumerate(trained)}
        # DDP looks at the types themselves, which a PyTorch without torch.distributed has not.
        _hook.__annotations__ = {
            "bucket": dist.GradBucket,  # type: ignore[attr-defined]
            "return": torch.futures.Future[Tensor],
        }
        model.register_comm_hook(self, _hook)
        HOOKED.add(model)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, between steps: the rule's random state."""
        self._non_finite.check(wait=True)
        return {"rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.rule.load_state_dict(state["rule"])

    def remove(self) -> None:
        """Let the ranks' gradients be averaged again, as DistributedDataParallel does.

        The hook itself cannot be taken out of a wrapped model; from here on it averages.
        """
        self._removed = True
        HOOKED.discard(self._model)

    def take(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Send a bucket; the future is kept when its update is back, all at the last bucket."""
        if self._removed:
            hooks = import_module("torch.distributed.algorithms.ddp_comm_hooks.default_hooks")
            return hooks.allreduce_hook(self._group, bucket)  # type: ignore[no-any-return]
        exchange = self._exchange
        if exchange is None:
            if not isinstance(self.samples, int) or self.samples < 1:
                raise ValueError(
                    f"samples must be a whole number of at least 1; found {self.samples!r}. A rank "
                    f"without samples takes part by GradientAgreement's agree.idle()."
                )
            gathered = one_row_each(self.domain, self.samples, self._group, bucket.buffer().device)
            device = bucket.buffer().device
            scale = loss_scale(self._scaler, device)
            exchange = self._exchange = Exchange(
                self.rule,
                [1] * dist.get_world_size(self._group),
                partial(self._agreeable, gathered),
                lambda labels: factors(labels, self._weights, scale, device),
                scale,
                self._group,
                "auto",
                self._wire,
            )
        buffer = bucket.buffer()
        parameters = bucket.parameters()
        own = Bucket(
            [self._number[id(parameter)] for parameter in parameters],
            [parameter.numel() for parameter in parameters],
            buffer.unsqueeze(0),
        )
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        self._promised[id(own)] = (future, buffer)
        exchange.take(own)
        if bucket.is_last():
            self._keep(exchange)
        return future

    def _agreeable(self, gathered: Callable[[], Placement]) -> Placement:
        placement = gathered()
        self._labels = placement.domains
        self.rule.require_domains(len(self._labels), f" on all ranks (domain {self._labels})")
        return placement

    def _keep(self, exchange: Exchange) -> None:
        self._exchange = None
        for done in exchange.finish():
            future, buffer = self._promised.pop(id(done))
            future.set_result(done.update[: buffer.numel()].to(buffer.dtype))
        if self._scaler is None:
            self._non_finite.note(self._labels, exchange.own_finite())
            self._non_finite.check()


def _hook(state: DDPAgreement, bucket: Any) -> Any:
    return state.take(bucket)
