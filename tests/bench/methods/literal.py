"""Methods' updates once more, in float64, written from the equations: no module, no optimizer.

A network is a dict of tensors, ``Reference.features`` and ``head`` are its layers written out, Adam
is its four lines. Of the package only names of parameters are used.
"""

import math

import torch
from torch.nn import functional as F

PREFIX = ("body.", "classifier.")


def cross_entropy(outputs, y):
    """−log softmax(o)_y of each sample."""
    shifted = outputs - outputs.max(1, keepdim=True).values
    return shifted.exp().sum(1).log() - shifted[torch.arange(len(y)), y]


def risk(outputs, y):
    return cross_entropy(outputs, y).mean()


def softmax(outputs):
    e = (outputs - outputs.max(1, keepdim=True).values).exp()
    return e / e.sum(1, keepdim=True)


def onehot(y, classes):
    return (y[:, None] == torch.arange(classes)).double()


def mlp(parameters, x, layers, between):
    """Linear layers named 0, 3, 6, … or as told, with a function between them."""
    for place, at in enumerate(layers):
        if place:
            x = between(x)
        x = x @ parameters[f"{at}.weight"].T + parameters[f"{at}.bias"]
    return x


def normalized(x, weight, bias):
    """BatchNorm of a batch [n, d] in training."""
    mean, variance = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


class Reference:
    """θ of one network, moments of its optimizers, and what a method keeps."""

    def __init__(self, network, kind, rate=1e-2, decay=0.0):
        self.kind, self.rate, self.decay = kind, rate, decay
        self.theta = {n: p.detach().clone() for n, p in network.named_parameters()}
        self.moments = {}
        self.kept = {}
        self.t = 0

    def features(self, theta, x):
        if self.kind == "small":
            return torch.tanh(x @ theta["body.0.weight"].T + theta["body.0.bias"])
        for at, stride in zip((0, 3, 6, 9), (1, 2, 1, 1), strict=True):
            w, b = theta[f"body.{at}.weight"], theta[f"body.{at}.bias"]
            x = F.conv2d(x, w, b, stride=stride, padding=1).clamp(min=0)
            groups = x.reshape(len(x), 8, -1)
            mean = groups.mean(2, keepdim=True)
            variance = ((groups - mean) ** 2).mean(2, keepdim=True)
            x = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
            x = x * theta[f"body.{at + 2}.weight"][:, None, None]
            x = x + theta[f"body.{at + 2}.bias"][:, None, None]
        return x.mean((2, 3))

    def head(self, theta, z):
        return z @ theta["classifier.weight"].T + theta["classifier.bias"]

    def outputs(self, theta, x):
        return self.head(theta, self.features(theta, x))

    def risks(self, theta, batches):
        return torch.stack([risk(self.outputs(theta, x), y) for x, y in batches])

    def adam(self, theta, gradient, key="", betas=(0.9, 0.999), rate=None, decay=None):
        """One step of the Adam called ``key``; missing gradients leave a tensor alone."""
        (b1, b2), rate = betas, rate or self.rate
        decay = self.decay if decay is None else decay
        moved = dict(theta)
        for name, undecayed in gradient.items():
            g = undecayed + decay * theta[name]
            m, v, t = self.moments.get((key, name), (0.0, 0.0, 0))
            m, v, t = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g, t + 1
            self.moments[key, name] = m, v, t
            change = m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + 1e-8)
            moved[name] = theta[name] - rate * change
        return moved

    def forget(self, key=""):
        self.moments = {k: value for k, value in self.moments.items() if k[0] != key}

    def descend(self, objective, names=None, **settings):
        """θ takes a step of Adam on an objective of it."""
        self.theta = self.adam(self.theta, gradient(objective, self.theta, names), **settings)


def gradient(objective, theta, names=None):
    """∂ objective/∂θ of the tensors named, by name."""
    names = list(names or theta)
    leaves = {n: t.clone().requires_grad_(n in names) for n, t in theta.items()}
    found = torch.autograd.grad(objective(leaves), [leaves[n] for n in names], allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def part(theta, prefix):
    """Tensors whose names begin so, without that."""
    return {n.removeprefix(prefix): t for n, t in theta.items() if n.startswith(prefix)}


def pool(batches):
    x, y = (torch.cat(each) for each in zip(*batches, strict=True))
    return x, y, torch.cat([torch.full((len(y),), e) for e, (_, y) in enumerate(batches)])


# Distances of features -----------------------------------------------------------------------


def pairs(count):
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def covariance(z):
    c = z - z.mean(0)
    return c.T @ c / (len(z) - 1)


def coral_distance(a, b):
    means = ((a.mean(0) - b.mean(0)) ** 2).mean()
    return means + ((covariance(a) - covariance(b)) ** 2).mean()


def kernel(a, b, gammas):
    squares = ((a[:, None] - b[None]) ** 2).sum(2)
    return sum((-g * squares).exp() for g in gammas)


MMD_GAMMAS = [10.0**p for p in range(-3, 4)]


def mmd_distance(a, b, gammas=None):
    g = gammas or MMD_GAMMAS
    return kernel(a, a, g).mean() + kernel(b, b, g).mean() - 2 * kernel(a, b, g).mean()


def over_pairs(distance, sets):
    found = [distance(sets[i], sets[j]) for i, j in pairs(len(sets))]
    return sum(found) / len(found)


# Penalties -----------------------------------------------------------------------------------


def irm_penalty(outputs, y):
    def slope(o, t):
        return ((softmax(o) - onehot(t, o.shape[1])) * o).sum(1).mean()

    return slope(outputs[::2], y[::2]) * slope(outputs[1::2], y[1::2])


def normal_cdf(x):
    return (1 + torch.erf(x / math.sqrt(2))) / 2


def kde_quantile(risks, alpha):
    """q with (1/K) Σ Φ((q − R_e)/h) = α, by 200 bisections; its gradient by its own, implicit."""
    spread = risks.detach()
    low, high = spread.min() - 10 * spread.std() - 1e-9, spread.max() + 10 * spread.std() + 1e-9

    def law(q, r):
        h = 1.06 * ((r - r.mean()) ** 2).sum().div(len(r) - 1).sqrt() * len(r) ** -0.2
        return normal_cdf((q - r) / h).mean()

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if law(middle, spread) < alpha else (low, middle)
    q = low.clone().requires_grad_()
    r = spread.clone().requires_grad_()
    of_q, of_r = torch.autograd.grad(law(q, r), (q, r))
    return q.detach() + ((risks - risks.detach()) * (-of_r / of_q)).sum()


def percentile(values, percent):
    """Of a vector, by linear interpolation, as NumPy's."""
    ordered = values.sort().values
    place = percent / 100 * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
