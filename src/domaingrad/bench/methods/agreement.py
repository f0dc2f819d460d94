"""The methods that combine the domains' gradients by a rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Generator, Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from domaingrad import rules
from domaingrad.bench.protocol import Distribution, PowerOfTen, Uniform
from domaingrad.engine import GradientAgreement

from .base import Batches, Bound, Dealt, Losses, Method, pooled


@dataclass(frozen=True)
class AgreementMethod(Method):
    """A rule on the domains' gradients: one forward and backward pass where the model allows."""

    @property
    def dealt(self) -> Dealt:
        """The fewer domains a process has, the fewer gradients it sends."""
        return "domain by domain"

    @abstractmethod
    def rule(self, generator: Generator) -> rules.Rule:
        """The rule with the method's hyper-parameters."""

    def bind(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        losses: Losses,
        generator: Generator,
        scaler: GradScaler,
    ) -> Bound:
        """Wrap the model in the engine."""
        rule = self.rule(generator)
        # A plain model is meant to be alone, whatever else runs: to be tried out, say.
        agree = GradientAgreement(model, rule, scaler=scaler, alone=True)

        def backward(batches: Batches) -> Tensor:
            inputs, labels, domain = pooled(batches)
            each = losses(agree(inputs, domain), labels)
            agree.backward(scaler.scale(each))
            return each.detach().mean()

        return Bound(backward, rule)


@dataclass(frozen=True)
class ANDMask(AgreementMethod):
    """AND-mask with DomainBed's default threshold."""

    name = "and-mask"
    title = "AND-mask"
    summary = "keep the components on whose sign the domains agree"
    paper = "arXiv 2009.00329"

    tau: float = 1.0

    def rule(self, generator: Generator) -> rules.Rule:
        """ANDMask(τ)."""
        return rules.ANDMask(self.tau)

    @property
    def search(self) -> Mapping[str, Distribution]:
        """As DomainBed."""
        return {"tau": Uniform(0.5, 1)}


@dataclass(frozen=True)
class SANDMask(AgreementMethod):
    """SAND-mask; DomainBed's default τ = 1 never trains, so the middle of its range."""

    name = "sand-mask"
    title = "SAND-mask"
    summary = "weight components by how far the domains agree in sign and size"
    paper = "arXiv 2106.02266"

    tau: float = 0.5
    k: float = 10.0

    def rule(self, generator: Generator) -> rules.Rule:
        """SANDMask(τ, k)."""
        return rules.SANDMask(self.tau, self.k)

    @property
    def search(self) -> Mapping[str, Distribution]:
        """As DomainBed."""
        return {"tau": Uniform(0, 1), "k": PowerOfTen(-3, 5)}


@dataclass(frozen=True)
class AgrSum(AgreementMethod):
    """Agr-Sum."""

    name = "agr-sum"
    title = "Agr-Sum"
    summary = "sum where all domains agree in sign, zero elsewhere"
    paper = "arXiv 2108.01621"

    def rule(self, generator: Generator) -> rules.Rule:
        """AgrSum()."""
        return rules.AgrSum()


@dataclass(frozen=True)
class AgrRand(AgreementMethod):
    """Agr-Rand."""

    name = "agr-rand"
    title = "Agr-Rand"
    summary = "sum where all domains agree in sign, noise elsewhere"
    paper = "arXiv 2108.01621"

    def rule(self, generator: Generator) -> rules.Rule:
        """AgrRand() with the run's generator."""
        return rules.AgrRand(generator)


@dataclass(frozen=True)
class PCGrad(AgreementMethod):
    """PCGrad."""

    name = "pcgrad"
    title = "PCGrad"
    summary = "project each domain's gradient off those it conflicts with"
    paper = "arXiv 2001.06782"

    def rule(self, generator: Generator) -> rules.Rule:
        """PCGrad() with the run's generator."""
        return rules.PCGrad(generator)
