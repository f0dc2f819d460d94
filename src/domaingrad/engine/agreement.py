"""The one object in a training loop: domains' gradients in, the agreed update in ``.grad``."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from domaingrad.rules import Rule
from domaingrad.rules.statistics import accumulation_dtype

from .accumulators import accumulator_for
from .errors import AgreementError, NonFiniteGradientWarning
from .mixed_batch import MixedBatch

Engine = Literal["auto", "single-pass", "streaming"]


class GradientAgreement:
    r"""Let a rule combine the gradients of several domains into the ``.grad`` of a model.

    .grad += rule([g_1 … g_K]),  g_e = ∇ (mean loss of domain e), whatever its share of the batch.

    Two ways to use it, with the same result:

    - one mixed batch: ``losses = loss(agree(x, domain))``, then ``agree.backward(losses)``;
    - one domain after the other: ``with agree.domain(name): loss.backward()``, then
      ``agree.combine()``.

    What holds in both:

    - A domain absent from a step does not vote. A parameter that a domain does not use counts as
      zero there; one that no domain uses keeps its ``.grad``. Frozen parameters are left alone.
    - Each domain passes the model by itself, in order of its label or of its context: BatchNorm in
      training mode normalises with that domain's statistics, as separate passes would, and moves
      its running statistics once per domain.
    - A non-finite gradient of one domain stays visible in ``.grad`` and its domain is named in a
      :class:`NonFiniteGradientWarning` (not under ``scaler``, which skips such steps).

    Args:
        model: the module whose parameters get the update.
        rule: what to do with the domains' gradients.
        engine: ``"streaming"`` runs the domains one after the other; for element-wise rules its
            gradient memory does not depend on their number, Gramian rules keep K gradients.
            ``"auto"`` chooses; in this version always streaming. ``"single-pass"`` is reserved.
        weights: positive factor on g_e by name of the domain; 1 for those not named.
        scaler: the ``torch.amp.GradScaler`` in use: its scale is undone before the rule, which may
            depend on it, and put back after.

    Raises:
        ValueError: an unknown engine, a weight that is not positive, a model with nothing to train.
        NotImplementedError: ``engine="single-pass"``.

    >>> import domaingrad as dg
    >>> model = nn.Linear(2, 1)
    >>> agree = dg.GradientAgreement(model, dg.ANDMask(tau=1.0))
    >>> x, y, domain = torch.ones(4, 2), torch.ones(4), torch.tensor([3, 7, 3, 7])
    >>> losses = (agree(x, domain).squeeze(1) - y).square()
    >>> agree.backward(losses)
    >>> model.weight.grad.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        engine: Engine = "auto",
        *,
        weights: Mapping[Hashable, float] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if engine not in get_args(Engine):
            raise ValueError(
                f"engine must be one of {', '.join(map(repr, get_args(Engine)))}; found {engine!r}."
            )
        if engine == "single-pass":
            raise NotImplementedError(
                "engine='single-pass' is not in this version; use 'auto' or 'streaming', which "
                "give the same numbers."
            )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                "the model has no parameter that requires grad, so there is nothing to agree on."
            )
        for name, weight in (weights or {}).items():
            if not 0.0 < weight < float("inf"):
                raise ValueError(
                    f"the weight of a domain must be positive and finite; found {weight} for "
                    f"{name!r}. Leave a domain out of the batch to silence it."
                )
        self.model = model
        self.rule = rule
        self.engine: Engine = "streaming"
        self._weights = dict(weights or {})
        self._scaler = scaler
        self._batch: MixedBatch | None = None
        self._open: Hashable | None = None
        self._reset()

    def __call__(self, inputs: Any, domain: Tensor, **options: Any) -> Any:
        """Run the model on a batch of several domains; the outputs come in the batch's order.

        Args:
            inputs: the model's input; a tuple is passed as positional, a dict as keyword
                arguments. Every tensor in it has the N samples along its first dimension.
            domain: integer tensor of shape [N], the domain of each sample, any labels.
            **options: passed to the model as they are, for every domain.

        Returns:
            What the model returns, for all N samples. The graph is cut here: only
            :meth:`backward` reaches the model from these outputs.

        Raises:
            TypeError, ValueError: wrong shape or type of ``domain``, inputs or outputs.
        """
        self._require_no_domain_open("agree(x, domain)")
        batch = MixedBatch(domain)
        outputs = batch.forward(self.model, inputs, options)
        self._batch = batch if batch.has_graph else None
        return outputs

    def backward(self, losses: Tensor) -> None:
        """Add the agreed update to ``.grad``, from the losses of each sample.

        Args:
            losses: shape [N], one loss a sample, in the order of the batch given to
                ``agree(x, domain)``; each depends on no sample of another domain.

        Raises:
            AgreementError: no batch to go back through, or losses that mix domains.
            ValueError: losses that are not one a sample, or fewer domains than the rule needs.
        """
        batch, self._batch = self._batch, None
        if batch is None:
            raise AgreementError(
                "agree.backward(losses) needs outputs of agree(x, domain) from this step, computed "
                "with gradients enabled; call agree(x, domain) before each backward."
            )
        if losses.shape != (batch.size,):
            raise ValueError(
                f"losses must hold one loss per sample, shape [{batch.size}]; found "
                f"{list(losses.shape)}. Compute them with reduction='none'"
                + (" and take the mean over all other dimensions." if losses.ndim > 1 else ".")
            )
        if self._names:
            raise AgreementError(
                f"domains {self._listed()} wait for agree.combine(); call it before "
                f"agree.backward, or use one of the two ways throughout a step."
            )
        self.rule.require_domains(len(batch.labels), f" (domain {batch.labels})")
        try:
            mixed = []
            for index, label in enumerate(batch.labels):
                with self.domain(label):
                    mixed.append(batch.backward(index, losses))
            if torch.stack(mixed).any():
                raise AgreementError(
                    "the losses of one domain depend on outputs of another (a contrastive or "
                    "batch-wise loss?), so they are no losses of single domains. Compute each "
                    "domain's loss from its own samples, `with agree.domain(name)`."
                )
        except BaseException:
            self._reset()
            raise
        self.combine()

    @contextmanager
    def domain(self, name: Hashable) -> Iterator[None]:
        """Take the gradients that the block's ``backward`` calls leave as those of one domain.

        Several ``backward`` calls in the block add up, as usual. If the block raises, the domain
        is forgotten. ``.grad`` is as before after the block.

        Args:
            name: any hashable name; each domain opens once per step.

        Raises:
            AgreementError: a block within a block, a domain that was already taken in this step,
                or no ``backward`` in the block that reached the model.
        """
        self._require_no_domain_open(f"agree.domain({name!r})")
        if name in self._names:
            raise AgreementError(
                f"domain {name!r} was already taken in this step; put all its backward calls in "
                f"one block, and call agree.combine() at the end of the step."
            )
        if not self._names:
            self._start_step()
        before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        self._open = name
        try:
            yield
            gradients = [parameter.grad for parameter in self._parameters]
        finally:
            self._open = None
            for parameter, gradient in zip(self._parameters, before, strict=True):
                parameter.grad = gradient
        self._take(name, gradients)

    def combine(self) -> None:
        """Add the rule's update of the domains taken since the last call to ``.grad``.

        Raises:
            AgreementError: no domain was taken, or one is still open.
            ValueError: fewer domains than the rule needs.
        """
        self._require_no_domain_open("agree.combine()")
        if not self._names:
            raise AgreementError(
                "agree.combine() found no domain in this step; run `with agree.domain(name): "
                "loss.backward()` for each domain first."
            )
        try:
            self.rule.require_domains(len(self._names), f" ({self._listed()})")
            updates = self._keep_non_finite_visible(self._accumulator.updates())
            for parameter, update in zip(self._parameters, updates, strict=True):
                if update is not None:
                    if self._scale != 1.0:
                        update.mul_(self._scale)
                    _accumulate(parameter, update)
        finally:
            self._reset()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, between steps: the rule's random state.

        Raises:
            AgreementError: a step is under way.
        """
        if self._names:
            raise AgreementError(
                f"domains {self._listed()} wait for agree.combine(); save between steps."
            )
        return {"rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.rule.load_state_dict(state["rule"])

    def _reset(self) -> None:
        self._open = None
        self._names: list[Hashable] = []
        self._norms: list[Tensor] = []
        self._parameters: list[nn.Parameter] = []
        self._scale = 1.0

    def _start_step(self) -> None:
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._accumulator = accumulator_for(self.rule, len(self._parameters))
        self._scale = 1.0 if self._scaler is None else self._scaler.get_scale()

    def _take(self, name: Hashable, gradients: list[Tensor | None]) -> None:
        present = [gradient for gradient in gradients if gradient is not None]
        if not present:
            raise AgreementError(
                f"no backward in the block of domain {name!r} reached a parameter of the model; "
                f"call loss.backward() inside `with agree.domain({name!r})`."
            )
        if any(gradient.is_sparse for gradient in present):
            raise TypeError(
                f"domain {name!r} has a sparse gradient; agreement compares dense ones. Make the "
                f"embedding with sparse=False."
            )
        factor = self._weights.get(name, 1.0) / self._scale
        prepared = [None if g is None else _prepared(g, factor) for g in gradients]
        self._norms.append(get_total_norm([g for g in prepared if g is not None]))
        self._accumulator.fold(prepared)
        self._names.append(name)

    def _keep_non_finite_visible(self, updates: list[Tensor | None]) -> list[Tensor | None]:
        finite = torch.stack(self._norms).isfinite().tolist()
        if all(finite):
            return updates
        named = [name for name, ok in zip(self._names, finite, strict=True) if not ok]
        if self._scaler is None:
            warn(
                f"non-finite gradient in domain {', '.join(map(repr, named))}; it is left visible "
                f"in .grad. Skip the step, clip, or lower the learning rate.",
                NonFiniteGradientWarning,
                stacklevel=4,
            )
        present = [update for update in updates if update is not None]
        if get_total_norm(present).isfinite():
            for update in present:
                update.fill_(float("nan"))
        return updates

    def _require_no_domain_open(self, call: str) -> None:
        if self._open is not None:
            raise AgreementError(
                f"{call} stands inside the block of domain {self._open!r}; end that block first."
            )

    def _listed(self) -> str:
        return ", ".join(map(repr, self._names))


def _prepared(gradient: Tensor, factor: float) -> Tensor:
    prepared = gradient.detach().to(accumulation_dtype(gradient.dtype))
    return prepared if factor == 1.0 else prepared.mul_(factor)


def _accumulate(parameter: nn.Parameter, update: Tensor) -> None:
    update = update.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = update
    else:
        parameter.grad.add_(update)
