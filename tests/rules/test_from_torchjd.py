"""TorchJD's weightings as rules, against TorchJD's own aggregators of the same matrix."""

import copy
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation as tjd
from torchjd.linalg import Matrix, PSDMatrix

import domaingrad as dg
from domaingrad.rules import Mean, PCGrad, from_torchjd
from domaingrad.rules.authoring import GramianRule
from tests.reference.matrices import KINDS, matrix

from .variants import seeded

# Nash-MTL hands cvxpy a problem that cannot be compiled ahead; cvxpy says so at every first solve.
pytestmark = pytest.mark.filterwarnings(
    "ignore:You are solving a parameterized problem that is not DPP:UserWarning"
)

Make = Callable[[int], tjd.Aggregator]


def smoothed(weighting: tjd.Weighting[Any]) -> tjd.Weighting[Any]:
    return tjd.CRMOGMWeighting(weighting, alpha=0.7)


# Made for K domains.
BY_GRAMIAN: dict[str, Make] = {
    "aligned-mtl": lambda _: tjd.AlignedMTL(),
    "aligned-mtl-median": lambda _: tjd.AlignedMTL(scale_mode="median"),
    "aligned-mtl-rmse": lambda _: tjd.AlignedMTL(scale_mode="rmse"),
    "cagrad": lambda _: tjd.CAGrad(c=0.5),
    "dualproj": lambda _: tjd.DualProj(),
    "fairgrad": lambda _: tjd.FairGrad(alpha=1.0),
    "gradvac": lambda _: tjd.GradVac(),
    "imtl-g": lambda _: tjd.IMTLG(),
    "krum": lambda _: tjd.Krum(n_byzantine=0, n_selected=2),
    "mgda": lambda _: tjd.MGDA(),
    "pcd": lambda _: tjd.PCD(),
    "pcgrad": lambda _: tjd.PCGrad(),
    "upgrad": lambda _: tjd.UPGrad(),
    "upgrad-preference": lambda K: tjd.UPGrad(torch.arange(1.0, K + 1)),
    "cr-mogm": lambda _: tjd.GramianWeightedAggregator(smoothed(tjd.UPGradWeighting())),
}
BY_COUNT: dict[str, Make] = {
    "mean": lambda _: tjd.Mean(),
    "sum": lambda _: tjd.Sum(),
    "random": lambda _: tjd.Random(),
    "cr-mogm-random": lambda _: tjd.WeightedAggregator(smoothed(tjd.RandomWeighting())),
}
# Those to which TorchJD gives a preference in the gradients' dtype.
IN_FLOAT64: dict[str, Make] = {
    "constant": lambda K: tjd.Constant(torch.arange(1.0, K + 1, dtype=torch.float64)),
    "aligned-mtl-preference": lambda K: tjd.AlignedMTL(torch.arange(K, dtype=torch.float64)),
    "config-preference": lambda K: tjd.ConFIG(torch.arange(1.0, K + 1, dtype=torch.float64)),
}
BUT_NASH: dict[str, Make] = {
    **BY_GRAMIAN,
    **BY_COUNT,
    **IN_FLOAT64,
    "config": lambda _: tjd.ConFIG(),
}
NASH: dict[str, Make] = {
    "nash-mtl": lambda K: tjd.NashMTL(n_tasks=K),
    "nash-mtl-unbounded": lambda K: tjd.NashMTL(n_tasks=K, max_norm=0.0),
    "nash-mtl-every-second": lambda K: tjd.NashMTL(n_tasks=K, update_weights_every=2),
    "cr-mogm-nash-mtl": lambda K: tjd.WeightedAggregator(smoothed(tjd.NashMTL(K).weighting)),
}
ALL = BUT_NASH | NASH

REFUSED: dict[str, Callable[[], object]] = {
    "ExcessMTL": tjd.ExcessMTL,
    "ExcessMTLWeighting": tjd.ExcessMTLWeighting,
    "MoDoWeighting": tjd.MoDoWeighting,
    "SDMGradWeighting": tjd.SDMGradWeighting,
}

STEPS = 3


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def sequence(rule: GramianRule, stacks: list[Tensor]) -> list[Tensor]:
    return [rule(stack) for stack in stacks]


def by_torchjd(aggregator: tjd.Aggregator, stacks: list[Tensor], seed: int) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [aggregator(stack) for stack in stacks]


