"""One forward and one backward for all domains of a batch, where that is exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from ..batch import Batch, run, select
from ..errors import FOREIGN_BACKWARD, AgreementError
from .forward import MixedForward
from .inventory import Inventory
from .plan import Plan, UnknownSiteError, UnsupportedError
from .session import Receiver, Session
from .units import Units
from .verification import InconclusiveError, UnfitError, examine, examine_samples

MOST_TRIES = 3
"""Examinations in one step, for a model that takes its ways at random."""

MOST_EXAMINATIONS = 50
"""Examinations of one family, after which its models pass domain by domain."""

SMALL_BUFFER = 2**16
"""Entries up to which a buffer is remembered in case a forward pass has to be taken back."""


class SinglePass:
    """Knows for which models and shapes the single pass is exact, and makes it.

    The first batch of each family (the same parameters, modes of the modules, kinds of inputs) is
    examined once; so is one on which the model takes a way not seen before.

    Args:
        of_samples: the units are the samples, and batch norms in training mode look at the whole
            batch.
    """

    def __init__(self, of_samples: bool = False) -> None:
        self._of_samples = of_samples
        self._plans: dict[Hashable, Plan] = {}
        self._unfit: dict[Hashable, str] = {}
        self._examinations: Counter[Hashable] = Counter()

    def forward(
        self,
        inventory: Inventory,
        batch: Batch,
        inputs: Any,
        options: Mapping[str, Any],
        waits: Callable[[Tensor], bool],
    ) -> tuple[MixedPass, Any]:
        """Pass a batch through the model.

        Args:
            inventory: the model's parameters and modules.
            batch: which sample belongs to which unit.
            inputs: as the model takes them.
            options: passed to the model as they are.
            waits: of which parameters the receiver gives the update at the end alone.

        Raises:
            UnfitError: the single pass is not exact.
        """
        units = Units(batch.sizes)
        in_order = _in_order(batch, inputs)
        family = _family(inventory, inputs, options)
        if family in self._unfit:
            raise UnfitError(self._unfit[family])
        for _ in range(MOST_TRIES):
            if family in self._plans:
                try:
                    return self._pass(
                        batch, inventory, self._plans[family], in_order, options, waits
                    )
                except UnknownSiteError:
                    pass
                except UnsupportedError as error:
                    self._unfit[family] = str(error)
                    raise UnfitError(str(error)) from error
            self._examine(family, inventory, units, in_order, options)
        raise InconclusiveError("the model takes another way each time")

    def _examine(
        self,
        family: Hashable,
        inventory: Inventory,
        units: Units,
        inputs: Any,
        options: Mapping[str, Any],
    ) -> None:
        if units.samples < 2:
            raise InconclusiveError("a batch of one sample shows no layout")
        self._examinations[family] += 1
        try:
            if self._examinations[family] > MOST_EXAMINATIONS:
                raise UnfitError("the model keeps taking ways not seen before")
            check = examine_samples if self._of_samples else examine
            plan = check(inventory, units, inputs, options)
        except InconclusiveError:
            raise
        except UnfitError as error:
            self._unfit[family] = str(error)
            raise
        if family in self._plans:
            self._plans[family].add(plan)
        else:
            self._plans[family] = plan

    def _pass(
        self,
        batch: Batch,
        inventory: Inventory,
        plan: Plan,
        inputs: Any,
        options: Mapping[str, Any],
        waits: Callable[[Tensor], bool],
    ) -> tuple[MixedPass, Any]:
        session = Session(Units(batch.sizes), inventory.trained, waits)
        mode = MixedForward(inventory, session, plan, pools_statistics=self._of_samples)
        with _taken_back_on_error(inventory):
            with mode:
                tree = run(inventory.model, inputs, options)
            if not mode.ways <= plan.ways:
                raise UnknownSiteError("calls that were not examined")
            comes_back = plan.comes_back or mode.comes_back
            passed = MixedPass(batch, session, mode if comes_back else nullcontext(), plan)
            return passed, tree_map_only(Tensor, passed.output, tree)


class MixedPass:
    """A mixed batch on its way through the model, and back.

    The graph is cut at the outputs: the losses reach back to the cut, and from there the model is
    walked once.

    Args:
        batch: which samples belong to which domain.
        session: where the gradients go.
        on_return: entered on the way back, to see what checkpoints run there.
        plan: remembers which kinds of losses do not mix domains.
    """

    def __init__(
        self,
        batch: Batch,
        session: Session,
        on_return: AbstractContextManager[Any],
        plan: Plan,
    ) -> None:
        self.batch = batch
        self._session = session
        self._on_return = on_return
        self._plan = plan
        self._walking = False
        self._outputs: list[Tensor] = []
        self._cuts: list[Tensor] = []

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained."""
        return self._session.parameters

    @property
    def has_graph(self) -> bool:
        """Whether anything can be walked backward."""
        return bool(self._cuts)

    def output(self, tensor: Tensor) -> Tensor:
        """An output of the model, cut off, in the order of the batch."""
        if tensor.ndim == 0 or len(tensor) != self.batch.size:
            raise UnsupportedError(f"an output has shape {list(tensor.shape)}")
        cut = tensor.detach()
        if tensor.requires_grad:
            cut.requires_grad_().register_hook(self._require_own_walk)  # type: ignore[no-untyped-call]
            self._outputs.append(tensor)
            self._cuts.append(cut)
        return cut if self.batch.is_in_order else cut[self.batch.back.to(cut.device)]

    def backward(self, losses: Tensor, receiver: Receiver) -> None:
        """Walk back from the sum over domains of their mean losses.

        Args:
            losses: one a sample.
            receiver: what is done with the gradients.

        Raises:
            AgreementError: the losses mix domains or do not depend on the outputs.
        """
        self._walking = True
        try:
            direct, kind = self._session.behind(losses)
            if direct or kind not in self._plan.losses:
                gradients = self._domain_by_domain(losses, direct)
                self._plan.losses.add(kind)
            else:
                gradients = self._at_once(losses)
        finally:
            self._walking = False
        pairs = [
            (output, gradient)
            for output, gradient in zip(self._outputs, gradients, strict=True)
            if gradient is not None
        ]
        self._outputs, self._cuts = [], []
        with self._session.on_the_way_back(receiver), self._on_return:
            torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])

    def _require_own_walk(self, gradient: Tensor) -> None:
        if not self._walking:
            raise AgreementError(FOREIGN_BACKWARD)

    def _at_once(self, losses: Tensor) -> list[Tensor | None]:
        sizes = torch.tensor(self.batch.sizes)
        seeds = sizes.double().reciprocal().repeat_interleave(sizes)[self.batch.back.cpu()]
        torch.autograd.backward(losses, seeds.to(losses))
        gradients = [cut.grad for cut in self._cuts]
        if all(gradient is None for gradient in gradients):
            raise AgreementError(UNREACHED.format(domains=f"domains {self.batch.labels}"))
        return gradients

    def _domain_by_domain(
        self, losses: Tensor, direct: Sequence[nn.Parameter]
    ) -> list[Tensor | None]:
        """The same, with a look at each domain's share, and the parameters in the losses."""
        totals: list[Tensor | None] = [None] * len(self._cuts)
        mixed, start = False, 0
        for label, rows in zip(self.batch.labels, self.batch.rows, strict=True):
            loss = losses[rows.to(losses.device)].mean()
            with self._session.gradients_of_unit(direct):
                torch.autograd.backward(loss, retain_graph=label != self.batch.labels[-1])
            own = slice(start, start + len(rows))
            start += len(rows)
            if all(cut.grad is None for cut in self._cuts):
                raise AgreementError(UNREACHED.format(domains=f"domain {label}"))
            for index, cut in enumerate(self._cuts):
                gradient, cut.grad = cut.grad, None
                if gradient is None:
                    continue
                total = totals[index]
                if total is None:
                    totals[index] = total = torch.zeros_like(gradient)
                total[own] = gradient[own]
                gradient[own] = 0
                # NaN is no sign of mixing: 0 · inf in another sample's row makes one.
                mixed |= bool((gradient.nan_to_num_(0.0, 0.0, 0.0) != 0).any())
        if mixed:
            raise AgreementError(MIXED_LOSSES)
        return totals


