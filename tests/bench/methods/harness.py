"""A learner outside of a run: made, fed, compared."""

from dataclasses import fields, replace

import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn import functional as F

from domaingrad.bench.domains import Training
from domaingrad.bench.methods import Amp, Setup, Validation
from domaingrad.bench.models import Network, mnist_cnn
from domaingrad.bench.runs.optimizers import Optimizers

INPUTS, WIDTH, CLASSES, SAMPLES = 5, 6, 3, 8
DOMAINS = ("a", "b", "c")
STEPS = 10_000
"""Of the run, as far as a method is told; the schedule has fewer."""
SHAPES = {"small": (INPUTS,), "image": (2, 4, 4), "cnn": (2, 6, 6)}
"""Of inputs, by the kind of network."""
IMAGES = ("arm", "arm-published")
"""Methods that take nothing else."""


class Alone:
    """One process."""

    world = 1

    def wrapped(self, model):
        return model

    def average_gradients(self, parameters, samples):
        pass


def network(dropout=0.0, kind="small", outputs=CLASSES, precision=None):
    torch.manual_seed(0)
    match kind:
        case "small":
            layers = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, outputs))
        case "image":
            layers = nn.Sequential(
                nn.Conv2d(2, WIDTH, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                nn.Linear(WIDTH, outputs),
            )  # fmt: skip
        case "cnn":
            layers = mnist_cnn(SHAPES[kind], outputs)
    return Network(layers, SHAPES[kind], dropout, precision)


def loss(outputs, labels):
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    return F.cross_entropy(outputs, labels, reduction="none")


def training(**changes):
    settings = {"steps": 50, "batch": SAMPLES, "learning_rate": 1e-2, "weight_decay": 0.0}
    return Training(**settings | {"schedule": "constant"} | changes)


def kind_of(method):
    return "image" if method.info.name in IMAGES else "small"


def soon(method, at=2):
    """With everything that waits for an update waiting for this one."""
    names = {field.name for field in fields(method)}
    late = {"anneal": at, "irm_anneal": at, "linear_share": at / STEPS}
    return replace(method, **{name: value for name, value in late.items() if name in names})


def learner(
    method, domains=DOMAINS, net=None, scaler=None, processes=None, outputs=CLASSES, loss=loss,
    **changes,
):  # fmt: skip
    """Of a network with fixed weights."""
    net = net or network(kind=kind_of(method))
    torch.manual_seed(1)  # of what the learner makes beside it
    optimizers = Optimizers(training(**changes))
    made = method.learner(
        Setup(
            network=net, domains=domains, steps=STEPS, loss=loss, optimizer=optimizers,
            amp=Amp(scaler or GradScaler("cpu", enabled=False)),
            generator=torch.Generator().manual_seed(2), processes=processes or Alone(),
            outputs=outputs,
        )
    )  # fmt: skip
    return made, optimizers


def batches(step, domains=DOMAINS, samples=SAMPLES, kind="small"):
    """A batch of each domain, another for another step."""
    generator = torch.Generator().manual_seed(100 + step)
    return {
        name: (
            shift + torch.randn(samples, *SHAPES[kind], generator=generator),
            torch.randint(CLASSES, (samples,), generator=generator),
        )
        for shift, name in enumerate(domains)
    }


def advance(made, optimizers, steps, domains=DOMAINS, kind=None, samples=SAMPLES, dtype=None):
    """Steps, as a run takes them, each with a checkpoint after it."""
    kind = kind or kind_of(made.hp)
    for _ in range(steps):
        given = batches(made.step, domains, samples, kind)
        made.update({name: (x.to(dtype or x.dtype), y) for name, (x, y) in given.items()})
        if made.setup.amp.scaler.is_enabled():
            made.setup.amp.scaler.update()
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
