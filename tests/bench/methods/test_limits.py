"""Every method at its limits: no weight, equal domains, two domains, precisions, processes."""

import threading
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from domaingrad.bench.domains import DataError, losses
from domaingrad.bench.methods import (
    LITERATURE,
    METHODS,
    PUBLISHED,
    NeverBegunWarning,
    NonFiniteTermWarning,
    Within,
    pooled,
)
from domaingrad.bench.methods.base import Method, _ranges
from domaingrad.bench.runs.launching import require_among_processes
from domaingrad.bench.schema import SettingError

from .harness import (
    DOMAINS,
    SAMPLES,
    WIDTH,
    advance,
    batches,
    kind_of,
    learner,
    moved,
    network,
    parameters,
    soon,
)

OURS = {each.info.name: each for each in (*LITERATURE, *PUBLISHED)}


def plain(name):
    return name.removesuffix("-published")


def trained(method, steps=4, domains=DOMAINS, given=None, **settings):
    """The network after some steps."""
    made, optimizers = learner(method, domains=domains, **settings)
    for _ in range(steps):
        made.update(given if given else batches(made.step, domains, kind=kind_of(method)))
        if made.setup.amp.scaler.is_enabled():
            made.setup.amp.scaler.update()
        optimizers.advance(made.optimizers())
        made.step += 1
    return made


def assert_same(made, other, exact=True):
    for (n, a), b in zip(
        made.network.state_dict().items(), other.network.state_dict().values(), strict=True
    ):
        if exact:
            assert torch.equal(a, b), n
        else:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


WITHOUT_WEIGHT = {
    "irm": {"weight": 0.0, "anneal": 0},
    "vrex": {"weight": 0.0, "anneal": 0},
    "groupdro": {"eta": 0.0},
    "eqrm": {"anneal": 100},
    "rdm": {"anneal": 100},
    "sd": {"weight": 0.0},
    "coral": {"weight": 0.0},
    "mmd": {"weight": 0.0},
    "causirl-coral": {"weight": 0.0},
    "causirl-mmd": {"weight": 0.0},
    "ib-erm": {"weight": 0.0},
    "ib-irm": {"weight": 0.0, "irm_weight": 0.0, "irm_anneal": 0},
    "fishr": {"weight": 0.0},
    "iga": {"weight": 0.0},
    "miro": {"weight": 0.0},
    "lp-ft": {"linear_share": 0.0},
    "erm++": {"linear_share": 0.0},
}


@pytest.mark.parametrize("samples", [8, 7])
@pytest.mark.parametrize("name", WITHOUT_WEIGHT)
def test_without_its_weight_a_method_is_erm_to_the_bit(name, samples):
    given = batches(3, samples=samples)
    without = trained(replace(OURS[name], **WITHOUT_WEIGHT[name]), given=given)
    assert_same(without, trained(METHODS["erm"], given=given))


@pytest.mark.parametrize("name", ["dann", "cdann", "dsp-reg", "gga-l"])
def test_without_their_weight_methods_of_several_passes_are_erm_up_to_rounding(name):
    (weight,) = {"weight", "gamma"} & {field.name for field in fields(OURS[name])}
    changes = {weight: 0.0} | ({"beta1": 0.9} if "dann" in name else {})
    without = trained(replace(OURS[name], **changes), learning_rate=1e-3)
    reference = trained(METHODS["erm"], learning_rate=1e-3)
    if "dann" in name:  # its betas are its own: the first step is the same whatever they are
        without = trained(replace(OURS[name], **changes), steps=1)
        reference = trained(METHODS["erm"], steps=1)
    assert_same(without, reference, exact=False)


EQUAL = (
    "vrex", "groupdro", "eqrm", "coral", "mmd", "fishr", "iga", "gga-l", "q-mean",
)  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
def test_with_equal_domains_there_is_nothing_to_align(name):
    """Their gradients are equal, so every method that compares them takes ERM's step."""
    same = next(iter(batches(0).values()))
    given = dict.fromkeys(DOMAINS, same)
    late = {"anneal": 0} if "anneal" in {f.name for f in fields(OURS[name])} else {}
    late |= {"learning_rate": 1e-2} if name == "eqrm" else {}
    late |= {"weight": 1.0} if name == "iga" else {}  # 1000 of float32's rounding would show
    found = trained(replace(OURS[name], **late), given=given, learning_rate=1e-2)
    assert_same(found, trained(METHODS["erm"], given=given), exact=False)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
