"""Models written by hand, each with one thing that could mix its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, Draw, images, rows, sequences

CLASSES = 3


class Applied(nn.Module):
    """A function between two layers."""

    def __init__(
        self, function: Callable[..., Tensor], before: nn.Module, after: nn.Module, **parts: Any
    ) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.after(self.function(self.before(x), *more))


def between(function: Callable[..., Tensor], width: int = 6, out: int | None = None) -> Any:
    """Linear layers before and after a function of [N, width], or of [N, T, width]."""
    return lambda: Applied(
        function, nn.Sequential(nn.Linear(6, width), nn.Tanh()), nn.Linear(out or width, CLASSES)
    )


def with_numbers(draw: Draw, high: int, *shape: int) -> Draw:
    """Integers beside the inputs."""
    return lambda n, which: (draw(n, which), torch.randint(high, (n, *shape)))


# Mixing: refused, or exact.


def _sorted_samples(x: Tensor) -> Tensor:
    return x.sort(0).values


def _sorted_by_norm(x: Tensor) -> Tensor:
    return x[x.norm(dim=1).argsort()]


def _sorted_and_back(x: Tensor) -> Tensor:
    order = x[:, 0].argsort()
    return x[order].cumsum(1)[order.argsort()]


def _rolled(x: Tensor, by: Tensor) -> Tensor:
    return x.roll(1, 0) + 0.0 * by.double()[:, None]


def _rolled_by_data(x: Tensor, by: Tensor) -> Tensor:
    return x.roll(int(by[0]), 0)


def _rolled_by_number(x: Tensor, by: Tensor) -> Tensor:
    n = x.shape[0]
    return x[(torch.arange(n) + by[0]) % n]


def _places(x: Tensor) -> Tensor:
    """[N, 1, 1], by a slice that leaves nothing out, as transformers builds its masks."""
    return torch.arange(len(x))[:].unsqueeze(1).unsqueeze(2)


def _masked_by_places(x: Tensor, mask: Tensor) -> Tensor:
    steps = torch.arange(x.shape[1])
    allowed = (steps[:, None] >= steps) & mask.bool()[_places(x), steps[None, None, :]]
    return torch.where(allowed, 0.1, 0.0).to(x) @ x


def _masked_by_segments(x: Tensor) -> Tensor:
    """Segments told from positions that are the same for every sample."""
    steps = torch.arange(x.shape[1])[None].expand(len(x), -1)
    jumps = torch.cat([steps[:, :1] - 1, steps], 1).diff(dim=1) != 1
    segment, places = jumps.cumsum(1), _places(x)
    rows, columns = torch.arange(x.shape[1])[None, :, None], torch.arange(x.shape[1])[None, None]
    alike = segment[places, rows] == segment[places, columns]
    return torch.where(alike, 0.1, 0.0).to(x) @ x


def _masked_by_own_place(x: Tensor) -> Tensor:
    """What a sample sees depends on its place in the batch."""
    steps = torch.arange(x.shape[1])
    table = steps[None] + torch.arange(len(x))[:, None]
    seen = table[_places(x), steps[None, None]] % 2 == 0
    return torch.where(seen, 0.1, 0.0).to(x) @ x


def _unpadded(x: Tensor, mask: Tensor) -> Tensor:
    kept = x[mask.bool()]
    return torch.zeros_like(x).masked_scatter(mask.bool()[..., None].expand_as(x), kept.tanh())


def _routed(x: Tensor, expert: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for e in range(2):
        chosen = torch.nonzero(expert == e).squeeze(1)
        out = out.index_add(0, chosen, x[chosen] * (e + 1.0))
    return out


def _halves(x: Tensor) -> Tensor:
    half = x.shape[0] // 2
    rest = x.shape[0] - half
    return torch.cat([x[:half] * 2.0, x[half:] * torch.ones(rest, 1, dtype=x.dtype)])


def _halves_exchanged(x: Tensor) -> Tensor:
    half = x.shape[0] // 2
    return torch.cat([x[half:], x[:half]])


def _divided_by_count(x: Tensor) -> Tensor:
    return x / x.shape[0]


def _count_as_feature(x: Tensor) -> Tensor:
    return x + torch.full((1, x.shape[1]), 1.0 / x.shape[0], dtype=x.dtype)


def _numbered(x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[0], dtype=x.dtype)[:, None]


def _more_for_many(x: Tensor) -> Tensor:
    return x * 2.0 if x.shape[0] > 4 else x


def _square_of_samples(x: Tensor) -> Tensor:
    return (x @ x.t()).softmax(1) @ x


def _square_by_transposing(x: Tensor) -> Tensor:
    """[N, T, C] with T = N: rows and samples look alike."""
    return x + x.transpose(0, 1)


def _first_sample(x: Tensor) -> Tensor:
    return x - x[:1]


def _mean_of_samples(x: Tensor) -> Tensor:
    return x - x.mean(0, keepdim=True)


def _largest_of_samples(x: Tensor) -> Tensor:
    return x / x.abs().amax()


def _class_sums(x: Tensor, label: Tensor) -> Tensor:
    """Each sample's class mean: classes lie in the first dimension, as many as samples."""
    onehot = F.one_hot(label, x.shape[1]).to(x)
    return onehot @ (onehot.t() @ x)


