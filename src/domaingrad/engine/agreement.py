"""The one object in a training loop: domains' gradients in, the agreed update in ``.grad``."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from domaingrad.rules import Rule
from domaingrad.rules.authoring import GramianRule

from .batch import Batch
from .blocks import Kernels, Runner
from .blocks.filling import Agreement
from .compiling import Compile, inductor_options, original
from .distributed.placement import Likeness, require_same
from .distributed.processes import Processes, require_wrapped
from .distributed.receiver import DistributedAgreement
from .distributed.shards import Shards, gather_no_more, is_spread
from .errors import (
    MIXED_LOSSES,
    AgreementError,
    InconclusiveError,
    SinglePassWarning,
    UnseenModelError,
    UnsupportedModelError,
)
from .gathered import Gathered, Gatherer
from .scaling import factors, loss_scale, plain, positive
from .scratch import Scratch
from .separate_passes import SeparatePasses
from .streaming import Step
from .writing import NonFinite

if TYPE_CHECKING:
    from .graph.capture import RuleInGraph
    from .graph.engine import GraphEngine
    from .graph.mixed_pass import MixedPass

Engine = Literal["auto", "single-pass", "streaming"]
Unused = Literal["zero", "skip"]


class GradientAgreement:
    r"""Let a rule combine the gradients of several domains into the ``.grad`` of a model.

    .grad += rule([g_1 … g_K]),  g_e = ∇ (mean loss of domain e), whatever its share of the batch.

    Two ways to use it, with the same result:

    - one mixed batch: ``losses = loss(agree(x, domain))``, then ``agree.backward(losses)``;
    - one domain after the other: ``with agree.domain(name): loss.backward()``, then
      ``agree.combine()``.

    What holds in both:

    - A domain absent from a step does not vote. A parameter that a domain does not use counts as
      zero there (or see ``unused``); one that no domain uses keeps its ``.grad``. Frozen parameters
      are left alone.
    - Each domain counts by itself: BatchNorm in training mode normalises with that domain's
      statistics, as separate passes would, and moves its running statistics once per domain, in
      order of label or of contexts.
    - A non-finite gradient of one domain stays visible in ``.grad`` and its domain is named in a
      :class:`NonFiniteGradientWarning` (not under ``scaler``, which skips such steps).

    Args:
        model: the module whose parameters get the update.
        rule: what to do with the domains' gradients.
        engine: how a mixed batch passes the model. ``"single-pass"`` makes one forward and one
            backward, with the gradients of parameters told apart by domain in each layer;
            ``"streaming"`` passes the domains one after the other. ``"auto"`` takes the single pass
            where its examination of the first step finds it exact, and else says why not in a
            :class:`SinglePassWarning`. With ``agree.domain`` it is always streaming: for
            element-wise rules gradient memory does not depend on the number of domains, Gramian
            rules keep K gradients.
        weights: positive factor on g_e by name of the domain (its label in a mixed batch); 1 for
            those not named. It does not change a domain's vote on the sign.
        scaler: the ``torch.amp.GradScaler`` in use: its scale is undone before the rule, which may
            depend on it, and put back after.
        kernels: ``"eager"`` runs an element-wise rule operation by operation, ``"compiled"`` as one
            loop by ``torch.compile``; ``"auto"`` compiles for large tensors where a compiler is
            found (single pass only).
        compile: send the model and the rule through ``torch.compile``, with these of its options
            (``{"mode": "reduce-overhead"}``); so it is for a model that is
            ``torch.compile(model, …)`` already.
        comm_dtype: between processes, send gradients and updates in this dtype; bfloat16 keeps
            their signs.
        local: in a program of several processes, this one trains its model by itself.
        audit: compare the single pass with separate passes in its steps 2, 4, 8, …, 512, and in
            every thousandth, at the price of some three steps each; nothing of the model or of
            random numbers changes by it. A difference is an :class:`AuditError`.
        unused: what a domain says of a parameter that its backward passes do not reach: its
            gradient is ``"zero"`` there, or the domains that use it agree among themselves
            (``"skip"``), and the only one has its way, as for a head of its own. Not for Gramian
            rules, which have one weight a domain, nor among processes.

    With ``fully_shard``, a mixed batch passes domain by domain, and every process has samples of
    each domain. In ``DistributedDataParallel``, domains may lie on one process or on several: each
    process calls ``agree(x, domain)`` and ``agree.backward(losses)`` with its own samples (or
    ``agree.idle()`` without any), and all get the update of the whole batch.

    Raises:
        TypeError: a model that is no module, a rule that is no rule.
        ValueError: an unknown engine, a weight that is not positive, a model with nothing to train,
            a model compiled by another backend than Inductor.

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
        kernels: Kernels = "auto",
        compile: Compile = False,  # noqa: A002, as PyTorch calls it
        comm_dtype: torch.dtype | None = None,
        local: bool = False,
        audit: bool = True,
        unused: Unused = "zero",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; found {_kind(model)}.")
        if not isinstance(rule, Rule):
            raise TypeError(
                f"rule must be an instance of a rule, such as ANDMask(tau=0.8); found "
                f"{_kind(rule)}."
            )
        if engine not in get_args(Engine):
            raise ValueError(
                f"engine must be one of {', '.join(map(repr, get_args(Engine)))}; found {engine!r}."
            )
        if kernels not in get_args(Kernels):
            raise ValueError(
                f"kernels must be one of {', '.join(map(repr, get_args(Kernels)))}; found "
                f"{kernels!r}."
            )
        if unused not in get_args(Unused):
            raise ValueError(
                f"unused must be one of {', '.join(map(repr, get_args(Unused)))}; found {unused!r}."
            )
        if unused == "skip" and isinstance(rule, GramianRule):
            raise ValueError(
                f"{rule} has one weight for each domain's whole gradient, so no domain can be left "
                f"out of a parameter; use unused='zero', or an element-wise rule such as ANDMask."
            )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                "the model has no parameter that requires grad, so there is nothing to agree on."
            )
        if any(parameter.is_complex() for parameter in model.parameters()):
            raise TypeError(
                "the model has complex parameters, whose gradients have no sign to agree on; hold "
                "their real and imaginary parts in real parameters."
            )
        self.model = model
        self.rule = rule
        self.engine: Engine = engine
        self._weights = positive(weights)
        self._scaler = scaler
        self._kernels = kernels
        self._audit = audit
        self._skip = unused == "skip"
        self._compiler = inductor_options(model, compile)
        self._graphs: GraphEngine | None = None
        self._scratch = Scratch()
        self._known: tuple[Tensor, Batch] | None = None
        self._streamed: str | None = None
        """Why the latest batch passed domain by domain, if it did."""
        self._warned: set[str] = set()
        self._non_finite = NonFinite()
        self._batch: SeparatePasses | MixedPass | None = None
        self._gathered = Gathered()
        self._open: Hashable | None = None
        self._removed = False
        self._step: Step | None = None
        self._processes: Processes | None = None
        self._likeness = Likeness()
        if isinstance(wrapped := original(model), DistributedDataParallel):
            if unused == "skip":
                raise ValueError(
                    "unused='skip' is for one process or fully_shard; in DistributedDataParallel, "
                    "use unused='zero'."
                )
            self._processes = Processes(wrapped, comm_dtype, self._weights)
        elif not local:
            require_wrapped(self._trained)

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
        batch = self._batch_of(domain)
        batch.check(inputs, options)
        shares: Sequence[float] | None = None
        if is_spread(next(self.model.parameters()).data):
            shards = Shards.of(self._trained)
            assert shards is not None
            shares = shards.shares(batch.labels, batch.sizes)
        if not torch.is_grad_enabled():
            return SeparatePasses(batch).forward(self._inner, inputs, options)
        if shares is not None:
            self._streamed = "fully_shard spreads the parameters over processes"
            return self._separately(batch, inputs, options, shares)
        if self._processes is not None:
            self._processes.begin(self.rule, self._trained, samples=True)
        self._streamed = None
        if self.engine == "streaming":
            self._streamed = "engine='streaming'"
            return self._separately(batch, inputs, options)
        try:
            passed, outputs = self._captured.forward(
                original(self._inner), batch, inputs, options, partial(self._expected, batch)
            )
        except UnsupportedModelError as error:
            return self._without_single_pass(error, batch, inputs, options)
        if passed.has_graph:
            self._batch = passed
        return outputs

    def _batch_of(self, domain: Tensor) -> Batch:
        """A batch with the same domains in the same order is looked at once."""
        known = self._known
        if known is not None and isinstance(domain, Tensor) and domain.device.type == "cpu":
            before, batch = known
            if domain.dtype == before.dtype and torch.equal(domain, before):
                return batch
        batch = Batch(domain)
        self._known = domain.detach().clone(), batch
        return batch

    @property
    def _captured(self) -> GraphEngine:
        if self._graphs is None:
            from .graph.engine import GraphEngine  # noqa: PLC0415, Dynamo takes a second to import

            self._graphs = GraphEngine(compiler=self._compiler, audited=self._audit)
        return self._graphs

    @property
    def _inner(self) -> nn.Module:
        """The model without what synchronises it."""
        return self.model if self._processes is None else self._processes.model.module

    def _agreement_on(self, batch: Batch, device: torch.device) -> Agreement:
        scale = loss_scale(self._scaler, device)
        on_gradients = factors(batch.labels, self._weights, scale, device)
        return Agreement(Runner(self.rule, on_gradients, scale, self._kernels), self._scratch)

    def _expected(self, batch: Batch) -> RuleInGraph | None:
        """The rule of the next update, where a compiled graph may apply it."""
        if self._processes is not None:
            return None
        return self._agreement_on(batch, self._trained[0].device).in_graph

    def _separately(
        self,
        batch: Batch,
        inputs: Any,
        options: Mapping[str, Any],
        shares: Sequence[float] | None = None,
    ) -> Any:
        passes = SeparatePasses(batch, shares)
        outputs = passes.forward(self._inner, inputs, options)
        if shares is not None:
            gather_no_more(self.model)
        if passes.has_graph:
            self._batch = passes
        return outputs

    def _without_single_pass(
        self, error: UnsupportedModelError, batch: Batch, inputs: Any, options: Mapping[str, Any]
    ) -> Any:
        if self.engine == "single-pass":
            raise AgreementError(
                f"the single pass is not exact for this model: {error}. Use engine='auto' or "
                f"'streaming', which pass the domains one after the other where need be."
            ) from error
        self._streamed = str(error)
        outputs = self._separately(batch, inputs, options)
        silent = isinstance(error, (InconclusiveError, UnseenModelError))
        if not silent and str(error) not in self._warned:
            self._warned.add(str(error))
            warn(
                f"one pass for all domains is not exact for this model: {error}. The domains pass "
                f"one after the other instead, which is right but slower; engine='streaming' says "
                f"so from the start.",
                SinglePassWarning,
                stacklevel=3,
            )
        return outputs

    def backward(self, losses: Tensor) -> None:
        """Add the agreed update to ``.grad``, from the losses of each sample.

        Args:
            losses: shape [N], one loss a sample, in the order of the batch given to
                ``agree(x, domain)``; each depends on no sample of another domain.

        Raises:
            AgreementError: no batch to go back through, or losses that mix domains.
            ValueError: losses that are not one a sample, fewer domains than the rule needs.
        """
        batch = self._batch_for(losses, "agree.backward(losses)")
        if self._processes is None:
            labels = batch.batch.labels
            self.rule.require_domains(len(labels), f" (domain {labels})")
        if self._gathered.counts:
            raise AgreementError(
                "losses wait in agree.accumulate for agree.combine(); give the last ones to "
                "agree.accumulate, too, and call agree.combine()."
            )
        if isinstance(batch, SeparatePasses):
            self._walk_separately(batch, losses)
            return
        if self._processes is not None:
            mixed = batch.batch
            among = self._among_processes(dict(zip(mixed.labels, mixed.sizes, strict=True)))
            batch.backward(losses, among, self._trained)
            self._note(among.labels, among.finite())
            return
        parameters = batch.parameters_behind(losses)
        agreement = self._agreement_on(batch.batch, losses.device)
        batch.backward(losses, agreement, parameters)
        self._note(batch.batch.labels, agreement.runner.finite())

    def _note(self, labels: Sequence[Hashable], finite: Tensor | None) -> None:
        if not self._non_finite_expected:
            self._non_finite.note(labels, finite)
            self._non_finite.check()

    def check(self) -> None:
        """Wait for the device, and name the domains whose gradients were not finite, if any.

        On a CPU that is done in the step itself. Elsewhere a step waits for nothing: what it found
        is named, in a :class:`NonFiniteGradientWarning`, when it has arrived on the host.
        """
        self._non_finite.check(wait=True)

    def idle(self) -> None:
        """Take part in a step of several processes without any sample.

        In the place of ``agree(x, domain)`` and ``agree.backward(losses)``; ``.grad`` gets the same
        update as on every other process.

        Raises:
            AgreementError: there is one process only.
        """
        self._require_no_domain_open("agree.idle()")
        if self._processes is None:
            raise AgreementError(
                "agree.idle() is for a process without samples among others; this model is not in "
                "DistributedDataParallel. Leave the step out."
            )
        self._processes.begin(self.rule, self._trained, samples=False)
        self._agree_among_processes({}, [])

    def _among_processes(self, held: Mapping[int, int]) -> DistributedAgreement:
        assert self._processes is not None
        device = self._trained[0].device
        scale = loss_scale(self._scaler, device)
        return self._processes.agreement(
            self.rule,
            self._trained,
            held,
            lambda labels: factors(labels, self._weights, scale, device),
            scale,
            self._kernels,
        )

    def _agree_among_processes(
        self, held: Mapping[int, int], gradients: Sequence[Sequence[Tensor | None]]
    ) -> None:
        assert self._processes is not None
        agreement = self._among_processes(held)
        self._processes.add_updates(agreement, self._trained, gradients)
        self._note(agreement.labels, agreement.finite())

    def accumulate(self, losses: Tensor) -> None:
        """Keep the domains' gradients of these losses; :meth:`combine` agrees on the sum so far.

        For batches too large for memory: after several mixed batches, g_e is the gradient of the
        mean loss over all samples of domain e in them. Keeps K gradients of the model's size.

        Args:
            losses: as for :meth:`backward`.
        """
        batch = self._batch_for(losses, "agree.accumulate(losses)")
        if isinstance(batch, SeparatePasses) and batch.shares is not None:
            raise AgreementError(
                "agree.accumulate keeps whole gradients, and fully_shard spreads them over "
                "processes; call agree.backward for each batch, or `with agree.domain(name)` with "
                "several backward calls in each block."
            )
        if not isinstance(batch, SeparatePasses):
            parameters = batch.parameters_behind(losses)
            batch.backward(losses, Gatherer(self._gathered, batch.batch, parameters), parameters)
            return
        for index, label in enumerate(batch.batch.labels):
            trained = self._trained
            with _set_aside(trained):
                batch.backward(index, losses)
                gradients = {parameter: parameter.grad for parameter in trained}
            self._gathered.add(label, batch.batch.sizes[index], gradients)

    def explain(self) -> str:
        """How the domains' gradients of each parameter were told apart in the latest step.

        A line a parameter: the operator of the captured graph that gives them in one pass, or
        ``domain by domain`` with the reason in the first line.
        """
        named = {
            name: id(p) for name, p in original(self._inner).named_parameters() if p.requires_grad
        }
        if self._streamed is None and self._graphs is None:
            return "no batch has passed yet"
        width = max(map(len, named))
        if self._streamed is not None:
            lines = [f"domain by domain: {self._streamed}"]
            return "\n".join([*lines, *(f"{name:{width}}  domain by domain" for name in named)])
        ways = self._captured.ways
        return "\n".join(
            f"{name:{width}}  {'one pass, ' + ways[own] if own in ways else 'unused'}"
            for name, own in named.items()
        )

    def remove(self) -> None:
        """End the use of this object; the model is as it was, since nothing was attached to it."""
        self.discard()
        self._removed = True
        if self._processes is not None:
            self._processes.close()

    def _batch_for(self, losses: Tensor, call: str) -> SeparatePasses | MixedPass:
        """The batch that the losses belong to, for one walk."""
        self._require_no_domain_open(call)
        batch, self._batch = self._batch, None
        if batch is None:
            raise AgreementError(
                f"{call} needs outputs of agree(x, domain) from this step, computed with gradients "
                f"enabled; call agree(x, domain) before each backward."
            )
        _check_losses(losses, batch.batch.size)
        if self._step is not None:
            raise AgreementError(
                f"domains {self._step.listed} wait for agree.combine(); call it before "
                f"{call}, or use one of the two ways throughout a step."
            )
        return batch

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _walk_separately(self, passes: SeparatePasses, losses: Tensor) -> None:
        if self._processes is not None:
            held = dict(zip(passes.batch.labels, passes.batch.sizes, strict=True))
            self._agree_among_processes(held, self._gradients_of(passes, losses))
            return
        try:
            mixed = []
            for index, label in enumerate(passes.batch.labels):
                with self.domain(label):
                    mixed.append(passes.backward(index, losses))
            if torch.stack(mixed).any():
                raise AgreementError(MIXED_LOSSES)
        except BaseException:
            self._step = None
            raise
        self._combine()

    def _gradients_of(self, passes: SeparatePasses, losses: Tensor) -> list[list[Tensor | None]]:
        """By domain and parameter."""
        gradients, mixed = [], []
        for index in range(len(passes.batch.labels)):
            with _set_aside(self._trained):
                mixed.append(passes.backward(index, losses))
                gradients.append([parameter.grad for parameter in self._trained])
        if torch.stack(mixed).any():
            raise AgreementError(MIXED_LOSSES)
        return gradients

    @contextmanager
    def domain(self, name: Hashable) -> Iterator[None]:
        """Take the gradients that the block's ``backward`` calls leave as those of one domain.

        Several ``backward`` calls in the block add up, as usual. If the block raises, the domain
        is forgotten. After the block, ``.grad`` is as it was before: call ``zero_grad()`` outside
        the blocks, and clone a gradient of the block that you want to keep, since the engine
        overwrites it.

        Args:
            name: any hashable name (of a tensor, its number); each domain opens once per step.

        Raises:
            AgreementError: a block within a block, a domain that was already taken in this step,
                or no ``backward`` in the block that reached the model.
        """
        name = plain(name)
        self._require_no_domain_open(f"agree.domain({name!r})")
        step = self._step or self._new_step()
        if name in step.names:
            raise AgreementError(
                f"domain {name!r} was already taken in this step; put all its backward calls in "
                f"one block, and call agree.combine() at the end of the step."
            )
        with _set_aside(step.parameters):
            self._open = name
            try:
                yield
            finally:
                self._open = None
            gradients = [parameter.grad for parameter in step.parameters]
        if self._processes is not None:
            self._processes.require_own_forward(name, first=not step.names)
        step.take(name, gradients, self._weights.get(name, 1.0))
        self._step = step

    def combine(self) -> None:
        """Add the rule's update of the domains taken since the last call to ``.grad``.

        Raises:
            AgreementError: no domain was taken, or one is still open.
            ValueError: fewer domains than the rule needs.
        """
        self._require_no_domain_open("agree.combine()")
        if self._gathered.counts and self._processes is not None:
            gathered, self._gathered = self._gathered, Gathered()
            held = dict(sorted(gathered.counts.items()))
            means = [gathered.mean_of(label, self._trained) for label in held]
            self._agree_among_processes(held, means)
            return
        if self._gathered.counts:
            self._take_gathered()
        self._combine()

    def _take_gathered(self) -> None:
        if self._step is not None:
            raise AgreementError(
                f"domains {self._step.listed} were taken one by one while losses wait in "
                f"agree.accumulate; use one of the two ways throughout a step."
            )
        step = self._new_step()
        for label in sorted(self._gathered.counts):
            gradients = self._gathered.mean_of(label, step.parameters)
            step.take(label, gradients, self._weights.get(label, 1.0))
        self._gathered = Gathered()
        self._step = step

    def discard(self) -> None:
        """Forget the domains and the batch taken since the last update, after a caught error."""
        self._require_no_domain_open("agree.discard()")
        self._batch = None
        self._step = None
        self._gathered = Gathered()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, between steps: what was found out of the model is left behind."""
        self._require_between_steps("copied or pickled")
        self._non_finite.check(wait=True)
        fresh = {"_graphs": None, "_scratch": Scratch(), "_batch": None}
        return {**self.__dict__, **fresh}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, between steps: the rule's random state.

        Raises:
            AgreementError: a step is under way.
        """
        self._require_no_domain_open("agree.state_dict()")
        self._require_between_steps("saved")
        self.check()
        return {"rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.rule.load_state_dict(state["rule"])

    def _new_step(self) -> Step:
        trained = self._trained
        return Step(trained, self.rule, loss_scale(self._scaler, trained[0].device), self._skip)

    @property
    def _non_finite_expected(self) -> bool:
        """Whether somebody (a GradScaler) looks for non-finite gradients."""
        return self._scaler is not None and self._scaler.is_enabled()

    def _combine(self) -> None:
        step, self._step = self._step, None
        self._require_same_domains(step)
        if step is None:
            raise AgreementError(
                "agree.combine() found no domain in this step; run `with agree.domain(name): "
                "loss.backward()` for each domain first."
            )
        self._note(step.names, step.add_update())

    def _require_same_domains(self, step: Step | None) -> None:
        """See that all processes went through the same domains, each with a share of them."""
        shards = Shards.of(self._trained)
        if self._processes is not None:
            group = self._processes.group
            self._processes.require_alike(self.rule, self._trained)
        elif shards is not None:
            group = shards.group
            self._likeness.require(
                self.rule, self._trained, group, {"weights": dict(self._weights)}
            )
        else:
            return
        require_same(
            {"domains": "none" if step is None else step.listed},
            group,
            "Every process goes through the same domains in the same order, each with its own "
            "samples of them; where domains lie on different processes, use agree(x, domain).",
        )

    def _require_between_steps(self, done: str) -> None:
        if self._step is not None or self._gathered.counts:
            names = self._step.listed if self._step is not None else "in agree.accumulate"
            raise AgreementError(
                f"domains {names} wait for agree.combine(); GradientAgreement is {done} between "
                f"steps."
            )

    def _require_no_domain_open(self, call: str) -> None:
        if self._removed:
            raise AgreementError(f"{call} after agree.remove(); make a new GradientAgreement.")
        if self._open is not None:
            raise AgreementError(
                f"{call} stands inside the block of domain {self._open!r}; end that block first."
            )


@contextmanager
def _set_aside(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Empty ``.grad`` for the block, and what was there after it."""
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def _check_losses(losses: Tensor, size: int) -> None:
    if not isinstance(losses, Tensor):
        raise TypeError(f"losses must be a tensor of shape [{size}]; found {_kind(losses)}.")
    if losses.shape != (size,):
        raise ValueError(
            f"losses must hold one loss per sample, shape [{size}]; found "
            f"{list(losses.shape)}. Compute them with reduction='none'"
            + (" and take the mean over all other dimensions." if losses.ndim > 1 else ".")
        )
    if not losses.requires_grad:
        raise AgreementError(
            "the losses carry no graph; compute them from the outputs of agree(x, domain) "
            "with gradients enabled, and do not detach them."
        )


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
