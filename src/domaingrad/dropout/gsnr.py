"""GSNR-guided dropout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from domaingrad.engine.batch import Batch
from domaingrad.engine.compiling import original
from domaingrad.engine.inventory import Inventory, preserved
from domaingrad.engine.scaling import loss_scale
from domaingrad.engine.signal_to_noise import size_of

from .holding import Holding
from .layers import targets_of
from .masking import Mask, Masking
from .processes import Processes
from .ranking import Select, kept, ranking_of
from .ratio import LearnedRatio, Ratios, slope_of_ratio
from .readiness import require_ready
from .scoring import Losses, Over, Scoring
from .slopes import SubsetLoss, VirtualStep, split_domains

Scope = Literal["tensor", "model"]
"""Among which components the ratio is taken, and how many ratios there are."""

Masked = Literal["weights", "gradients"]
"""What the mask lies on."""


class GSNRDropout:
    r"""Drop the weights with the highest gradient signal-to-noise ratio in each training step.

    Michalkiewicz et al., ICCV 2023, arXiv 2310.07361: the parameters with the highest GSNR are
    discarded in every step, so that the others learn too; the share that is discarded is learned
    by meta-learning. The paper's text could not be read, so all else is our reading. GSNR (Liu et
    al., arXiv 2001.07384) of a component j, over units s:

    r_j = (E_s g_{s,j})² / Var_s g_{s,j}

    Components are ranked by q_j = (E_s g_{s,j})² / E_s g_{s,j}² in [0, 1], which ranks as r_j does;
    0/0 is 0. The gradients are those at the whole, unmasked weights. Exactly round(p·J) of J
    components are dropped: zero in the forward pass of training mode, and so of gradient zero. In
    evaluation mode nothing is ever dropped.

    In your loop: make it, :meth:`hold` the optimiser, and call :meth:`update` once before each of
    its steps (with gradients accumulated over several batches, before the first of them).

    Weights are masked where their layer is called, by itself or as part of the model; code that
    reads ``layer.weight`` outside of any call, or calls ``layer.forward``, sees the whole weight. A
    weight that other modules use, too (a tied embedding), is masked in its layers alone; it stays
    where it is all the same.

    In several processes, those of ``DistributedDataParallel`` or else all there are, moments and
    losses are those over the samples of all, and all drop the same. Micro-batches are each
    process's own.

    Args:
        model: the model.
        ratio: the share p to drop, in [0, 1); ``"learned"``, or a :class:`LearnedRatio` with
            settings of your own. With ``scope="tensor"`` each weight learns a ratio of its own,
            with ``"model"`` there is one for all.
        layers: names of modules (a container stands for all layers inside) or patterns with
            ``*``; ``None`` masks the weights of every Linear, convolution and MultiheadAttention.
            Biases and norms are never masked.
        over: the units: the samples of the batch, its domains, or micro-batches of it.
        scope: drop p of each weight, or p of all weights of the model together.
        select: what is dropped; all but ``"high-gsnr"`` are for ablations.
        rescale: divide what is kept by 1 − p, as usual dropout does; off, since the choice is not
            random.
        refresh: choose anew in every n-th :meth:`update`; in between the choice stays.
        micro_batches: their number; sample i belongs to micro-batch i modulo this number.
        generator: source of the random choices; without one, a generator with seed 0.
        mask: ``"weights"``, or ``"gradients"``: the forward pass sees whole weights, and in the
            optimiser's step the gradient of what is dropped is zero. Then a learned ratio needs no
            second derivative.
        scaler: the ``torch.amp.GradScaler`` in use: losses are scaled by it on the way to the
            moments, and where they leave the range all the same, the choice stays.
        local: in a program of several processes, this one trains its model by itself.

    Raises:
        ValueError: a ratio outside [0, 1), no layer to mask, names that match nothing, or an
            unknown option.

    >>> model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 2))
    >>> dropout = GSNRDropout(model, ratio=0.25)
    >>> _ = dropout.hold(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> dropout.update(x, lambda out: nn.functional.cross_entropy(out, y, reduction="none"))
    >>> {name: int((~mask).sum()) for name, mask in dropout.masks.items()}
    {'0.weight': 2, '1.weight': 2}
    """

    def __init__(
        self,
        model: nn.Module,
        ratio: float | Literal["learned"] | LearnedRatio = "learned",
        layers: str | Sequence[str] | None = None,
        *,
        over: Over = "samples",
        scope: Scope = "tensor",
        select: Select = "high-gsnr",
        rescale: bool = False,
        refresh: int = 1,
        micro_batches: int = 8,
        generator: Generator | None = None,
        mask: Masked = "weights",
        scaler: torch.amp.GradScaler | None = None,
        local: bool = False,
    ) -> None:
        for name, value, kinds in (
            ("over", over, Over),
            ("scope", scope, Scope),
            ("select", select, Select),
            ("mask", mask, Masked),
        ):
            if value not in get_args(kinds):
                known = ", ".join(map(repr, get_args(kinds)))
                raise ValueError(f"{name} must be one of {known}; found {value!r}.")
        for name, count, least in (("refresh", refresh, 1), ("micro_batches", micro_batches, 2)):
            if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
                raise ValueError(f"{name} must be a whole number from {least} on; found {count!r}.")
        if not isinstance(model, nn.Module):
            raise TypeError(f"GSNRDropout expects an nn.Module; found a {type(model).__name__}.")
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(
                f"generator must be a torch.Generator; found a {type(generator).__name__}."
            )
        settings = _checked(ratio)
        self.model = model
        self.over: Over = over
        self.scope: Scope = scope
        self.select: Select = select
        self.rescale = rescale
        self.refresh = refresh
        self.micro_batches = micro_batches
        self.generator = generator or torch.Generator().manual_seed(0)
        self.mask: Masked = mask
        self._scaler = scaler
        self._local = local
        self._alike = False
        self._inner = inner = unwrapped(model)
        self._targets = targets_of(inner, layers)
        self._masking = Masking(inner, self._targets if mask == "weights" else [])
        self._masks = self._masking.masks or [Mask() for _ in self._targets]
        self._holding = Holding(self._targets, self._masks, of_gradients=mask == "gradients")
        count = len(self._targets) if scope == "tensor" else 1
        self._fixed: list[float] | None = None
        self._learned: Ratios | None = None
        if isinstance(settings, LearnedRatio):
            self._learned = Ratios(settings, count)
        else:
            self._fixed = [settings] * count
        self._scoring = Scoring(
            inner, self._targets, select, over, int(micro_batches), self.generator
        )
        self._updates = 0
        self._removed = False

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio p in force, by the name of the weight; under ``"model"`` if one for all."""
        names = [target.name for target in self._targets] if self.scope == "tensor" else ["model"]
        return dict(zip(names, self._values, strict=True))

    @property
    def _values(self) -> list[float]:
        if self._learned is not None:
            return self._learned.values()
        assert self._fixed is not None  # one of the two is set
        return self._fixed

    @property
    def masks(self) -> dict[str, Tensor]:
        """What is kept in this step, by the name of the weight: True where it takes part."""
        return {
            target.name: torch.ones_like(target.parameter, dtype=torch.bool)
            if mask.kept is None
            else mask.kept
            for target, mask in zip(self._targets, self._masks, strict=True)
        }

    def hold(self, optimizer: Optimizer) -> Optimizer:
        """Make an optimiser leave dropped weights exactly where they are; returns it.

        A gradient of zero does not suffice: momentum and weight decay would move them. The
        optimiser's own state goes on as with a gradient of zero.

        Args:
            optimizer: any optimiser of PyTorch; call once for each that trains masked weights.

        Raises:
            TypeError, ValueError: no optimiser of PyTorch, or one that trains no masked weight.
        """
        self._require_in_use("hold")
        self._holding.hold(optimizer)
        return optimizer

    def update(
        self, inputs: Any, loss_fn: Losses, domain: Tensor | None = None, **options: Any
    ) -> None:
        """Choose what is dropped until the next update, from the gradients of a batch.

        Leaves ``.grad``, buffers (running statistics) and PyTorch's global random state as they
        were; so where other dropout layers draw, the following forward draws the same.

        Args:
            inputs: the batch, as the model takes it (a tuple is positional, a dict keyword
                arguments), every tensor with the N samples along its first dimension.
            loss_fn: from the model's outputs to one loss a sample, [N].
            domain: integer tensor of shape [N]; needed to learn the ratio and for statistics over
                domains.
            **options: passed to the model as they are.

        Raises:
            RuntimeError: no optimiser is held, the model is not in training mode, or it has
                changed since this object was made.
            AgreementError: several processes that differ.
            ValueError: too few samples, domains or micro-batches, no ``domain`` where it is
                needed, or gradients that are not finite.
        """
        self._require_in_use("update")
        if not callable(loss_fn):
            raise TypeError(
                f"loss_fn must be a function from the model's outputs to one loss a sample; found "
                f"a {type(loss_fn).__name__}. Pass lambda outputs: …, reduction='none'."
            )
        self._masking.recover()
        if not self._drops_nothing:
            self._require_ready()
            if self._updates % self.refresh == 0:
                self._choose(inputs, loss_fn, domain, options)
        self._updates += 1

    def _choose(
        self,
        inputs: Any,
        loss_fn: Losses,
        domain: Tensor | None,
        options: Mapping[str, Any],
    ) -> None:
        size = size_of(inputs)
        device = self._targets[0].parameter.device
        scale = loss_scale(self._scaler, device)
        processes = Processes.of(self.model, self._local)
        self._require_alike(processes)
        batch = self._batch(domain, size)
        held = {} if batch is None else dict(zip(batch.labels, batch.sizes, strict=True))
        domains = {} if batch is None else processes.samples(held, device)
        if batch is not None:
            self._require_several(domains, held, processes)
        with self._undisturbed(), self._masking.suspended():
            scores = self._scoring.scores(
                inputs, _scaled(loss_fn, scale), size, batch, options, processes
            )
        if scores is None:
            if scale is None:
                raise ValueError(self._scoring.not_finite())
            return  # The scaler lowers its scale when the step's own gradients leave the range.
        if self._learned is not None and batch is not None:
            shares = {label: count / domains[label] for label, count in held.items()}
            loss = SubsetLoss(inputs, loss_fn, batch, shares, options)
            settings = self._learned.settings
            step = VirtualStep(
                self._inner, self._masking, self._targets, loss, settings.virtual_rate, scale,
                processes,
            )  # fmt: skip
            with self._undisturbed():
                self._learn(self._learned, scores, step, sorted(domains))
        self._drop(scores)

    def _require_alike(self, processes: Processes) -> None:
        """Once: the same weights, options and random numbers everywhere."""
        if self._alike:
            return
        state = self.generator.get_state()
        processes.require_same(
            {
                "weights": [(each.name, tuple(each.parameter.shape)) for each in self._targets],
                "options": repr(self),
                "state of the generator": sha256(state.numpy().tobytes()).hexdigest()[:12],
            }
        )
        self._alike = True

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Passes within the block leave no trace in buffers, ``.grad`` and random state."""
        devices = {p.device for p in self.model.parameters() if p.device.type == "cuda"}
        with torch.random.fork_rng(devices=devices), preserved(Inventory(self._inner)):
            yield

    @property
    def _asks_for_domains(self) -> str | None:
        """What needs the domain of each sample, if anything does."""
        if self._learned is not None:
            return "a learned ratio"
        return "statistics over domains" if self.over == "domains" else None

    def _batch(self, domain: Tensor | None, size: int) -> Batch | None:
        what = self._asks_for_domains
        if what is None:
            return None
        if domain is None:
            raise ValueError(
                f"{what} needs the domain of each sample; pass domain=, an integer tensor of shape "
                f"[{size}], to update."
            )
        batch = Batch(domain)
        if batch.size != size:
            raise ValueError(
                f"domain must hold one label a sample, {size}; found {batch.size} of them."
            )
        return batch

    def _require_several(
        self, domains: Mapping[int, int], held: Mapping[int, int], processes: Processes
    ) -> None:
        """See that there are domains to compare, each in one place where that is needed."""
        if len(domains) < 2:
            raise ValueError(
                f"{self._asks_for_domains} needs at least two source domains in a batch; found "
                f"only domain {next(iter(domains))}. Draw batches over several domains, or use a "
                f"fixed ratio over samples, ratio=0.33 say."
            )
        if self.over == "domains" and any(held[label] < domains[label] for label in held):
            raise ValueError(
                "statistics over domains need all samples of a domain on one process; found "
                "domains on several. Give each process domains of its own, or take "
                "over='samples'."
            )

    def _drop(self, scores: Sequence[Tensor]) -> None:
        """Set the masks."""
        ratios = self._by_target(self._values)
        for mask, chosen, p in zip(self._masks, self._kept(scores), ratios, strict=True):
            mask.kept = chosen
            mask.scale = 1.0 / (1.0 - p) if self.rescale else 1.0

    def _kept(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """The hard masks at the ratios in force."""
        lowest = self.select == "low-gsnr"
        if self.scope == "model":
            together, (p,) = _together(scores), self._values
            return self._apart(kept(together, round(p * len(together)), lowest))
        return [
            kept(s, round(p * s.numel()), lowest) for s, p in zip(scores, self._values, strict=True)
        ]

    def _by_target(self, ratios: Sequence[float]) -> list[float]:
        return list(ratios) * (len(self._targets) if self.scope == "model" else 1)

    def _apart(self, together: Tensor) -> list[Tensor]:
        """From one flat tensor for all weights to one of each weight's shape."""
        shapes = [target.parameter.shape for target in self._targets]
        parts = torch.split_with_sizes(together, [shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _learn(
        self, ratios: Ratios, scores: Sequence[Tensor], step: VirtualStep, labels: Sequence[int]
    ) -> None:
        """One step of the ratios against the meta-test loss."""
        values, lowest = ratios.values(), self.select == "low-gsnr"
        hard = self._kept(scores)
        factors = [
            mask.to(target.parameter.dtype).div_(1.0 - p if self.rescale else 1.0)
            for mask, target, p in zip(hard, self._targets, self._by_target(values), strict=True)
        ]
        train, test = (
            [labels[index] for index in part] for part in split_domains(len(labels), self.generator)
        )
        of = step.of_gradients if self.mask == "gradients" else step.through_the_graph
        slopes = of(factors, train, test)
        groups = [list(slopes), hard, list(scores)]
        if self.scope == "model":
            groups = [[_together(group)] for group in groups]
        found = [
            slope_of_ratio(
                slope, mask, ranking_of(s, lowest), p, ratios.settings.temperature, self.rescale
            )
            for slope, mask, s, p in zip(*groups, values, strict=True)
        ]
        (total,) = step.processes.sums([torch.stack(found)])
        by_ratio = total.cpu()
        if not by_ratio.isfinite().all():
            if step.scale is not None:
                return
            raise ValueError(
                "the meta-test loss has a slope that is not finite, so the ratio cannot be "
                "learned. Lower LearnedRatio(virtual_rate=…) or the learning rate."
            )
        ratios.move(by_ratio)

    def remove(self) -> None:
        """End the dropout: the model and the optimisers are as they were before."""
        if self._removed:
            return
        self._masking.remove()
        self._holding.release()
        self._removed = True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on with the same numbers, beside model and optimiser.

        The masks in force, the number of updates, the learned ratios and the generator's state.
        """
        return {
            "updates": self._updates,
            "masks": {
                target.name: mask.kept
                for target, mask in zip(self._targets, self._masks, strict=True)
            },
            "scales": {
                target.name: mask.scale
                for target, mask in zip(self._targets, self._masks, strict=True)
            },
            "ratios": None if self._learned is None else self._learned.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is that of other layers, or of a ratio that was (not) learned.
        """
        self._check_state(state)
        self.generator.set_state(state["generator"].cpu())
        for target, mask in zip(self._targets, self._masks, strict=True):
            saved = state["masks"][target.name]
            mask.kept = None if saved is None else saved.to(target.parameter.device, copy=True)
            mask.scale = state["scales"][target.name]
        if self._learned is not None:
            self._learned.load_state_dict(state["ratios"])
        self._updates = state["updates"]

    def _check_state(self, state: Mapping[str, Any]) -> None:
        missing = {"updates", "masks", "scales", "ratios", "generator"} - state.keys()
        if missing:
            raise ValueError(
                f"expected what state_dict() of a GSNRDropout returns; found no "
                f"{', '.join(sorted(missing))} in it."
            )
        names = [target.name for target in self._targets]
        if sorted(state["masks"]) != sorted(names):
            raise ValueError(
                f"the saved state is of the layers {', '.join(state['masks'])}; found "
                f"{', '.join(names)} here."
            )
        for target in self._targets:
            saved = state["masks"][target.name]
            if saved is not None and saved.shape != target.parameter.shape:
                raise ValueError(
                    f"the saved mask of {target.name!r} has shape {list(saved.shape)}; found "
                    f"{list(target.parameter.shape)} here. Build the model that was saved."
                )
        if (state["ratios"] is None) != (self._learned is None):
            raise ValueError(
                "the saved state and this GSNRDropout differ in whether the ratio is learned."
            )
        if self._learned is not None and len(state["ratios"]["phi"]) != len(self._learned):
            raise ValueError(
                f"the saved state has {len(state['ratios']['phi'])} learned ratios; found "
                f"{len(self._learned)} here. Make GSNRDropout with the layers and scope of the "
                f"saved one."
            )

    def __repr__(self) -> str:
        ratios = self._values
        shown = f"{min(ratios):.2f}"
        if max(ratios) - min(ratios) > 5e-3:
            shown += f"…{max(ratios):.2f}"
        kind = "fixed" if self._learned is None else "learned"
        return (
            f"GSNRDropout({len(self._targets)} weights, ratio {shown} ({kind}), "
            f"over={self.over!r}, scope={self.scope!r}, select={self.select!r}, "
            f"mask={self.mask!r})"
        )

    def _require_in_use(self, call: str) -> None:
        if self._removed:
            raise RuntimeError(f"{call} after remove(); make a new GSNRDropout.")

    def _require_ready(self) -> None:
        require_ready(self._inner, self._targets)
        missing = self._holding.missing()
        if missing:
            raise RuntimeError(
                f"dropped weights must stay where they are, but momentum and weight decay would "
                f"move them; call dropout.hold(optimizer) once for every optimizer that trains "
                f"masked weights. Found none for {', '.join(missing)}."
            )

    @property
    def _drops_nothing(self) -> bool:
        """Whether nothing will ever be dropped: plain training, to the bit."""
        return self._fixed is not None and max(self._fixed) == 0.0


def unwrapped(model: nn.Module) -> nn.Module:
    """The module within ``torch.compile`` and ``DistributedDataParallel``, in either order."""
    while (inner := original(model)) is not model or isinstance(inner, DistributedDataParallel):
        model = inner.module if isinstance(inner, DistributedDataParallel) else inner
    return model


def _scaled(loss_fn: Losses, scale: Tensor | None) -> Losses:
    if scale is None:
        return loss_fn
    return lambda outputs: loss_fn(outputs) * scale


def _together(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _checked(ratio: float | Literal["learned"] | LearnedRatio) -> float | LearnedRatio:
    if isinstance(ratio, LearnedRatio):
        return ratio
    if isinstance(ratio, str) and ratio == "learned":
        return LearnedRatio()
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0.0 <= ratio < 1.0:
        raise ValueError(
            f"ratio must be a number in [0, 1), the share to drop, 'learned', or a LearnedRatio; "
            f"found {ratio!r}."
        )
    return float(ratio)
