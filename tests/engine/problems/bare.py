"""Parameters used without a layer, in part, together or in several places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .problem import CLASSES, Apply, N, normal, problem, tokens, weights


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, CLASSES))
    model[2].weight = model[0].weight
    return model


class Products(nn.Module):
    """x @ W, torch.matmul on three dimensions, and einsum with W as either operand."""

    def __init__(self) -> None:
        super().__init__()
        self.vector, self.tokens, self.pairs = weights(6, 5), weights(5, 4), weights(4, 4)
        self.head = weights(CLASSES, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.vector)
        x = torch.tanh(torch.matmul(x, self.tokens))
        x = x + torch.einsum("cd,nlc->nld", self.pairs, x)
        return torch.einsum("nlc,kc->nk", x, self.head)


class SamplesLast(nn.Module):
    """Column vectors, as in the books: W·X + b with one column a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = weights(5, 6), weights(CLASSES, 5)
        self.shift = weights(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second @ torch.tanh(self.first @ x.T + self.shift)).T


class Arithmetic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.added, self.subtracted = weights(6), weights(1, 6)
        self.factor, self.divisor = weights(4, 1), nn.Parameter(1.0 + torch.rand(4, 6))
        self.gain, self.power = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(2.5))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.added) / self.divisor
        x = self.factor * (self.subtracted - x) + (1.0 + x.abs()) ** self.power
        return self.head(self.gain * x.mean(1))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, CLASSES)
        self.added, self.factor = weights(5), weights(5)
        self.left, self.right, self.slot = weights(5), weights(5), weights(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x += self.added
        x = torch.addcmul(x.tanh(), self.left, self.right, value=0.5)
        x.mul_(self.factor)
        x[:, 1:3] = self.slot
        x = torch.addcmul(x, x, self.right)
        return self.head(x)


class Repeated(nn.Module):
    """One parameter for all samples, copied for each of them in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = weights(6), weights(6), weights(1, 6)
        self.fourth, self.fifth = weights(6), weights(1, 6)
        self.body, self.head = nn.Linear(12, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = x * torch.stack([self.first] * n) + self.second.repeat(n, 1)
        x = x + x.new_ones(n, 1) @ self.third + self.fourth.expand_as(x)
        context = self.fifth.repeat_interleave(n, 0).tanh()
        return self.head(torch.tanh(self.body(torch.cat([x, context], 1))))


class LayersAsFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = weights(4, 2, 3), weights(4)
        self.scale, self.bias = weights(4), weights(4)
        self.norm, self.slope = weights(4), weights(1)
        self.up, self.pair = weights(4, 2, 2), weights(CLASSES, 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv1d(x, self.kernel, self.shift)
        x = F.group_norm(x, 2, self.scale, self.bias)
        x = F.layer_norm(x.transpose(1, 2), (4,), self.norm).transpose(1, 2)
        y = F.conv_transpose1d(F.prelu(x, self.slope), self.up, stride=2)
        return F.bilinear(y.square().mean(2), x.tanh().mean(2), self.pair)


class Selections(nn.Module):
    """torch.where, an index into a parameter by the samples, and a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.otherwise, self.floor = weights(6), weights(6), weights(6)
        self.table, self.head = weights(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        x = torch.where(x > 0, self.slope * x, self.otherwise)
        x = torch.maximum(x, self.floor) + self.table[which[:, 0]]
        return self.head(x + F.embedding(which, self.table).mean(1))


class PartsOfWeights(nn.Module):
    """Slices of one weight, and a mask over another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = weights(8, 6), weights(8)
        self.masked = weights(CLASSES, 8)
        self.register_buffer("mask", torch.rand(CLASSES, 8) > 0.3)

    def forward(self, x: Tensor) -> Tensor:
        first = F.linear(x, self.weight[:4], self.bias[:4])
        second = F.linear(x, self.weight[4:], self.bias[4:])
        return F.linear(torch.cat([first, second.tanh()], 1), self.masked * self.mask)


class LowRankAdapter(nn.Module):
    """W + BA with W frozen (2106.09685 §4.1), once as one weight and once as two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.layer.requires_grad_(False)
        self.a, self.b = weights(2, 6), weights(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(F.linear(x, self.layer.weight + self.b @ self.a, self.layer.bias))
        return self.head(self.layer(x) + (x @ self.a.T) @ self.b.T)


class TiedToEmbedding(nn.Module):
    """As in language models: the output layer is the embedding, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(5, 6), nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.body(self.embedding(tokens))).mean(1)
        return F.linear(x, self.embedding.weight)


class ConvolutionUsedTwice(nn.Module):
    """As a layer and as a function, in both directions and on two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv(x))
        y = torch.tanh(F.conv_transpose2d(y, self.conv.weight, stride=2))
        y = F.conv2d(y, self.conv.weight, self.conv.bias, padding=1, dilation=2)
        return self.head(y.square().mean((2, 3)))


class Hypernetwork(nn.Module):
    """A network makes the weights of another from a parameter: no sample passes it."""

    def __init__(self) -> None:
        super().__init__()
        self.code = weights(4)
        self.network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6 * 5 + 5))
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        made = self.network(self.code)
        return self.head(torch.tanh(F.linear(x, made[:30].view(5, 6), made[30:])))


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ParameterList([weights(6, 6) for _ in range(3)])
        self.ends = nn.ParameterDict({"shift": weights(6), "head": weights(6, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = torch.tanh(x @ step + self.ends["shift"])
        return x @ self.ends["head"]


class Constants(nn.Module):
    """Buffers and plain tensors meet the parameters before and after the samples do."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.curve = weights(6), weights(6)
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 6))
        self.grid = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale * self.factor
        curve = torch.sin(self.grid * self.curve).cumsum(0)
        return self.head(torch.tanh(x + curve) * (self.scale - self.curve))


class AsLongAsTheBatch(nn.Module):
    """Parameters whose first size is the number of samples, but which belong to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.mixing = weights(N, 3), weights(N, N)
        self.across, self.head = nn.Linear(N, N), nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.mixing @ (x + self.positions))
        x = x + self.across(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.square().mean(1))


def parametric_relus() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.PReLU(4),
        nn.Conv2d(4, 3, 2),
        nn.PReLU(),
        Apply(lambda x: x.flatten(2).mean(2)),
        nn.PReLU(3, init=0.1),
        nn.Linear(3, CLASSES),
    )


class BilinearLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Bilinear(6, 4, 5), nn.Bilinear(5, 5, CLASSES, bias=False)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = torch.tanh(self.body(left, right))
        return self.head(x, x).mean(1)


class EmbeddingByFrequency(nn.Module):
    """The gradient of a token is divided by how often the token occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5, padding_idx=3, scale_grad_by_freq=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).tanh().mean(1))


class EmbeddingBags(nn.Module):
    """Bags as rows, and all bags in one row with the places where each begins."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.EmbeddingBag(11, 5, mode="mean", padding_idx=0)
        self.flat = nn.EmbeddingBag(11, 5, mode="sum")
        self.shifts = weights(6)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        n, length = tokens.shape
        starts = torch.arange(0, n * length, length, device=tokens.device)
        amounts = self.shifts.softmax(0).repeat(n)
        return self.head(
            torch.tanh(self.rows(tokens) + self.flat(tokens.flatten(), starts, amounts))
        )


class Spectrum(nn.Module):
    """Real parameters on the parts of complex activations; no part of frequency 0 is imaginary."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary, self.head = weights(3, 4), weights(2, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.rfft(x, dim=1)
        imaginary = F.pad(z.imag[:, 1:] * self.imaginary, (0, 0, 1, 0))
        y = torch.fft.irfft(torch.complex(z.real * self.real, imaginary), n=x.shape[1], dim=1)
        return self.head(torch.tanh(y).mean(1))


class GraphConvolution(nn.Module):
    """One graph for all samples, [N, nodes, C]; its edges have learned weights, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = weights(6, 5), nn.Linear(5, CLASSES, bias=False)
        self.edges = weights(4, 4)
        self.register_buffer("adjacency", (torch.rand(4, 4) > 0.4).double() + torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.adjacency @ x @ self.first)
        return ((self.adjacency * self.edges) @ self.second(x)).mean(1)


VECTOR = normal(6)
SEQUENCE = normal(4, 6)

PROBLEMS = {
    "tied weights": problem(tied, VECTOR),
    "bare parameters in products": problem(Products, SEQUENCE),
    "samples last": problem(SamplesLast, VECTOR),
    "bare parameters in arithmetic": problem(Arithmetic, SEQUENCE),
    "bare parameters in place": problem(InPlace, VECTOR),
    "bare parameters repeated for each sample": problem(Repeated, VECTOR),
    "layers as functions": problem(LayersAsFunctions, normal(2, 7)),
    "bare parameters in selections": problem(Selections, (VECTOR, tokens(3, 5))),
    "parts of weights": problem(PartsOfWeights, VECTOR),
    "low-rank adapter": problem(LowRankAdapter, VECTOR),
    "output tied to the embedding": problem(TiedToEmbedding, tokens(4, 5)),
    "a convolution used as a function, too": problem(ConvolutionUsedTwice, normal(2, 5, 5)),
    "hypernetwork": problem(Hypernetwork, VECTOR),
    "parameter lists and dictionaries": problem(Containers, VECTOR),
    "constants beside parameters": problem(Constants, VECTOR),
    "parameters as long as the batch": problem(AsLongAsTheBatch, normal(N, 3)),
    "parametric ReLUs": problem(parametric_relus, normal(2, 5, 5)),
    "bilinear layers": problem(BilinearLayers, (SEQUENCE, normal(4, 4, seed=1))),
    "embedding by frequency": problem(EmbeddingByFrequency, tokens(4)),
    "embedding bags": problem(EmbeddingBags, tokens(6)),
    "Fourier layer": problem(Spectrum, normal(5, 4)),
    "graph convolution": problem(GraphConvolution, SEQUENCE),
}
