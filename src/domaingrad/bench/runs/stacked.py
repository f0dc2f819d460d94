"""Many trainings of one small network as one batched program, each to its own numbers.

The weights and moments of R runs lie side by side, [R, ...], and each run's network and optimizer
have theirs as views of these. So a run is evaluated, written down and gone on with as if it were
alone; the step alone is taken for all at once, by ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import pad

from domaingrad.bench.methods import Learner, Pooled, RuleLearner, Terms
from domaingrad.bench.models import Network
from domaingrad.rules import Rule
from domaingrad.rules.base import ElementwiseRule, GramianRule, Proposal
from domaingrad.rules.statistics import statistics_of

from .stacked_optimizers import Moments
from .trainer import Trainer, placed

PIECE = 256
"""Samples of a run that are evaluated at once: a fixed number, as products round by their size."""
Named = dict[str, Tensor]
"""Tensors [R, ...] by name."""


class Stack:
    """Runs that train together; those that have ended are left out by :meth:`of`.

    A run comes to the same numbers, to the last bit on a CPU, whichever runs train beside it, and
    if none does; to those of :meth:`Trainer.step` up to rounding.

    Args:
        trainers: of one method, one architecture of linear layers and activations, as many source
            domains, one kind of optimizer and batches of one :func:`padded` size; steps, data,
            seeds and numbers are each run's own.
        pools: samples that runs before have prepared.
    """

    def __init__(self, trainers: Sequence[Trainer], pools: _Pools | None = None) -> None:
        # Those that share a pool side by side, in the order of the first ones.
        first_of = {key: place for place, key in reversed([*enumerate(map(_pool_key, trainers))])}
        self.trainers = sorted(trainers, key=lambda each: first_of[_pool_key(each)])
        first = self.trainers[0]
        self._network: Network = deepcopy(first.network)
        self._holder = _Holder(self._network)
        networks = [dict(each.network.named_parameters()) for each in self.trainers]
        self._parameters: Named = {
            name: torch.stack([own[name].detach() for own in networks]) for name in networks[0]
        }
        for row, own in enumerate(networks):
            for name, parameter in own.items():
                parameter.data = self._parameters[name][row]
        self._moments = Moments([each.learner for each in self.trainers], self._parameters)
        self._inputs = _Inputs(self.trainers, {} if pools is None else pools)
        self._update: _ByRule | _ByObjective = (
            _ByRule(self) if isinstance(first.learner, RuleLearner) else _ByObjective(self)
        )

    @property
    def rows(self) -> range:
        """Numbers of the runs."""
        return range(len(self.trainers))

    def step(self) -> list[int]:
        """Take a step of every run; those at a checkpoint then."""
        learners = [each.learner for each in self.trainers]
        for learner in learners:
            learner.coming()
        self._moments.follow()
        x, y, counted = self._inputs.step()
        gradients, losses = self._update(x, y, counted)
        self._moments.step(gradients)
        due = []
        for row, (trainer, loss) in enumerate(zip(self.trainers, losses.unbind(), strict=True)):
            trainer.optimizers.advance([trainer.learner.optimizer])
            if trainer.stepped(loss):
                due.append(row)
        return due

    def evaluated(
        self, rows: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, list[Tensor]], float | None]]:
        """Of some runs, what :meth:`Trainer.judged` takes: outputs and agreement.

        What a method or an average hears of validation, it hears here.
        """
        of = [self.trainers[row] for row in rows]
        self._update.tell(rows)
        outputs = self._outputs(rows)
        for trainer, found in zip(of, outputs, strict=True):
            trainer.validated({name: found[name] for name in trainer.splits.sources})
        agreements = self._agreements(rows)
        if of[0].averages:
            with ExitStack() as averaged:
                for trainer in of:
                    averaged.enter_context(trainer.predicting())
                outputs = self._outputs(rows)
        yield from zip(rows, outputs, agreements, strict=True)

    def of(self, rows: Sequence[int]) -> Stack | None:
        """The runs that are left, if any are."""
        self._update.tell(list(self.rows))
        left = [self.trainers[row] for row in rows]
        return Stack(left, self._inputs.pools) if left else None

    def called(self, parameters: Mapping[str, Tensor], act: Callable[[], Any]) -> Any:
        """What ``act`` returns while the network has these weights, of one run."""
        return functional_call(
            self._holder, {f"network.{name}": each for name, each in parameters.items()}, (act,)
        )

    def domain_gradients(
        self, x: Tensor, y: Tensor, counted: Tensor, rows: Sequence[int] | None = None
    ) -> tuple[Named, Tensor]:
        """Gradients [R, K, ...] and mean losses [R, K] of the domains' batches [R, K, n, ...]."""
        loss_of = self.trainers[0].learner.setup.loss

        def risk(parameters: Named, x: Tensor, y: Tensor, counted: Tensor) -> Tensor:
            losses = loss_of(self.called(parameters, lambda: self._network(x)), y)
            return (losses * counted).sum() / counted.sum()

        of_domain = vmap(grad_and_value(risk), in_dims=(None, 0, 0, None))
        gradients, risks = vmap(of_domain)(self._of(rows), x, y, counted)
        return gradients, risks

    @property
    def network(self) -> Network:
        """Takes any run's weights."""
        return self._network

    @property
    def parameters(self) -> Named:
        """Of all runs."""
        return self._parameters

    def _of(self, rows: Sequence[int] | None) -> Named:
        if rows is None or len(rows) == len(self.trainers):
            return self._parameters
        index = torch.tensor(rows, device=next(iter(self._parameters.values())).device)
        return {name: each.index_select(0, index) for name, each in self._parameters.items()}

    @torch.no_grad()
    def _outputs(self, rows: Sequence[int]) -> list[dict[str, list[Tensor]]]:
        """Of each run on what it is evaluated on."""
        self._network.eval()
        parameters = self._of(rows)

        def forward(parameters: Named, x: Tensor) -> Tensor:
            outputs: Tensor = self.called(parameters, lambda: self._network(x))
            return outputs

        pieces = [vmap(forward)(parameters, x).float().cpu() for x in self._inputs.evaluated(rows)]
        outputs = torch.cat(pieces, 1)
        self._network.train()
        return [
            self._inputs.by_domain(row, own)
            for row, own in zip(rows, outputs.unbind(), strict=True)
        ]

    def _agreements(self, rows: Sequence[int]) -> list[float | None]:
        """The share of components on whose sign all source domains agree, of each run."""
        count = len(self.trainers[rows[0]].splits.sources)
        if count < 2:
            return [None for _ in rows]
        self._network.eval()
        gradients, _ = self.domain_gradients(*self._inputs.looked_at(rows), rows)
        self._network.train()
        agreeing = [
            (each.sign().sum(1).abs() == count).flatten(1).sum(1) for each in gradients.values()
        ]
        components = sum(each[0, 0].numel() for each in gradients.values())
        return [int(total) / components for total in torch.stack(agreeing).sum(0).tolist()]