def assert_as_torchjd(make: Make, stacks: list[Tensor], tolerance: float) -> None:
    """Several steps, so that states and random numbers are compared too."""
    K, seed = len(stacks[0]), 7
    updates = sequence(from_torchjd(make(K), seeded(seed)), stacks)
    for update, expected in zip(updates, by_torchjd(make(K), stacks, seed), strict=True):
        atol = tolerance * expected.abs().max().item()
        torch.testing.assert_close(update, expected, rtol=0, atol=atol)


def drawn(kind: str, K: int, P: int, scale: float = 1.0, steps: int = STEPS) -> list[Tensor]:
    return [torch.tensor(matrix(kind, K, P, seed)) * scale for seed in range(steps)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BUT_NASH)
def test_update_is_that_of_torchjd(name: str, kind: str) -> None:
    for K, P in [(3, 12), (6, 40), (5, 3)]:
        for scale in (1e-8, 1e4):
            stacks = drawn(kind, K, P, scale)
            # The Gramians are equal to the bit; where a gradient is zero, rows are scaled first,
            # and ConFIG gets a factor: K sums of P products, each off by u, and the condition of
            # the Gramian.
            assert_as_torchjd(BUT_NASH[name], stacks, 1e-12)
            if name not in IN_FLOAT64:
                assert_as_torchjd(BUT_NASH[name], [stack.float() for stack in stacks], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["generic", "shares", "agreeing"])
@pytest.mark.parametrize("name", NASH)
def test_update_is_that_of_nash_mtl(name: str, kind: str, dtype: torch.dtype) -> None:
    # The solver stops at a residual of 1e-3, after one iteration more or less if the Gramian
    # differs in its last bit: TorchJD's own updates of rotated gradients differ by up to 3e-3.
    # Beyond these matrices (more domains than parameters) they differ altogether.
    for K, P in [(2, 12), (4, 40)]:
        for scale in (1e-2, 1e2):
            stacks = [stack.to(dtype) for stack in drawn(kind, K, P, scale)]
            assert_as_torchjd(NASH[name], stacks, 5e-3)


def test_nash_mtl_bargains() -> None:
    """Its weights solve G Gᵀ w = 1 / w (Navon et al., arXiv 2202.01017)."""
    G = drawn("generic", 3, 12)[0]
    weights = from_torchjd(tjd.NashMTL(3, max_norm=0.0)).weights(G @ G.T)
    gains = weights * (G @ G.T @ weights)
    # TorchJD's are a multiple of those, and the solver stops at 1e-3.
    torch.testing.assert_close(gains / gains.mean(), torch.ones_like(gains), rtol=0, atol=5e-3)


