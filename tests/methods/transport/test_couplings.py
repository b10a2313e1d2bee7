"""What training relies on: permutations, marginals, labels, repeatable draws."""

import copy

import pytest
import torch
from scipy.stats import chisquare

from sextant.contracts import Streams
from sextant.methods.transport.costs import squared_distances
from sextant.methods.transport.couplings import (
    Coupling,
    Exact,
    Independent,
    LinearOT,
    Sinkhorn,
    WithinClasses,
)
from sextant.methods.transport.linear import linear_pairs
from sextant.methods.transport.pairs import take_pairs


class NormalData:
    """The part of a data module that a coupling sees."""

    def draw_source(self, n: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(n, 2, generator=generator)


def begun(coupling: Coupling, seed: int = 0) -> Coupling:
    coupling.prepare(NormalData(), Streams(seed))
    return coupling


def every_coupling() -> list[Coupling]:
    return [Independent(), Exact(), Sinkhorn(), LinearOT(reference_size=40)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cost_of(source, target, pairs) -> float:
    e, x, _ = take_pairs(pairs, source, target)
    return (e - x).square().sum(1).mean().item()


@pytest.mark.parametrize("n", [1, 2, 17, 64, 100])
@pytest.mark.parametrize("coupling", every_coupling(), ids=lambda c: type(c).__name__)
def test_bijections_are_permutations_and_nothing_beats_exact(clouds, coupling, n):
    source, target = clouds(n)
    pairs = begun(coupling)(source, target, generator())
    assert torch.equal(pairs.source_index, torch.arange(n))
    exact = cost_of(source, target, Exact()(source, target, generator()))
    if isinstance(coupling, Sinkhorn):
        assert pairs.target_index.min() >= 0
        assert pairs.target_index.max() < n
        expected = (coupling.plan(source, target) * squared_distances(source, target)).sum()
        assert expected >= exact * (1 - 1e-4)
    else:
        assert torch.equal(pairs.target_index.sort().values, torch.arange(n))
        assert cost_of(source, target, pairs) >= exact * (1 - 1e-12)


@pytest.mark.parametrize(
    "coupling",
    [Exact(), Sinkhorn(), LinearOT()],
    ids=["exact", "sinkhorn", "linear"],
)
def test_transport_shortens_the_lines(clouds, coupling):
    source, target = clouds(128)
    independent = cost_of(source, target, Independent()(source, target, generator()))
    assert cost_of(source, target, begun(coupling)(source, target, generator())) < independent - 0.3


@pytest.mark.parametrize("coupling", every_coupling(), ids=lambda c: type(c).__name__)
def test_equal_generators_give_equal_pairs(clouds, coupling):
    source, target = clouds(64)
    first = begun(coupling)(source, target, generator(3))
    again = begun(copy.deepcopy(coupling))(source, target, generator(3))
    assert torch.equal(first.target_index, again.target_index)


def test_sinkhorn_draws_differ_between_steps(clouds):
    source, target = clouds(64)
    first, second = (Sinkhorn()(source, target, generator(seed)) for seed in (0, 1))
    assert not torch.equal(first.target_index, second.target_index)


@pytest.mark.parametrize("shift", [3.0, 300.0])
def test_sinkhorn_pairs_ignore_where_the_clouds_stand(clouds, shift):
    source, target = (points.float() for points in clouds(64))
    pairs = Sinkhorn()(source, target, generator())
    moved = Sinkhorn()(source, target + shift, generator())
    assert (pairs.target_index == moved.target_index).float().mean() > 0.95
    source, target = source - source.mean(0), target - target.mean(0)
    independent = Independent()(source, target, generator())
    assert cost_of(source, target, moved) < 0.5 * cost_of(source, target, independent)


def test_sinkhorn_epsilon_is_relative_to_the_mean_cost(clouds):
    source, target = clouds(40)
    torch.testing.assert_close(
        Sinkhorn().plan(source, target), Sinkhorn().plan(100 * source, 100 * target)
    )


@pytest.mark.parametrize("coupling", every_coupling(), ids=lambda c: type(c).__name__)
def test_every_data_row_is_used_equally_often(coupling):
    # The rows of a fixed data set of 12 come shuffled; over many batches each must be used alike.
    begun(coupling)
    data = torch.randn(12, 2, generator=generator(7))
    counts = torch.zeros(12)
    batches, size = 400, 6
    for step in range(batches):
        draws = generator(step)
        rows = torch.randperm(12, generator=draws)[:size]
        pairs = coupling(torch.randn(size, 2, generator=draws), data[rows], draws)
        counts += rows[pairs.target_index].bincount(minlength=12)
    assert counts.sum() == batches * size
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_row_argmax_would_fail_the_marginal_test_that_sampling_passes():
    data = torch.randn(12, 2, generator=generator(7))
    counts = torch.zeros(12)
    for step in range(200):
        draws = generator(step)
        plan = Sinkhorn(epsilon=0.3).plan(torch.randn(12, 2, generator=draws), data)
        counts += plan.argmax(1).bincount(minlength=12)
    assert chisquare(counts.numpy()).pvalue < 1e-3


def test_linear_equals_exact_in_one_dimension(clouds):
    source, target = clouds(64, 1)
    reference = torch.rand(64, 1, generator=generator(), dtype=torch.float64)
    linear = linear_pairs(source, target, reference)
    exact = Exact()(source, target, generator())
    assert torch.equal(linear.target_index, exact.target_index)


@pytest.mark.parametrize("seed", range(3))
def test_linear_equals_exact_for_a_translated_and_scaled_copy(clouds, seed):
    source, reference = clouds(64, 3, seed)
    order = torch.randperm(64, generator=generator(seed))
    target = (0.3 * source + torch.tensor([1.0, -2.0, 5.0]))[order]
    pairs = linear_pairs(source, target, reference)
    assert torch.equal(order[pairs.target_index], torch.arange(64))
    assert torch.equal(pairs.target_index, Exact()(source, target, generator()).target_index)


def test_linear_pairs_do_not_depend_on_the_order_of_rows(clouds):
    source, target = clouds(32)
    reference = torch.randn(32, 2, generator=generator(5), dtype=torch.float64)
    rows, columns = (torch.randperm(32, generator=generator(seed)) for seed in (1, 2))
    pairs = linear_pairs(source, target, reference)
    moved = linear_pairs(source[rows], target[columns], reference[columns])
    assert torch.equal(columns[moved.target_index], pairs.target_index[rows])


def test_the_reference_depends_on_seed_and_size_alone(clouds):
    early, late = begun(LinearOT(reference_size=8)), begun(LinearOT(reference_size=8))
    early.reference(30)
    assert torch.equal(early.reference(5), late.reference(5))
    assert torch.equal(early.reference(30), late.reference(30))
    assert len(early.reference(30)) == 30
    assert early.reference(30).unique(dim=0).shape[0] == 30
    assert not torch.equal(early.reference(5), begun(LinearOT(8), seed=1).reference(5))


def test_linear_coupling_says_what_it_lacks(clouds):
    with pytest.raises(ValueError, match="prepare"):
        LinearOT()(*clouds(4), generator())
    with pytest.raises(TypeError, match="draw_source"):
        LinearOT().prepare(object(), Streams(0))


def two_clusters(n: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A source around 0 and two classes of targets left and right of it."""
    draws = generator(11)
    labels = torch.randint(0, 2, (n,), generator=draws)
    target = 0.2 * torch.randn(n, 2, generator=draws)
    target[:, 0] += 4.0 * labels - 2.0
    return torch.randn(n, 2, generator=draws), target, labels


def class_means(coupling: Coupling) -> torch.Tensor:
    source, target, labels = two_clusters()
    e, _, y = take_pairs(coupling(source, target, generator(), labels), source, target, labels)
    return torch.stack([e[y == label].mean(0) for label in (0, 1)])


@pytest.mark.parametrize("inner", every_coupling(), ids=lambda c: type(c).__name__)
def test_within_classes_the_source_is_independent_of_the_label(inner):
    # 0.25 is 3.5 standard errors of a mean of 200 normal draws.
    assert class_means(begun(WithinClasses(inner))).abs().max() < 0.25


def test_a_label_blind_coupling_makes_the_source_depend_on_the_label():
    means = class_means(Exact())
    assert means[0, 0] < -0.5
    assert means[1, 0] > 0.5


@pytest.mark.parametrize("inner", every_coupling(), ids=lambda c: type(c).__name__)
def test_within_classes_pairs_each_block_alone_and_in_place(inner):
    source, target, labels = two_clusters(60)
    pairs = begun(WithinClasses(inner))(source, target, generator(), labels)
    assert torch.equal(pairs.source_index, torch.arange(60))
    assert torch.equal(labels[pairs.target_index], labels)
    _, x, y = take_pairs(pairs, source, target, labels)
    assert torch.equal(x[:, 0] > 0, y == 1)  # labels travel with their points
    if isinstance(inner, Exact):
        rows = (labels == 1).nonzero()[:, 0]
        alone = inner(source[rows], target[rows], generator())
        assert torch.equal(pairs.target_index[rows], rows[alone.target_index])


def test_within_classes_needs_a_label_for_every_target():
    source, target, labels = two_clusters(10)
    with pytest.raises(ValueError, match="labels must be given"):
        WithinClasses(Exact())(source, target, generator())
    with pytest.raises(ValueError, match="labels must have shape"):
        WithinClasses(Exact())(source, target, generator(), labels[:3])


@pytest.mark.parametrize(
    "coupling", [*every_coupling(), WithinClasses(Exact())], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), "equally many"),
        (torch.ones(0, 2), torch.ones(0, 2), "n >= 1"),
        (torch.ones(3, 2), torch.full((3, 2), torch.nan), "NaN"),
    ],
)
def test_bad_batches_are_refused(coupling, source, target, words):
    labels = torch.zeros(len(target), dtype=torch.int64)
    with pytest.raises(ValueError, match=words):
        begun(coupling)(source, target, generator(), labels)


@pytest.mark.parametrize("coupling", every_coupling(), ids=lambda c: type(c).__name__)
def test_identical_points_are_paired(coupling):
    points = torch.ones(20, 2)
    pairs = begun(coupling)(points, points, generator())
    assert len(pairs.target_index) == 20


def test_couplings_leave_no_gradient_and_the_global_generator_alone(clouds):
    source, target = clouds(32)
    source.requires_grad_()
    before = torch.get_rng_state()
    for coupling in every_coupling():
        assert not begun(coupling)(source, target, generator()).target_index.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"iterations": 0}, {"tolerance": 0.0}])
def test_bad_sinkhorn_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sinkhorn(**settings)