def _scattered_nodes(x: Tensor, to: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(0, to % x.shape[0], x)


def _gathered_nodes(x: Tensor, of: Tensor) -> Tensor:
    return x[of % x.shape[0]]


def _shuffled(x: Tensor) -> Tensor:
    return x[torch.randperm(x.shape[0])]


def _view_across(x: Tensor) -> Tensor:
    return x.reshape(x.shape[1], x.shape[0], -1).transpose(0, 1)


def _channels_as_samples(x: Tensor) -> Tensor:
    n, t, c = x.shape
    return x.transpose(0, 1).reshape(n, t, c)


def _folded_halves(x: Tensor) -> Tensor:
    return x.view(2, -1, x.shape[1]).flip(0).reshape(x.shape)


class RowPerSample(nn.Module):
    """A parameter with as many rows as the first batch has samples."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.bias = nn.Parameter(torch.randn(count, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x) + self.bias[: x.shape[0]])


class TableOfSamples(nn.Module):
    """Memory of the samples seen last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.register_buffer("seen", torch.zeros(9, 6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        out = self.head(hidden + self.seen.mean(0))
        self.seen[: min(9, len(x))] = hidden.detach()[:9]
        return out


# Looking like mixing: exact.


def _sorted_within(x: Tensor) -> Tensor:
    return x.sort(1).values


def _top_within(x: Tensor) -> Tensor:
    return x.topk(3, 1).values


def _top_tokens(x: Tensor) -> Tensor:
    keep = x.square().sum(2).topk(4, 1).indices
    return x.gather(1, keep[..., None].expand(-1, -1, x.shape[2])).mean(1)


def _gathered_within(x: Tensor, which: Tensor) -> Tensor:
    return x.gather(1, which)


def _picked_within(x: Tensor, which: Tensor) -> Tensor:
    return x[torch.arange(x.shape[0]), which]


def _scattered_within(x: Tensor, where: Tensor) -> Tensor:
    return torch.zeros_like(x).scatter_add(1, where, x)


def _rolled_within(x: Tensor) -> Tensor:
    return x.roll((1, -2), (1, 2))


def _flipped_within(x: Tensor) -> Tensor:
    return torch.cat([x, x.flip(1)], 2)


def _summed_along(x: Tensor) -> Tensor:
    return x.cumsum(1)


def _flat_tokens(x: Tensor) -> Tensor:
    n, t, c = x.shape
    return x.reshape(n * t, c).tanh().view(n, t, c).mean(1)


def _time_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).cumsum(0).mean(0)


def _time_first_flat(x: Tensor) -> Tensor:
    n, t, c = x.shape
    return x.transpose(0, 1).reshape(t * n, c).relu().view(t, n, c).mean(0)


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    kept = mask.to(x)[..., None]
    return (x * kept).sum(1) / kept.sum(1).clamp(min=1.0)


def _masked_fill(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(mask.bool()[..., None], 0.5).mean(1)


def _where_positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x.square())


def _own_attention(x: Tensor) -> Tensor:
    return (torch.softmax(x @ x.mT, -1) @ x).mean(1)


def _outer(x: Tensor) -> Tensor:
    return torch.einsum("ni,nj->nij", x, x).flatten(1)


def _repeated(x: Tensor) -> Tensor:
    return x.repeat(1, 2) + torch.cat([x, x.repeat_interleave(2, 1)[:, ::2]], 1)


def _unfolded(x: Tensor) -> Tensor:
    return x.unfold(1, 3, 1).amax(2)


def _in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0].mul_(2.0)
    x[:, 1:3] += 1.0
    return x.relu_()


def _own_norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 0.1).sqrt()