def test_rows_of_very_different_size_keep_their_directions_in_a_factor() -> None:
    # In one eigendecomposition of the Gramian, the second row is below the rounding of the first.
    G = torch.tensor([[1.0, 0.0, 0.0], [-1e-12, 1e-12, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(from_torchjd(tjd.ConFIG())(G), tjd.ConFIG()(G), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("weighting", "aggregator"),
    [
        (tjd.UPGradWeighting(), tjd.UPGrad()),
        (tjd.MeanWeighting(), tjd.Mean()),
        (tjd.NashMTL(3).weighting, tjd.NashMTL(3)),
        (tjd.CRMOGMWeighting(tjd.MGDAWeighting()), tjd.MGDA()),
        (tjd.CRMOGMWeighting(smoothed(tjd.SumWeighting())), tjd.Sum()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_weighting_does_as_its_aggregator(
    weighting: tjd.Weighting[Any], aggregator: tjd.Aggregator
) -> None:
    G = drawn("generic", 3, 12)[0]
    torch.testing.assert_close(from_torchjd(weighting)(G), from_torchjd(aggregator)(G))


class Shortest(tjd.Weighting[PSDMatrix]):
    """The smallest gradient; a weighting of one's own."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return nn.functional.one_hot(gramian.diagonal().argmin(), len(gramian))


class Longest(Shortest):
    def forward(self, gramian: Tensor, /) -> Tensor:
        return super().forward(-gramian)


class Unclear(tjd.Weighting[Matrix]):
    def forward(self, matrix: Tensor, /) -> Tensor:
        return matrix[:, 0]


def test_a_weighting_of_your_own() -> None:
    G = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert from_torchjd(Shortest())(G).tolist() == [1.0, 0.0]
    assert from_torchjd(Longest())(G).tolist() == [3.0, 4.0]


def test_every_method_of_torchjd_is_taken_or_refused() -> None:
    methods = {
        name
        for name, member in vars(tjd).items()
        if isinstance(member, type) and issubclass(member, tjd.Aggregator | tjd.Weighting)
    }
    bases = {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Weighting"}
    bases |= {"GradDrop", "TrimmedMean"}  # of single components: test_robust.py
    tested = {type(module).__name__ for make in ALL.values() for module in make(3).modules()}
    assert methods - bases - tested == set(REFUSED)


# Inside the engine.


def build(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)


def losses_of(model: nn.Module, K: int, step: int) -> Iterator[Tensor]:
    """The loss of each of K domains in a step."""
    draw = seeded(step)
    for _ in range(K):
        x, y = (torch.randn(6, n, generator=draw, dtype=torch.float64) for n in (3, 1))
        yield (model(x.to(next(model.parameters()))) - y).square().mean()


def update_by_engine(agree: dg.GradientAgreement, losses: Iterator[Tensor]) -> Tensor:
    agree.model.zero_grad()
    for e, loss in enumerate(losses):
        with agree.domain(e):
            loss.backward()
    agree.combine()
    return torch.cat([parameter.grad.flatten() for parameter in agree.model.parameters()])


def stacked_gradients(model: nn.Module, losses: Iterator[Tensor]) -> Tensor:
    """[K, P] by one plain pass a domain."""
    return torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
            for loss in losses
        ]
    )


@pytest.mark.parametrize("name", ALL)
def test_update_in_the_engine_is_that_of_torchjd(name: str) -> None:
    K, model = 4, build()
    stacks = [stacked_gradients(model, losses_of(model, K, step)) for step in range(STEPS)]
    agree = dg.GradientAgreement(model, from_torchjd(ALL[name](K), seeded(5)))
    for step, expected in enumerate(by_torchjd(ALL[name](K), stacks, seed=5)):
        update = update_by_engine(agree, losses_of(model, K, step))
        # The products are summed parameter by parameter, so the Gramian differs in its last bits:
        # CAGrad and FairGrad stop at 1e-8, Nash-MTL at 1e-3.
        tolerance = 5e-3 if name in NASH else 1e-6
        atol = tolerance * expected.abs().max().item()
        torch.testing.assert_close(update, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["aligned-mtl", "imtl-g", "config"])
def test_domains_that_depend_on_each_other_in_float32(name: str, seed: int) -> None:
    """An eigenvalue of 1e-8 is 0 in float32; in float64 AlignedMTL would shrink to its size."""
    G = torch.randn(3, 5000, generator=seeded(seed), dtype=torch.float64)
    G[2] = G[0] + G[1]
    parts = nn.ParameterList(torch.zeros(1000) for _ in range(5))
    agree = dg.GradientAgreement(parts, from_torchjd(ALL[name](3)))
    update = update_by_engine(
        agree,
        (
            sum((p * g).sum() for p, g in zip(parts, row.float().split(1000), strict=True))
            for row in G
        ),
    )
    expected = ALL[name](3)(G)
    # Float32 rounds products of 1000 components by 1e-6 of their size.
    atol = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(update.double(), expected, rtol=0, atol=atol)


def test_a_tiny_gradient_in_float32() -> None:
    """Its square is 0 in float32, where TorchJD's PCGrad divides by it."""
    G = torch.tensor([[1.0, 0.0], [-1e-23, 1e-23]])
    expected = [0.5, 0.5]
    assert from_torchjd(tjd.PCGrad())(G).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_zero_gradients_give_a_zero_update(name: str) -> None:
    assert from_torchjd(ALL[name](3))(torch.zeros(3, 4, dtype=torch.float64)).tolist() == [0.0] * 4


def test_weights_with_a_graph_give_an_update_without() -> None:
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    update = from_torchjd(tjd.Constant(weights))(torch.eye(2, dtype=torch.float64))
    assert not update.requires_grad


# Random numbers and states.


@pytest.mark.parametrize("name", ["random", "pcgrad", "gradvac", "cr-mogm-random"])
def test_random_numbers_come_from_the_generator(name: str) -> None:
    stacks = drawn("opposed", 5, 12)
    updates = {}
    for seed in (3, 4):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        updates[seed] = torch.stack(sequence(from_torchjd(ALL[name](5), seeded(3)), stacks))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(updates[3], updates[4])
    other = torch.stack(sequence(from_torchjd(ALL[name](5), seeded(4)), stacks))
    assert not torch.equal(other, updates[3])


def test_without_generator_the_numbers_are_those_of_seed_0() -> None:
    stacks = drawn("opposed", 5, 12)
    rules = (from_torchjd(tjd.PCGrad()), from_torchjd(tjd.PCGrad(), seeded(0)))
    assert torch.equal(*(torch.stack(sequence(rule, stacks)) for rule in rules))


def test_the_global_random_state_is_left_alone_by_a_failure() -> None:
    class Failing(Shortest):
        def forward(self, gramian: Tensor, /) -> Tensor:
            torch.rand(1)
            raise RuntimeError("no solution")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no solution"):
        from_torchjd(Failing())(torch.eye(2))
    assert torch.equal(torch.get_rng_state(), before)


# All but those that know nothing of earlier steps and draw nothing.
REMEMBERING = ("gradvac", "pcd", "pcgrad", "cr-mogm", "random", "cr-mogm-random", *NASH)


@pytest.mark.parametrize("steps", [0, 3, 4])
@pytest.mark.parametrize("name", REMEMBERING)
def test_a_checkpoint_goes_on_with_the_same_numbers(name: str, steps: int) -> None:
    before, after = drawn("opposed", 4, 12, steps=steps), drawn("generic", 4, 12)
    rule = from_torchjd(ALL[name](4), seeded(3))
    sequence(rule, before)
    state = through_a_file(rule.state_dict())
    expected = sequence(rule, after)

    resumed = from_torchjd(ALL[name](4), seeded(99))
    sequence(resumed, after)
    for _ in range(2):
        # Twice: what was loaded must not move with the rule.
        resumed.load_state_dict(state)
        assert all(map(torch.equal, sequence(resumed, after), expected))


@pytest.mark.parametrize("name", REMEMBERING)
def test_the_state_matters(name: str) -> None:
    """Else the tests of checkpoints would hold without."""
    rule, stacks = from_torchjd(ALL[name](4), seeded(3)), drawn("generic", 4, 12)
    assert not all(map(torch.equal, sequence(rule, stacks), sequence(rule, stacks)))


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_checkpoint_of_the_engine(name: str) -> None:
    model = build()

    def steps(agree: dg.GradientAgreement, *numbers: int) -> list[Tensor]:
        return [update_by_engine(agree, losses_of(model, 3, number)) for number in numbers]

    agree = dg.GradientAgreement(model, from_torchjd(ALL[name](3)))
    steps(agree, 0, 1, 2)
    state = through_a_file(agree.state_dict())
    expected = steps(agree, 3, 4)
    resumed = dg.GradientAgreement(model, from_torchjd(ALL[name](3)))
    resumed.load_state_dict(state)
    assert all(map(torch.equal, steps(resumed, 3, 4), expected))


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))], ids=("copy", "pickle")
)
@pytest.mark.parametrize("name", ALL)
def test_copies_go_on_with_the_same_numbers(name: str, clone: Callable[[Any], Any]) -> None:
    stacks = drawn("opposed", 4, 12)
    rule = from_torchjd(ALL[name](4))
    sequence(rule, stacks)
    assert all(map(torch.equal, sequence(clone(rule), stacks), sequence(rule, stacks)))


def test_settings_and_state_are_those_of_the_weighting_given() -> None:
    weighting = tjd.CRMOGMWeighting(Shortest(), alpha=0.0)
    rule = from_torchjd(weighting)
    first, second = torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([2.0, 1.0]))
    assert rule(first).tolist() == [1.0, 0.0]
    weighting.alpha = 1.0
    assert rule(second).tolist() == [2.0, 0.0]
    weighting.reset()
    assert rule(second).tolist() == [0.0, 1.0]


def test_the_state_of_another_weighting_is_refused() -> None:
    state = from_torchjd(tjd.GradVac()).state_dict()
    with pytest.raises(ValueError, match=r"PCD.*expects.*_sq_norm_ema.*found.*_phi_t"):
        from_torchjd(tjd.PCD()).load_state_dict(state)
    with pytest.raises(ValueError, match=r"GradVac.*expects.*_phi_t.*found \[\]"):
        from_torchjd(tjd.GradVac()).load_state_dict(PCGrad().state_dict())


# Gradients that are no numbers.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ALL)
def test_a_non_finite_gradient_stays_visible_and_leaves_no_trace(name: str, value: float) -> None:
    stacks = drawn("generic", 3, 12)
    bad = stacks[0].clone()
    bad[1, 2] = value
    rule, untroubled = (from_torchjd(ALL[name](3), seeded(1)) for _ in range(2))
    updates = sequence(rule, [stacks[0], bad, *stacks[1:]])
    assert updates.pop(1).isnan().all()
    assert all(map(torch.equal, updates, sequence(untroubled, stacks)))


@pytest.mark.parametrize("name", ALL)
def test_a_non_finite_gradient_in_the_engine(name: str) -> None:
    model = build()
    agree = dg.GradientAgreement(model, from_torchjd(ALL[name](3)))
    first, *others = losses_of(model, 3, step=0)
    with pytest.warns(dg.NonFiniteGradientWarning, match="domain 0"):
        update = update_by_engine(agree, iter([first * float("nan"), *others]))
    assert update.isnan().all()


# What is refused.


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_needs_more_than_the_gramian(name: str) -> None:
    found = "ExcessMTLWeighting" if name == "ExcessMTL" else name
    with pytest.raises(TypeError, match=rf"follow from the Gramian.*found {found}\."):
        from_torchjd(REFUSED[name]())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (tjd.UPGrad, "the class UPGrad"),
        (tjd.UPGradWeighting() << (lambda G: G @ G.T), "_Composition"),
        (smoothed(tjd.MoDoWeighting()), "MoDoWeighting"),
        (Unclear(), "Unclear"),
        (Mean(), "Mean"),
        (torch.mean, "builtin_function_or_method"),
        (None, "NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_what_does_not_say_that_it_takes_a_gramian(given: Any, found: str) -> None:
    with pytest.raises(TypeError, match=rf"such as UPGradWeighting.*found {found}\."):
        from_torchjd(given)


def test_without_torchjd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match="pip install torchjd"):
        from_torchjd(tjd.UPGrad())


def test_refuses_a_generator_that_is_not_on_the_cpu() -> None:
    class ElsewhereGenerator:
        device = torch.device("cuda:0")

    with pytest.raises(ValueError, match=r"on the CPU.*found one on 'cuda:0'"):
        from_torchjd(tjd.UPGrad(), ElsewhereGenerator())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in ALL if name not in BY_COUNT | IN_FLOAT64])
