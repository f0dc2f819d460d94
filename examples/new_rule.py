"""A new rule: the mean where most domains agree, in a loop and on the command line.

    python examples/new_rule.py
    cd examples
    domaingrad sweep --plugin new_rule --methods erm,majority --data spirals --dry-run

The equation is all that there is to write; docs/tutorials/new_rule.md says what else there may be.
"""

import torch
from torch import nn
from torch.nn import functional as F

import domaingrad as dg
from domaingrad.bench import register
from domaingrad.bench.protocol import Uniform
from domaingrad.rules.authoring import ElementwiseRule, Proposal, Statistics


@register.rule("majority", title="Majority", search={"share": Uniform(0.5, 1)})
class Majority(ElementwiseRule):
    """The mean where more than a share of the domains have the same sign, else 0.

    update = 1[ |Σ_e sign(g_e)| > (2 share − 1) K ] · (1/K) Σ_e g_e
    """

    statistics = frozenset({"mean", "sign_sum"})

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def propose(self, statistics: Statistics) -> Proposal:
        agree = statistics.sign_sum.abs() > (2 * self.share - 1) * statistics.count
        return Proposal(statistics.mean * agree)


def main() -> None:
    gradients = torch.tensor([[1.0, -2.0], [1.0, 3.0], [4.0, -1.0]])  # [K, n]
    print(Majority(0.9)(gradients).tolist(), "keeps the component on which all three agree")

    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    agree = dg.GradientAgreement(model, Majority())
    x, y, domain = torch.randn(30, 4), torch.randint(2, (30,)), torch.arange(30) % 3
    agree.backward(F.cross_entropy(agree(x, domain), y, reduction="none"))
    print(f"{agree.rule} left a gradient of norm {model.weight.grad.norm():.3f}")


if __name__ == "__main__":
    main()