def _rotated(x: Tensor) -> Tensor:
    t = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1, 0.01])
    angle = torch.polar(torch.ones_like(t), t)
    turned = torch.view_as_complex(x.unflatten(2, (-1, 2)).contiguous()) * angle
    return torch.view_as_real(turned).flatten(2).mean(1)


def _spectrum(x: Tensor) -> Tensor:
    return torch.fft.rfft(x, dim=1).abs().mean(1)


def _bilinear_pool(x: Tensor) -> Tensor:
    return (x.mT @ x / x.shape[1]).flatten(1)


def _distances(x: Tensor) -> Tensor:
    return (x[:, :, None] - x[:, None]).square().sum(-1).mean(2)


def _interpolated(x: Tensor) -> Tensor:
    return F.interpolate(x.mT, size=6, mode="linear").mean(1)


def _repeated_samples(x: Tensor) -> Tensor:
    """Two views of each sample, side by side, brought together again."""
    return x.repeat_interleave(2, 0).unflatten(0, (-1, 2)).mean(1)


def _siamese(x: Tensor) -> Tensor:
    both = torch.cat([x, x.flip(1)]).tanh()
    left, right = both.chunk(2)
    return (left - right).abs()


class Flattened(nn.Module):
    """BatchNorm on [N·T, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        frames = self.norm(self.convolution(x.flatten(0, 1))).relu()
        return self.head(frames.mean((2, 3)).view(n, -1, 4).mean(1))


class SiameseNorm(nn.Module):
    """Two views through one BatchNorm at once: statistics of both."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        one, other = self.body(torch.cat([left, right])).chunk(2)
        return self.head((one - other).abs())


def _points() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 9, 1), nn.BatchNorm1d(9)
    )


class PointNet(nn.Module):
    """Points turned by what a first network makes of them, which may be the second one, too."""

    def __init__(self, *, twice: bool = False) -> None:
        super().__init__()
        self.points = _points()
        self.again = self.points if twice else _points()
        self.turn = nn.Linear(9, 9)
        self.head = nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        turn = self.turn(self.points(x.mT).amax(2)).view(-1, 3, 3) + torch.eye(3, dtype=x.dtype)
        return self.head(self.again((x @ turn).mT).amax(2))


class Nodes(nn.Module):
    """Graphs of equally many nodes: messages by adjacency, BatchNorm over all nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        adjacency = (x @ x.mT).sigmoid()
        hidden = adjacency @ self.first(x)
        hidden = self.norm(hidden.flatten(0, 1)).view_as(hidden).relu()
        return self.second((adjacency @ hidden).mean(1))


class TokenNorm(nn.Module):
    """LeViT's linear layer with a BatchNorm over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.head(self.norm(x.flatten(0, 1)).reshape_as(x).mean(1))