def padded(batch: int) -> int:
    """To how many samples a batch is padded: the next number of three binary digits and zeros.

    >>> [padded(batch) for batch in (1, 7, 8, 9, 33, 64, 65, 200)]
    [1, 7, 8, 10, 40, 64, 80, 224]
    """
    unit = 1 << max(0, batch.bit_length() - 3)
    return -(-batch // unit) * unit


class _Holder(nn.Module):
    """Calls something with the network's weights replaced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, act: Callable[[], Any]) -> Any:
        return act()


class _ByObjective:
    """The step of methods whose objective is a function that may be batched."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._learners: list[Learner[Any]] = [each.learner for each in stack.trainers]
        self._terms = Terms.together([each.terms for each in self._learners])
        first = self._learners[0]
        self._kept: Named = {
            name: torch.stack([getattr(each, name) for each in self._learners])
            for name in first.kept
        }
        for row, learner in enumerate(self._learners):
            for name, values in self._kept.items():
                setattr(learner, name, values[row])
        self._numbers = _numbers([each.hp for each in self._learners], stack.parameters)

    def __call__(self, x: Tensor, y: Tensor, counted: Tensor) -> tuple[Named, Tensor]:
        """Gradients and losses, from batches [R, K, n, ...]."""
        stack, domains = self._stack, self._learners[0].setup.domains
        like = next(iter(stack.parameters.values()))
        weights = torch.tensor([each.weight() for each in self._learners]).to(like)

        def objective(
            parameters: Named,
            kept: Named,
            numbers: Named,
            weight: Tensor,
            x: Tensor,
            y: Tensor,
            counted: Tensor,
        ) -> tuple[Tensor, tuple[Named, Named]]:
            learner, told = copy(self._learners[0]), _Told()
            every = counted.repeat(len(domains))
            vars(learner).update(
                {
                    "setup": replace(learner.setup, network=stack.network, counted=every),
                    "network": stack.network,
                    "hp": _Numbers(learner.hp, numbers),
                    "weight": lambda: weight,
                    "terms": told,
                    **kept,
                }
            )
            batches = Pooled(domains, x, y)
            loss = stack.called(parameters, lambda: learner.objective(batches))
            return loss, ({name: getattr(learner, name) for name in kept}, told.terms)

        together = vmap(grad_and_value(objective, has_aux=True))
        gradients, (losses, (kept, terms)) = together(
            stack.parameters, self._kept, self._numbers, weights, x, y, counted
        )
        for name, values in kept.items():
            self._kept[name].copy_(values)
        if terms:
            self._terms.add(terms)
        return gradients, losses

    def tell(self, rows: Sequence[int]) -> None:
        """Let learners know of the terms of their objectives."""
        for row in rows:
            self._learners[row].terms = self._terms.of(row)


class _ByRule:
    """The step of methods that combine the domains' gradients by a rule."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        learners = [cast(RuleLearner, each.learner) for each in stack.trainers]
        self._rules: list[Rule] = [each.rule for each in learners]
        self._numbers = _numbers([each.hp for each in learners], stack.parameters)

    def __call__(self, x: Tensor, y: Tensor, counted: Tensor) -> tuple[Named, Tensor]:
        """Updates and losses, from batches [R, K, n, ...]."""
        gradients, risks = self._stack.domain_gradients(x, y, counted)
        return self._combined(gradients), risks.mean(1)

    def _combined(self, gradients: Named) -> Named:
        """Updates [R, ...] of gradients [R, K, ...]."""
        sizes = [each[0, 0].numel() for each in gradients.values()]
        flat = torch.cat([each.flatten(2) for each in gradients.values()], 2)
        first = self._rules[0]
        if isinstance(first, ElementwiseRule):
            update = self._elementwise(first, flat.transpose(0, 1), sizes)
        elif isinstance(first, GramianRule):
            weights = [
                cast(GramianRule, rule).weigh(torch.split(own, sizes, 1)).values
                for rule, own in zip(self._rules, flat.unbind(), strict=True)
            ]
            update = torch.einsum("rk,rkn->rn", torch.stack(weights).to(flat), flat)
        else:
            update = torch.stack(
                [rule(own) for rule, own in zip(self._rules, flat.unbind(), strict=True)]
            )
        return {
            name: part.view(len(part), *each.shape[2:])
            for (name, each), part in zip(
                gradients.items(), torch.split(update, sizes, 1), strict=True
            )
        }

    def _elementwise(self, rule: ElementwiseRule, gradients: Tensor, sizes: list[int]) -> Tensor:
        """Updates [R, n] of gradients [K, R, n], with the scale of each run."""
        rule = copy(rule)
        vars(rule).update({name: each[:, None] for name, each in self._numbers.items()})
        proposal = rule.propose(statistics_of(gradients, rule.statistics))
        if not proposal.terms:
            return proposal.update
        parts = sizes if rule.scope == "tensor" else [sum(sizes)]
        sums = [
            torch.stack([part.sum(1) for part in torch.split(term, parts, 1)], 1)
            for term in proposal.terms
        ]
        every = torch.tensor(parts, device=gradients.device)
        tally = torch.stack([*sums, every.to(sums[0]).expand_as(sums[0])])
        tally = tally.repeat_interleave(every, 2)
        if not rule.draws:
            return rule.finish(proposal, tally)
        # Each run from its own generator, tensor by tensor.
        masks = [None] * len(self._rules) if proposal.mask is None else proposal.mask.unbind()
        for each, update, mask, own in zip(
            self._rules, proposal.update.unbind(), masks, tally.unbind(1), strict=True
        ):
            at = 0
            for size in sizes:
                part = slice(at, at + size)
                proposed = Proposal(update[part], (), None if mask is None else mask[part])
                update[part] = cast(ElementwiseRule, each).finish(proposed, own[:, part])
                at += size
        return proposal.update

    def tell(self, rows: Sequence[int]) -> None:
        """Rules have no terms."""


class _Told:
    """Takes the terms of an objective."""

    def __init__(self) -> None:
        self.terms: Named = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        self.terms = dict(terms)


class _Numbers:
    """Hyper-parameters, of which some are tensors, one number a run."""

    def __init__(self, own: object, numbers: Named) -> None:
        self._own, self._given = own, numbers

    def __getattr__(self, name: str) -> Any:
        return self._given[name] if name in self._given else getattr(self._own, name)


def _numbers(each: Sequence[Any], like: Named) -> Named:
    """Those hyper-parameters that are no whole numbers, [R]."""
    first = next(iter(like.values()))
    found = [hp.hyperparameters() for hp in each]
    return {
        name: torch.tensor([float(own[name]) for own in found], dtype=torch.float64).to(
            first.device
        )
        for name, value in found[0].items()
        if isinstance(value, float)
    }


class _Pool:
    """All samples of some data, prepared as some runs have them; domain after domain."""

    def __init__(self, trainer: Trainer) -> None:
        self.data = trainer.data
        device, splits = trainer.context.device, trainer.splits
        inputs, labels, self.begin, at = [], [], {}, 0
        for name, domain in trainer.data.domains.items():
            stored, truth = domain.tensors
            inputs.append(splits.preparation(placed(stored[:], device)).to(device))
            labels.append(splits.target.scaled(truth).to(device))
            self.begin[name], at = at, at + len(truth)
        self.inputs, self.labels = torch.cat(inputs), torch.cat(labels)


class _Inputs:
    """Batches of all runs; the rows of a step are those that each run draws by itself."""

    def __init__(self, trainers: Sequence[Trainer], pools: _Pools) -> None:
        self._trainers, self.pools = trainers, pools
        self._pools: list[tuple[_Pool, range]] = []
        for row, trainer in enumerate(trainers):
            if row and _pool_key(trainer) == _pool_key(trainers[row - 1]):
                pool, of = self._pools[-1]
                self._pools[-1] = pool, range(of.start, row + 1)
            else:
                self._pools.append((self._pool(trainer), range(row, row + 1)))
        self._of_run = [pool for pool, of in self._pools for _ in of]
        sizes = torch.tensor([each.training.batch for each in trainers])
        self._size = padded(trainers[0].training.batch)
        # Also where there is no padding, so that numbers are the same whoever trains beside.
        counted = torch.arange(self._size) < sizes[:, None]
        self._counted = counted.float().to(trainers[0].context.device)
        self._begin = torch.tensor(
            [
                [[pool.begin[name]] for name in trainer.splits.sources]
                for pool, trainer in zip(self._of_run, trainers, strict=True)
            ]
        )
        self._evaluated = [self._rows_of(row) for row in range(len(trainers))]

    def _pool(self, trainer: Trainer) -> _Pool:
        key = _pool_key(trainer)
        if key not in self.pools:
            self.pools[key] = _Pool(trainer)
        return self.pools[key]

    def step(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and labels [R, K, n, ...], and which of them count, [R, n]."""
        # At a checkpoint nothing is drawn ahead, so that it may be written down.
        found = [each.feed.next_rows(each.until_checkpoint) for each in self._trainers]
        return (*self._taken(self._placed(found, range(len(found)))), self._counted)

    def looked_at(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of some runs, batches on which agreement is measured."""
        found = [self._trainers[row].looked_at.next_rows(1) for row in rows]
        return (*self._taken(self._placed(found, rows), rows), self._counted[list(rows)])

    def evaluated(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Inputs [R, n, ...] of pieces of what runs are evaluated on, padded to whole ones."""
        every = [self._evaluated[row] for row in rows]
        pieces = -(-max(map(len, every)) // PIECE)
        index = torch.stack([pad(own, (0, pieces * PIECE - len(own))) for own in every])
        for piece in torch.split(index, PIECE, 1):
            yield self._taken(piece, rows, labels=False)[0]

    def by_domain(self, row: int, outputs: Tensor) -> dict[str, list[Tensor]]:
        """Outputs on what a run is evaluated on, as it has them."""
        found: dict[str, list[Tensor]] = {}
        at = 0
        for name, each in self._trainers[row].rows().items():
            found[name] = []
            for own in each:
                found[name].append(outputs[at : at + len(own)])
                at += len(own)
        return found

    def _placed(self, found: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
        """Rows [K, size] of runs' domains as rows [R, K, n] of their pools, padded by the first."""
        placed = self._begin[list(rows)].expand(-1, -1, self._size).clone()
        for own, each in zip(placed, found, strict=True):
            own[:, : each.shape[1]] += each
        return placed

    def _rows_of(self, row: int) -> Tensor:
        begin = self._of_run[row].begin
        each = self._trainers[row].rows().items()
        return torch.cat([own + begin[name] for name, parts in each for own in parts])

    def _taken(
        self, index: Tensor, rows: Sequence[int] | None = None, labels: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Inputs and labels of rows [R, ...] of the runs' pools."""
        rows = range(len(self._trainers)) if rows is None else rows
        like = self._of_run[0]
        flat = index.flatten(1).to(like.inputs.device)
        x = like.inputs.new_empty(flat.numel(), *like.inputs.shape[1:])
        y = like.labels.new_empty(flat.numel() if labels else 0)
        at = 0
        for pool, of in self._pools:
            own = flat[at : at + sum(row in of for row in rows)]
            at += len(own)
            part = slice((at - len(own)) * own.shape[1], at * own.shape[1])
            if len(own):
                torch.index_select(pool.inputs, 0, own.flatten(), out=x[part])
            if len(own) and labels:
                torch.index_select(pool.labels, 0, own.flatten(), out=y[part])
        return x.view(*index.shape, *x.shape[1:]), y.view(*index.shape) if labels else y


_PoolKey = tuple[int, str]
_Pools = dict[_PoolKey, _Pool]


def _pool_key(trainer: Trainer) -> _PoolKey:
    """Equal for runs whose samples are prepared alike."""
    return id(trainer.data), trainer.splits.prepared_as