UNREACHED = (
    "the losses of {domains} do not depend on the outputs of agree(x, domain); compute them from "
    "the outputs of the latest call."
)
MIXED_LOSSES = (
    "the losses of one domain depend on outputs of another (a contrastive or batch-wise loss?), "
    "so they are no losses of single domains. Compute each domain's loss from its own samples, "
    "`with agree.domain(name)`."
)


def _in_order(batch: Batch, inputs: Any) -> Any:
    return inputs if batch.is_in_order else select(inputs, batch.order)


def _family(inventory: Inventory, inputs: Any, options: Mapping[str, Any]) -> Hashable:
    """What a plan depends on, apart from the number of samples."""
    leaves, spec = tree_flatten((inputs, dict(options)))
    devices = {parameter.device.type for parameter in inventory.trained}
    return (
        str(spec),
        tuple(_kind(leaf) for leaf in leaves),
        tuple((id(p), p.shape, p.dtype) for p in inventory.trained),
        tuple(module.training for module in inventory.modules),
        tuple(
            torch.get_autocast_dtype(device)
            for device in sorted(devices)
            if torch.is_autocast_enabled(device)
        ),
    )


def _kind(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return leaf.ndim, leaf.dtype, leaf.device.type
    if leaf is None or isinstance(leaf, (bool, int, str)):
        return leaf
    return type(leaf).__name__


@contextmanager
def _taken_back_on_error(inventory: Inventory) -> Iterator[None]:
    """Put small buffers (running statistics) back if the forward pass fails."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in inventory.modules
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.numel() <= SMALL_BUFFER
    ]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for module, name, buffer, value in before:
                module._buffers[name] = buffer
                buffer.copy_(value)
        raise