class InPlaceAfterLinear(nn.Module):
    """Linear on three dimensions, then calls in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x += 1.0
        x[:, 0] *= 0.5
        x = F.relu(x, inplace=True)
        return self.second(x).mean(1)


class Bags(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 6, mode=mode)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bag(x).tanh())


class ReplacedBuffer(nn.Module):
    """ConViT's: the first forward pass puts a new buffer in the old one's place."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.place = nn.Linear(6, 6), nn.Linear(2, 1)
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("places", torch.zeros(1, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        if self.places.shape[1] != t:
            apart = torch.arange(t, dtype=x.dtype)
            apart = apart[:, None] - apart
            self.places = torch.stack([apart, apart.square()], -1)[None]
        weights = self.place(self.places.expand(x.shape[0], -1, -1, -1)).squeeze(3).softmax(2)
        return self.head((weights @ self.value(x)).mean(1))


class MaskAssigned(nn.Module):
    """Wav2Vec2's: x[mask] = embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.masked = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden[mask.bool()] = self.masked
        return self.head(hidden.tanh().mean(1))


class ClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.places = nn.Parameter(torch.randn(1, 12, 6))
        self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.block(x + self.places[:, : x.shape[1]])[:, 0])


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.0)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x.transpose(0, 1)).mean(0))


class HyperNetwork(nn.Module):
    """Each sample makes its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.head = nn.Linear(6, 36), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.bmm(self.weights(x).view(-1, 6, 6), x[..., None]).squeeze(2))


class DerivedWeight(nn.Module):
    """A weight computed from parameters, and one used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.u @ self.v).tanh()
        return self.head(F.linear(F.linear(x, weight).tanh(), weight.t()))


class Selective(nn.Module):
    """A selective scan as Mamba's, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.delta = nn.Linear(6, 6)
        self.log_a = nn.Parameter(torch.randn(6, 4))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        u, b, c = self.inner(x), self.b(x), self.c(x)
        delta = F.softplus(self.delta(x))
        decay = torch.exp(delta[..., None] * -self.log_a.exp())
        state = x.new_zeros(x.shape[0], 6, 4)
        outputs = []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + (delta * u)[:, t, :, None] * b[:, t, None]
            outputs.append((state * c[:, t, None]).sum(2))
        return self.head(torch.stack(outputs, 1).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.cell = kind(6, 5, batch_first=True, **options)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][..., :5].mean(1))


class Capsules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, CLASSES, 3, 6) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        votes = torch.einsum("jcdi,nji->njcd", self.weight, x[:, :4])
        routing = torch.zeros_like(votes[..., :1])
        for _ in range(2):
            out = (routing.softmax(2) * votes).sum(1, keepdim=True)
            out = out * out.norm(dim=3, keepdim=True)
            routing = routing + (votes * out).sum(3, keepdim=True)
        return out.squeeze(1).norm(dim=2)


class DynamicConvolution(nn.Module):
    """Weights mixed for each sample, run as groups of one large convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4 * 2 * 9) * 0.3)
        self.route, self.head = nn.Linear(2, 3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = self.route(x.mean((2, 3))).softmax(1) @ self.weight
        y = F.conv2d(x.reshape(1, n * c, h, w), weight.view(n * 4, 2, 3, 3), groups=n)
        return self.head(y.view(n, 4, h - 2, w - 2).mean((2, 3)))


class Quantized(nn.Module):
    """Nearest entries of a code book, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.codes = nn.Linear(6, 4), nn.Embedding(7, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        flat = z.reshape(-1, 4)
        nearest = torch.cdist(flat, self.codes.weight).argmin(1)
        q = self.codes(nearest).view_as(z)
        return self.head((z + (q - z).detach() + q).mean(1))


def _sequence_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.RMSNorm(8), nn.Linear(8, CLASSES)
    )