def test_two_domains_are_enough(name):
    method = soon(OURS[name], at=1)
    if name == "mldg-published":
        with pytest.raises(DataError, match=r"needs 3 source domains; found 2 \(a, b\)\. Use"):
            learner(method, domains=DOMAINS[:2])
        return
    made, optimizers = learner(method, domains=DOMAINS[:2])
    before = parameters(made)
    advance(made, optimizers, 3, DOMAINS[:2])
    assert "network." in " ".join(moved(made, before))
    assert all(p.isfinite().all() for p in made.network.parameters())
    assert method.requires.min_domains <= 2
    if method.requires.min_domains == 2:
        with pytest.raises(DataError, match=r"needs 2 source domains; found 1 \(a\)"):
            learner(method, domains=DOMAINS[:1])


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
def test_in_bfloat16_every_method_runs(name):
    method = soon(OURS[name], at=1)
    kind = kind_of(method)
    net = network(kind=kind, precision=torch.bfloat16)
    made, optimizers = learner(method, net=net)
    before = parameters(made)
    advance(made, optimizers, 3)
    assert moved(made, before)
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in made.network.parameters())
    x, _, _ = pooled(batches(9, kind=kind))
    assert made.predictor().eval()(x).isfinite().all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
def test_with_live_batch_norms_every_method_runs(name):
    method = soon(OURS[name], at=1)
    kind = kind_of(method)
    net = network(kind=kind)
    net.body[1] = (nn.BatchNorm2d if kind == "image" else nn.BatchNorm1d)(WIDTH)
    made, optimizers = learner(method, net=net.train())
    before = parameters(made)
    advance(made, optimizers, 3)
    changed = moved(made, before)
    assert {"network.body.1.weight", "network.body.0.weight"} <= changed or kind == "image"
    assert "network.body.1.running_mean" in changed
    x, _, _ = pooled(batches(9, kind=kind))
    assert made.predictor().eval()(x).isfinite().all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