def test_refuses_one_domain_where_domains_are_compared(name: str) -> None:
    with pytest.raises(ValueError, match="at least 2 of them in a step; found 1"):
        from_torchjd(ALL[name](1))(torch.ones(1, 3))


@pytest.mark.parametrize("name", [*BY_COUNT, "constant"])
def test_takes_one_domain_where_only_their_number_counts(name: str) -> None:
    stack = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert from_torchjd(ALL[name](1))(stack).tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("aggregator", "message"),
    [
        (tjd.NashMTL(3), "Invalid dimensions"),
        (tjd.Constant(torch.ones(3)), "should have 3 rows"),
        (tjd.Krum(1), "at least 4 rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_of_torchjd_names_the_rule(aggregator: tjd.Aggregator, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        from_torchjd(aggregator)(torch.eye(2))
    assert raised.value.__notes__ == [
        f"Raised by from_torchjd({aggregator!r}) on the gradients of 2 domains."
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (tjd.MGDAWeighting(), "from_torchjd(MGDAWeighting(epsilon=0.001, max_iters=100))"),
        (tjd.CAGrad(c=0.5), "from_torchjd(CAGrad(c=0.5, norm_eps=0.0001))"),
        (tjd.Constant(torch.ones(2)), "from_torchjd(Constant(weights=tensor([1., 1.])))"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_representation_names_the_settings(given: Any, expected: str) -> None:
    assert repr(from_torchjd(given)) == expected


@pytest.mark.parametrize("name", ALL)
def test_representation_is_one_line(name: str) -> None:
    assert "\n" not in repr(from_torchjd(ALL[name](3)))