def _network_of_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.GroupNorm(2, 8),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.InstanceNorm2d(4, affine=True),
        nn.PixelUnshuffle(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


FLAT, LONG = rows(6), sequences(6)
BITS = with_numbers(LONG, 2)


def _masks(n: int, which: int) -> Any:
    x = LONG(n, which)
    return x, torch.randint(2, x.shape[:2])


def _masks_of_one_total(n: int, which: int) -> Any:
    """Lengths that differ but add up to the same."""
    x = LONG(n, which)
    lengths = torch.full((n,), x.shape[1] // 2)
    shift = torch.randint(1, 3, (n // 2,))
    lengths[: n // 2] += shift
    lengths[n // 2 : 2 * (n // 2)] -= shift
    return x, (torch.arange(x.shape[1]) < lengths[torch.randperm(n), None]).long()


def _tokens(n: int, which: int) -> Tensor:
    return torch.randint(11, (n, 9 - 2 * (which == 1)))


def _flagged(high: int, *shape: int) -> Draw:
    return with_numbers(FLAT, high, *shape)


SQUARE: Draw = lambda n, which: torch.randn(n, n, 6, dtype=torch.float64)  # noqa: E731
NINE: Draw = lambda n, which: torch.randn(n, 9, 9, dtype=torch.float64)  # noqa: E731


MIXING: dict[str, tuple[Callable[[], nn.Module], Draw, str]] = {
    "sorted samples": (between(_sorted_samples), FLAT, "sort"),
    "sorted by norm": (between(_sorted_by_norm), FLAT, "sort"),
    "masked by its place in the batch": (between(_masked_by_own_place), LONG, "one entry a sample"),
    "sorted and back": (between(_sorted_and_back), FLAT, "sort"),
    "rolled": (between(_rolled), _flagged(3), "roll"),
    "rolled by data": (between(_rolled_by_data), _flagged(3), "picks"),
    "rolled by a number on the device": (between(_rolled_by_number), _flagged(3), "picks"),
    "unpadded": (between(_unpadded), _masks, "picks by a mask"),
    "unpadded, lengths of one total": (
        between(_unpadded),
        _masks_of_one_total,
        "picks by a mask",
    ),
    "routed": (between(_routed), _flagged(2), "nonzero"),
    "halves": (between(_halves), FLAT, "picks some of the samples"),
    "halves exchanged": (between(_halves_exchanged), FLAT, "picks some of the samples"),
    "divided by their number": (between(_divided_by_count), FLAT, "computes with the number"),
    "their number as a feature": (between(_count_as_feature), FLAT, "computes with the number"),
    "numbered": (between(_numbered), FLAT, "one entry a sample"),
    "another way for many": (between(_more_for_many), FLAT, "something else for 2 samples"),
    "attention to samples": (between(_square_of_samples), FLAT, "mm"),
    "transposed square": (between(_square_by_transposing), SQUARE, "constant of the number"),
    "less the first": (between(_first_sample), FLAT, "picks"),
    "less the mean": (between(_mean_of_samples), FLAT, "mean"),
    "by the largest": (between(_largest_of_samples), FLAT, "amax"),
    "sums of classes": (between(_class_sums), _flagged(6), "mixes samples"),
    "messages between samples": (between(_scattered_nodes), _flagged(6), "number of samples"),
    "samples of other places": (between(_gathered_nodes), _flagged(6), "number of samples"),
    "shuffled": (between(_shuffled), FLAT, "picks samples"),
    "viewed across": (between(_view_across), SQUARE, "constant of the number"),
    "channels as samples": (between(_channels_as_samples), SQUARE, "constant of the number"),
    "halves folded": (
        between(_folded_halves),
        lambda n, w: FLAT(2 * (n // 2), w),
        "cuts through samples",
    ),
    "a row of a parameter for each": (lambda: RowPerSample(9), FLAT, "one entry a sample"),
    "one norm twice": (
        lambda: PointNet(twice=True),
        lambda n, w: torch.randn(n, 7 + (w == 1), 3).double(),
        "running_mean",
    ),
    "mask assignment": (MaskAssigned, _masks, "picks by a mask"),
    "bags, sum": (lambda: Bags("sum"), _tokens, "_embedding_bag"),
    "bags, mean": (lambda: Bags("mean"), _tokens, "_embedding_bag"),
    "bags, max": (lambda: Bags("max"), _tokens, "_embedding_bag"),
    "memory of samples": (TableOfSamples, FLAT, "one entry a sample"),
}
"""Models that mix samples, how they are fed, and what the refusal says."""

QUICK = {
    "masked by segments",
    "top-k tokens",
    "picked within",
    "scattered within",
    "time first and flat, as many as samples",
    "attention, as many as samples",
    "in place",
    "repeated samples",
    "norm of flattened frames",
    "siamese norm",
    "pointnet",
    "norm of tokens",
    "linear, then in place",
    "replaced buffer",
    "hypernetwork",
}

CASES: dict[str, Case] = {
    **{
        name: Case(build, draw, refused, quick=True)
        for name, (build, draw, refused) in MIXING.items()
    },
    **{
        name: Case(build, draw, quick=name in QUICK)
        for name, (build, draw) in {
            "sorted within": (between(_sorted_within), FLAT),
            "masked by places": (between(_masked_by_places), _masks),
            "masked by segments": (between(_masked_by_segments), LONG),
            "top-k within": (between(_top_within, out=3), FLAT),
            "top-k tokens": (between(_top_tokens), LONG),
            "gathered within": (between(_gathered_within, out=4), _flagged(6, 4)),
            "picked within": (between(_picked_within), with_numbers(LONG, 7)),
            "scattered within": (between(_scattered_within), _flagged(6, 6)),
            "rolled within": (between(_rolled_within), LONG),
            "flipped within": (between(_flipped_within, out=12), LONG),
            "cumulated along positions": (between(_summed_along), LONG),
            "flat tokens": (between(_flat_tokens), LONG),
            "flat tokens, as many as samples": (between(_flat_tokens), SQUARE),
            "time first": (between(_time_first), LONG),
            "time first, as many as samples": (between(_time_first), SQUARE),
            "time first and flat": (between(_time_first_flat), LONG),
            "time first and flat, as many as samples": (between(_time_first_flat), SQUARE),
            "masked mean": (between(_masked_mean), _masks),
            "masked fill": (between(_masked_fill), _masks),
            "where": (between(_where_positive), FLAT),
            "attention": (between(_own_attention), LONG),
            "attention, as many as samples": (between(_own_attention), SQUARE),
            "outer products": (between(_outer, out=36), FLAT),
            "repeated": (between(_repeated, out=12), FLAT),
            "unfolded": (between(_unfolded, out=4), FLAT),
            "in place": (between(_in_place), FLAT),
            "own norm": (between(_own_norm), LONG),
            "rotary": (between(_rotated), LONG),
            "spectrum": (between(_spectrum), LONG),
            "bilinear pooling": (between(_bilinear_pool, out=36), LONG),
            "distances": (
                lambda: Applied(_distances, nn.Linear(6, 6), nn.Linear(9, CLASSES)),
                lambda n, w: LONG(n, 0),
            ),
            "interpolated": (between(_interpolated), LONG),
            "repeated samples": (between(_repeated_samples), FLAT),
            "siamese": (between(_siamese), FLAT),
            "norm of flattened frames": (
                Flattened,
                lambda n, w: torch.randn(n, 3 + (w == 1), 2, 5, 5, dtype=torch.float64),
            ),
            "siamese norm": (SiameseNorm, lambda n, w: (FLAT(n, w), FLAT(n, w))),
            "pointnet": (PointNet, lambda n, w: torch.randn(n, 7 + (w == 1), 3).double()),
            "graph nodes": (Nodes, LONG),
            "norm of tokens": (TokenNorm, LONG),
            "linear, then in place": (InPlaceAfterLinear, LONG),
            "replaced buffer": (ReplacedBuffer, LONG),
            "class token": (ClassToken, LONG),
            "transformer, time first": (TimeFirst, LONG),
            "transformer, time first, as many as samples": (TimeFirst, SQUARE),
            "hypernetwork": (HyperNetwork, FLAT),
            "derived weight": (DerivedWeight, FLAT),
            "selective scan": (Selective, LONG),
            "capsules": (Capsules, LONG),
            "dynamic convolution": (DynamicConvolution, images(6, 2)),
            "quantized": (Quantized, LONG),
            "norms of sequences": (_sequence_norm, LONG),
            "convolutions": (_network_of_convolutions, images(10)),
            "gru": (lambda: Recurrent(nn.GRU), LONG),
            "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2), LONG),
            "rnn": (lambda: Recurrent(nn.RNN), LONG),
            "linear of nine": (lambda: nn.Sequential(nn.Linear(9, 9), nn.Tanh()), NINE),
        }.items()
    },
}