def test_scaled_losses_change_nothing(name):
    """As fp16 scales them, by a power of two, so that only what forgets to undo it differs."""
    method = soon(OURS[name], at=1)
    scaler = GradScaler("cpu", init_scale=2.0**12)
    if not method.requires.fp16:
        with pytest.raises(ValueError, match=rf"{name} squares or derives gradients.*bf16-mixed"):
            learner(method, scaler=scaler)
        return
    found = []
    for each in (scaler, None):
        torch.manual_seed(0)
        found.append(trained(method, scaler=each, weight_decay=0.01))
    for a, b in zip(found[0].network.parameters(), found[1].network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


TOGETHER = {
    "vrex", "groupdro", "groupdro-published", "eqrm", "eqrm-published", "sd", "sam", "sagm",
    "lp-ft", "erm++", "miro", "genie", "q-mean", "q-mean-steps",
}  # fmt: skip
"""Those that several processes can train; q-mean is a rule, as in tests/bench/test_processes."""


@pytest.mark.parametrize("name", OURS)
def test_several_processes_are_refused_by_name_or_known(name):
    method = OURS[name]
    if name in TOGETHER:
        require_among_processes(method)
    else:
        with pytest.raises(DataError) as refused:
            require_among_processes(method)
        assert method.info.title in str(refused.value)


class Thread:
    """One of two processes, as threads that meet to average."""

    world = 2

    def __init__(self, barrier, board, rank):
        self.barrier, self.board, self.rank = barrier, board, rank

    def average_gradients(self, parameters, samples):
        own = [p for p in parameters if p.grad is not None]
        self.board[self.rank] = [p.grad.clone() for p in own], samples
        self.barrier.wait()
        (one, n), (other, m) = self.board
        for p, a, b in zip(own, one, other, strict=True):
            p.grad.copy_((n * a + m * b) / (n + m))
        self.barrier.wait()


@pytest.mark.parametrize("name", sorted(TOGETHER - {"q-mean"}))
def test_two_processes_come_to_what_one_does(name):
    method = soon(OURS[name], at=1)
    whole = trained(method, steps=3)
    barrier, board, found, failed = threading.Barrier(2, timeout=20), [None, None], {}, []

    def run(rank):
        try:
            made, optimizers = nets[rank]
            for step in range(3):
                given = {}
                for own, (domain, (x, y)) in zip((3, 4, 2), batches(step).items(), strict=True):
                    # Shares of unequal size, also from domain to domain.
                    share = slice(0, own) if rank == 0 else slice(own, SAMPLES)
                    given[domain] = x[share], y[share]
                made.update(given)
                optimizers.advance(made.optimizers())
                made.step += 1
            found[rank] = made
        except BaseException as error:  # noqa: BLE001 - raised below, not in this thread
            failed.append(error)
            barrier.abort()

    nets = [learner(method, processes=Thread(barrier, board, rank)) for rank in (0, 1)]
    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert_same(found[0], found[1])
    assert_same(found[0], whole, exact=False)


NUMBERS = {name for name, each in OURS.items() if not each.requires.classes}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
def test_numbers_for_labels_train_or_are_refused(name):
    method = soon(OURS[name], at=1)
    net = network(kind=kind_of(method), outputs=1)
    settings = {"net": net, "outputs": 1, "loss": partial(losses, "regression")}
    if name not in NUMBERS:
        with pytest.raises(DataError, match=r"needs labels that are classes.*Use another method"):
            learner(method, **settings)
        return
    made, _ = learner(method, **settings)
    before = parameters(made)
    for _ in range(3):
        given = batches(made.step, kind=kind_of(method))
        made.update({n: (x, y.float() + x.flatten(1).sum(1)) for n, (x, y) in given.items()})
        made.step += 1
    assert moved(made, before)
    assert all(p.isfinite().all() for p in made.network.parameters())


@pytest.mark.parametrize(
    ("name", "field"), [(n, f) for n, each in OURS.items() for f in _ranges(type(each))]
)
def test_a_hyperparameter_out_of_its_range_is_refused_with_the_reason(name, field):
    range_ = _ranges(type(OURS[name]))[field]
    for value in (range_.low - 1, *range_.without, float("nan")):
        with pytest.raises(SettingError) as refused:
            replace(OURS[name], **{field: value})
        for told in (f"{field} of {name}", str(range_), range_.why, f"found {value}"):
            assert told in str(refused.value)


@pytest.mark.parametrize("name", OURS)
def test_every_number_has_a_range_and_every_draw_is_in_it(name):
    method = OURS[name]
    if name == "q-mean":
        return
    numbers = {f.name for f in fields(method) if isinstance(getattr(method, f.name), (int, float))}
    assert numbers <= _ranges(type(method)).keys()
    for u in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
        drawn = {key: distribution.at(u) for key, distribution in method.search.items()}
        assert replace(method, **drawn).search.keys() == method.search.keys()


def test_a_range_tells_its_ends():
    assert str(Within("", 0, 1, (0,))) == "> 0 and ≤ 1"
    assert str(Within("", 0)) == "≥ 0"
    assert not Within("", 0, 1, (1,)).holds(1)


@pytest.mark.parametrize("name", ["sd", "coral", "fishr"])
def test_a_term_that_is_not_finite_is_named_and_stays_named(name):
    made, optimizers = learner(soon(OURS[name], at=0))
    advance(made, optimizers, 1)
    assert made.metrics().keys() == {"risk", "penalty"}
    with torch.no_grad():  # so that squares overflow, and outputs do not
        made.network.classifier.weight.zero_()
        made.network.classifier.bias.fill_(1e25)
        if name != "sd":
            made.network.body[0].bias.zero_()
            made.network.body[1] = torch.nn.Identity()
            made.network.body[0].weight.fill_(1e15 if name == "coral" else 1e18)
    advance(made, optimizers, 2)
    with pytest.warns(NonFiniteTermWarning, match=r"^penalty of the objective .* not finite first"):
        told = made.metrics()
    assert all(torch.tensor(value).isfinite() for value in told.values())


def test_published_readings_say_so():
    for each in PUBLISHED:
        info = each.info
        assert info.name == f"{plain(info.name)}-published"
        assert info.title == f"{METHODS[plain(info.name)].info.title} (as published)"
        assert info.baselines == ("erm", plain(info.name))
        assert "variant" not in each.hyperparameters()
    assert METHODS["mixup-published"].search == {}
    assert METHODS["mixup-published"].hyperparameters() == {"alpha": 0.1}


def test_every_method_says_what_it_is():
    for each in (*LITERATURE, *PUBLISHED):
        assert isinstance(each, Method)
        assert all((each.info.title, each.info.summary, each.info.paper, each.info.cost))


def test_a_run_that_ends_before_the_anneal_says_so():
    told = r"anneal of fishr is update 10000, and the run has 10000: what begins there never does"
    with pytest.warns(NeverBegunWarning, match=told):
        learner(replace(METHODS["fishr"], anneal=10_000))
