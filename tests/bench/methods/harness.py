"""A learner outside of a run: made, fed, compared."""

from copy import deepcopy

import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn import functional as F

from domaingrad.bench.domains import Training
from domaingrad.bench.methods import Amp, Setup, Validation
from domaingrad.bench.models import Network
from domaingrad.bench.runs.optimizers import Optimizers

INPUTS, WIDTH, CLASSES, SAMPLES = 5, 6, 3, 8
DOMAINS = ("a", "b", "c")


class Alone:
    """One process."""

    def wrapped(self, model):
        return model

    def average_gradients(self, parameters, samples):
        pass


def network(dropout=0.0):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))
    return Network(layers, (INPUTS,), dropout)


def loss(outputs, labels):
    return F.cross_entropy(outputs, labels, reduction="none")


def training(**changes):
    settings = {"steps": 50, "batch": SAMPLES, "learning_rate": 1e-2, "weight_decay": 0.0}
    return Training(**settings | {"schedule": "constant"} | changes)


def learner(method, domains=DOMAINS, **changes):
    """Of a network with fixed weights."""
    torch.manual_seed(1)  # of what the learner makes beside it
    optimizers = Optimizers(training(**changes))
    made = method.learner(
        Setup(
            network=network(), domains=domains, steps=50, loss=loss, optimizer=optimizers,
            amp=Amp(GradScaler("cpu", enabled=False)),
            generator=torch.Generator().manual_seed(2), processes=Alone(), outputs=CLASSES,
        )
    )  # fmt: skip
    return made, optimizers


def batches(step, domains=DOMAINS, samples=SAMPLES):
    """A batch of each domain, another for another step."""
    generator = torch.Generator().manual_seed(100 + step)
    return {
        name: (
            shift + torch.randn(samples, INPUTS, generator=generator),
            torch.randint(CLASSES, (samples,), generator=generator),
        )
        for shift, name in enumerate(domains)
    }


def advance(made, optimizers, steps, domains=DOMAINS):
    """Steps, as a run takes them, each with a checkpoint after it."""
    for _ in range(steps):
        made.update(batches(made.step, domains))
        optimizers.advance(made.optimizers())
        made.step += 1
        made.validated({name: Validation(0.5, 1 / made.step) for name in domains})


def parameters(made):
    """Copies of all that may move, by place."""
    return {
        f"{place}.{name}": tensor.detach().clone()
        for place, part in made._parts().items()
        if isinstance(part, nn.Module)
        for name, tensor in part.state_dict().items()
    }


def moved(made, before):
    """Places at which something is otherwise than before."""
    now = parameters(made)
    return {place for place, tensor in before.items() if not torch.equal(now[place], tensor)}


def gradients(made):
    return [deepcopy(p.grad) for p in made.network.parameters()]
