"""A rule on the domains' gradients is a method: its arguments are the hyper-parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import Any, get_type_hints

from torch import Tensor

from domaingrad import rules
from domaingrad.bench.names import PluginError
from domaingrad.bench.protocol import Distribution, PowerOfTen, Uniform
from domaingrad.engine import GradientAgreement
from domaingrad.rules import Rule

from .base import Method, MethodInfo, Requires
from .learner import Batches, Learner, Setup, pooled


class RuleLearner(Learner["RuleMethod"]):
    """One forward and backward pass where the network allows; the rule makes the update."""

    def build(self) -> None:
        """Wrap the network in the engine."""
        self.rule = self.hp.rule(self.setup)
        # A network of one process is meant to be alone, whatever else runs: tried out, say.
        self.agree = GradientAgreement(
            self.setup.processes.wrapped(self.network),
            self.rule,
            scaler=self.setup.amp.scaler,
            local=True,
        )

    def backward(self, batches: Batches) -> Tensor:
        """The rule's update in ``.grad``."""
        inputs, labels, domain = pooled(batches)
        losses = self.setup.loss(self.agree(inputs, domain), labels)
        self.agree.backward(self.setup.amp.scale(losses))
        return losses.detach().mean()


@dataclass(frozen=True)
class RuleMethod(Method):
    """A rule as a method; :func:`method_of_rule` makes subclasses."""

    @property
    def made_of(self) -> type[Rule]:
        """The rule's class."""
        raise NotImplementedError

    def rule(self, setup: Setup) -> Rule:
        """The rule with these hyper-parameters, and with the run's generator if it draws."""
        given = self.hyperparameters()
        if "generator" in inspect.signature(self.made_of).parameters:
            given["generator"] = setup.generator
        return self.made_of(**given)

    @property
    def code(self) -> type[Any]:
        """The rule."""
        return self.made_of

    def learner(self, setup: Setup) -> RuleLearner:
        """The same for every rule."""
        self.verify(setup)
        return RuleLearner(setup, self)


def method_of_rule(
    rule: type[Rule], info: MethodInfo, search: Mapping[str, Distribution] | None = None
) -> RuleMethod:
    """A method whose hyper-parameters are a rule's arguments, with the rule's defaults.

    Args:
        rule: its arguments have defaults; one called ``generator`` gets the run's.
        info: its name, and what is said of it.
        search: distributions by name of the argument.

    Raises:
        PluginError: an argument without a default.
    """
    kinds = get_type_hints(rule.__init__)
    arguments = {
        name: argument.default
        for name, argument in inspect.signature(rule).parameters.items()
        if name != "generator"
    }
    if bare := [name for name, default in arguments.items() if default is inspect.Parameter.empty]:
        raise PluginError(
            f"{rule.__name__} as a method needs a default for {', '.join(bare)}; give it one."
        )
    made = make_dataclass(
        f"{rule.__name__}Method",
        [(name, kinds.get(name, Any), default) for name, default in arguments.items()],
        bases=(RuleMethod,),
        frozen=True,
        namespace={
            "info": info,
            "search": dict(search or {}),
            # The fewer domains a process has, the fewer gradients it sends.
            "requires": Requires(max(1, rule.minimum_domains), sharding="domain by domain"),
            "made_of": rule,
        },
    )
    method: RuleMethod = made()
    return method


AGREEMENT = (
    method_of_rule(
        rules.ANDMask,
        MethodInfo(
            name="and-mask",
            title="AND-mask",
            summary="keep the components on whose sign the domains agree",
            paper="arXiv 2009.00329",
            cost="1 pass with a gradient a domain",
        ),
        search={"tau": Uniform(0.5, 1)},
    ),
    # DomainBed's default τ = 1 never trains, so the rule's is the middle of its range.
    method_of_rule(
        rules.SANDMask,
        MethodInfo(
            name="sand-mask",
            title="SAND-mask",
            summary="weight components by how far the domains agree in sign and size",
            paper="arXiv 2106.02266",
            cost="1 pass with a gradient a domain",
        ),
        search={"tau": Uniform(0, 1), "k": PowerOfTen(-3, 5)},
    ),
    method_of_rule(
        rules.AgrSum,
        MethodInfo(
            name="agr-sum",
            title="Agr-Sum",
            summary="sum where all domains agree in sign, zero elsewhere",
            paper="arXiv 2108.01621",
            cost="1 pass with a gradient a domain",
        ),
    ),
    method_of_rule(
        rules.AgrRand,
        MethodInfo(
            name="agr-rand",
            title="Agr-Rand",
            summary="sum where all domains agree in sign, noise elsewhere",
            paper="arXiv 2108.01621",
            cost="1 pass with a gradient a domain",
        ),
    ),
    method_of_rule(
        rules.PCGrad,
        MethodInfo(
            name="pcgrad",
            title="PCGrad",
            summary="project each domain's gradient off those it conflicts with",
            paper="arXiv 2001.06782",
            cost="1 pass with a gradient a domain",
        ),
    ),
)
"""The methods that combine the domains' gradients by a rule; searched as in DomainBed."""
