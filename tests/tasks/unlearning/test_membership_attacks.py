"""Membership attacks against loops, closed forms and cases whose answer is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit, softmax
from scipy.stats import entropy, norm
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from tasks.unlearning.attacks import (
    entropy_membership,
    logit_confidence,
    loss_attack,
    losses,
    modified_entropy,
    output_entropy,
    svm_efficacy,
    true_class_probability,
)
from tasks.unlearning.measures import Answers
from tasks.unlearning.shadows import (
    EPSILON_CAP,
    example_epsilons,
    final_score,
    forgetting_score,
    u_lira,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sure(probabilities, label=0):
    """Two-class answers whose true class, `label` throughout, has these probabilities."""
    values = torch.as_tensor(probabilities, dtype=torch.float64).logit()
    columns = (values, torch.zeros_like(values))
    logits = torch.stack(columns if label == 0 else columns[::-1], dim=1)
    return Answers(logits, torch.full((len(values),), label))


def noisy(seed, n=60, classes=5, scale=2.0):
    generator = seeded(seed)
    logits = scale * torch.randn(n, classes, generator=generator)
    return Answers(logits, torch.randint(classes, (n,), generator=generator))


def test_features_equal_the_formulas_example_by_example():
    answers = noisy(0)
    probabilities = softmax(answers.logits.double().numpy(), axis=1)
    for i, (p, y) in enumerate(zip(probabilities, answers.labels.tolist(), strict=True)):
        modified = -(1 - p[y]) * math.log(p[y])
        modified -= sum(p[k] * math.log(1 - p[k]) for k in range(5) if k != y)
        assert float(true_class_probability(answers)[i]) == pytest.approx(p[y], rel=1e-12)
        assert float(losses(answers)[i]) == pytest.approx(-math.log(p[y]), rel=1e-10)
        assert float(output_entropy(answers.logits)[i]) == pytest.approx(entropy(p), rel=1e-10)
        assert float(modified_entropy(answers)[i]) == pytest.approx(modified, rel=1e-9)
        assert float(logit_confidence(answers)[i]) == pytest.approx(logit(p[y]), rel=1e-9)


@pytest.mark.parametrize("feature", [modified_entropy, logit_confidence, losses])
def test_features_of_an_example_do_not_depend_on_the_others(feature):
    answers = noisy(1)
    alone = [feature(Answers(answers.logits[i : i + 1], answers.labels[i : i + 1])) for i in (3, 9)]
    torch.testing.assert_close(feature(answers)[[3, 9]], torch.cat(alone))


def test_features_are_exact_where_probabilities_round():
    logits = torch.tensor([[80.0, 0, 0, 0], [0, 80, 0, 0], [800, -800, 0, 0]])
    answers = Answers(logits, torch.tensor([0, 0, 1]))
    expected = [80 - math.log(3), -80 - math.log1p(2 * math.exp(-80)), -1600]
    np.testing.assert_allclose(logit_confidence(answers), expected, rtol=1e-12)
    # A right certainty costs nothing; a wrong one -log p_y - log(1 - p_wrong).
    surprise = modified_entropy(answers)
    assert 0 <= float(surprise[0]) < 1e-60
    assert float(surprise[1]) == pytest.approx(80 + (80 - math.log(3)), rel=1e-12)
    assert torch.isfinite(surprise).all()
    assert (output_entropy(logits) < 1e-30).all()
    assert output_entropy(torch.zeros(1, 7)).item() == pytest.approx(math.log(7))


def test_modified_entropy_tells_right_from_wrong_where_the_entropy_cannot():
    right, wrong = sure([0.99]), sure([0.01])
    torch.testing.assert_close(output_entropy(right.logits), output_entropy(wrong.logits))
    assert float(modified_entropy(wrong)) > 100 * float(modified_entropy(right))


def spread(low, high, n, seed):
    return low + (high - low) * torch.rand(n, dtype=torch.float64, generator=seeded(seed))


def test_svm_efficacy_at_its_ends():
    members, others = sure(spread(0.9, 1, 80, 0)), sure(spread(0.1, 0.4, 50, 1))
    assert svm_efficacy(members, others, sure(spread(0.1, 0.4, 30, 2)), seeded()) == 1
    assert svm_efficacy(members, others, sure(spread(0.9, 1, 30, 3), label=1), seeded()) == 0
    half = Answers(
        torch.cat((members.logits[:10], others.logits[:10])), torch.zeros(20, dtype=torch.int64)
    )
    assert svm_efficacy(members, others, half, seeded()) == 0.5


def test_svm_efficacy_is_the_stated_machine_on_equal_sizes():
    members, others, forgotten = noisy(2, 70, scale=4), noisy(3, 70), noisy(4, 50, scale=3)
    values = [true_class_probability(part).numpy()[:, None] for part in (members, others)]
    machine = SVC(C=3, gamma=1.0).fit(np.concatenate(values), [1] * 70 + [0] * 70)
    answers = machine.predict(true_class_probability(forgotten).numpy()[:, None])
    expected = sum(answer == 0 for answer in answers) / 50
    assert 0.1 < expected < 0.9
    assert svm_efficacy(members, others, forgotten, seeded()) == pytest.approx(expected, abs=0.021)


def test_svm_efficacy_is_not_won_by_the_larger_side():
    # Members and non-members alike: with sides as they are, all would be called members.
    values = [spread(0.2, 0.8, n, seed) for seed, n in enumerate((900, 60, 200))]
    parts = [sure(value) for value in values]
    scores = [svm_efficacy(*parts, seeded(seed)) for seed in range(5)]
    assert 0.2 < np.mean(scores) < 0.8
    assert len(set(scores)) > 1
    assert svm_efficacy(*parts, seeded(3)) == svm_efficacy(*parts, seeded(3))
    small = [svm_efficacy(*parts, seeded(seed), at_most=20) for seed in range(3)]
    assert small != scores[:3]
    with pytest.raises(ValueError, match="at_most"):
        svm_efficacy(*parts, seeded(), at_most=0)


def certain(probabilities):
    return sure(probabilities).logits


@pytest.mark.parametrize("rule", ["logistic", "svm"])
def test_entropy_membership_calls_the_certain_members(rule):
    retained, test = certain(spread(0.97, 1, 90, 0)), certain(spread(0.4, 0.6, 60, 1))
    arguments = {"rule": rule}
    assert entropy_membership(retained, test, certain(spread(0.98, 1, 20, 2)), **arguments) == 1
    assert entropy_membership(retained, test, certain(spread(0.45, 0.55, 20, 3)), **arguments) == 0
    # The label plays no part: certainly wrong is certain too.
    assert entropy_membership(retained, test, certain(spread(0, 0.02, 20, 4)), **arguments) == 1


def test_entropy_membership_weighs_both_sides_equally():
    retained, test, forgotten = noisy(5, 300, scale=4), noisy(6, 40), noisy(7, 90, scale=3)
    values = np.concatenate(
        [entropy(softmax(p.logits.double(), 1), axis=1) for p in (retained, test)]
    )
    truth = np.repeat([1, 0], [300, 40])
    weights = np.where(truth == 1, 340 / (2 * 300), 340 / (2 * 40))
    attack = LogisticRegression().fit(values[:, None], truth, weights)
    asked = entropy(softmax(forgotten.logits.double(), 1), axis=1)
    boundary = -attack.intercept_[0] / attack.coef_[0, 0]
    expected = (asked < boundary).mean()
    assert 0.1 < expected < 0.9
    got = entropy_membership(retained.logits, test.logits, forgotten.logits)
    assert got == pytest.approx(expected)
    with pytest.raises(ValueError, match="rule"):
        entropy_membership(retained.logits, test.logits, forgotten.logits, rule="tree")


def test_loss_attack_is_blind_on_equal_laws_and_sure_on_disjoint_ones():
    blind = loss_attack(noisy(8, 2000), noisy(9, 1500), seeded())
    assert blind.accuracy == pytest.approx(0.5, abs=0.04)
    assert 1300 < blind.n <= 1500
    told = loss_attack(sure(spread(0.9, 1, 50, 0)), sure(spread(0.01, 0.1, 40, 1)), seeded())
    assert (told.accuracy, told.deviation, told.n) == (1, 0, 40)


def test_loss_attack_of_two_gaussians_meets_the_closed_form():
    # The best threshold between N(0, 1) and N(d, 1) is right with probability Phi(d / 2).
    apart, generator = 1.5, seeded(10)
    first, second = torch.randn(2, 3000, dtype=torch.float64, generator=generator)
    parts = [
        sure((-(values + shift).exp()).exp()) for values, shift in ((first, -4), (second, -2.5))
    ]
    logs = [losses(part).log() for part in parts]
    assert float(logs[1].mean() - logs[0].mean()) == pytest.approx(apart, abs=0.1)
    # Losses are log-normal here: the attack's threshold is a threshold on the log as well.
    found = loss_attack(*parts, seeded(), splits=20)
    assert found.accuracy == pytest.approx(norm.cdf(apart / 2), abs=0.04)


def test_loss_attack_cannot_be_won_by_the_frequencies_of_the_classes():
    def mixture(easy, hard, seed):
        parts = sure(spread(0.9, 1, easy, seed)), sure(spread(0.1, 0.2, hard, seed + 1), label=1)
        return Answers(
            *(torch.cat(v) for v in zip(*((p.logits, p.labels) for p in parts), strict=True))
        )

    found = loss_attack(mixture(450, 50, 0), mixture(50, 450, 2), seeded())
    assert found.n == 100
    assert found.accuracy < 0.65  # frequencies alone would give 0.9


def test_loss_attack_depends_on_its_generator_alone_and_refuses_other_classes():
    forgotten, unseen = noisy(11, 60), noisy(12, 50)
    assert loss_attack(forgotten, unseen, seeded(1)) == loss_attack(forgotten, unseen, seeded(1))
    assert loss_attack(forgotten, unseen, seeded(1)) != loss_attack(forgotten, unseen, seeded(2))
    with pytest.raises(ValueError, match="classes of the forgotten"):
        loss_attack(sure([0.5] * 20), sure([0.5] * 20, label=1), seeded())
    with pytest.raises(ValueError, match="at least 10"):
        loss_attack(sure([0.5] * 20), sure([0.5] * 9), seeded())
    with pytest.raises(ValueError, match="splits"):
        loss_attack(forgotten, unseen, seeded(), splits=0)


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


@pytest.mark.parametrize("spread", ["example", "pooled"])
def test_u_lira_equals_leave_one_out_by_loops(spread):
    models, examples = 7, 5
    unlearned, retrained = normal(0, models, examples) + 0.7, 1.5 * normal(1, models, examples)
    areas, rates = [], []
    for held_out in range(models):
        ratios = {}
        rest = [i for i in range(models) if i != held_out]
        for name, asked in (("yes", unlearned), ("no", retrained)):
            ratios[name] = []
            for s in range(examples):
                parts = []
                for kind in (unlearned, retrained):
                    column = kind[rest, s].numpy()
                    deviation = column.std(ddof=1)
                    if spread == "pooled":
                        columns = [kind[rest, k].numpy().var(ddof=1) for k in range(examples)]
                        deviation = math.sqrt(sum(columns) / examples)
                    parts.append(norm.logpdf(asked[held_out, s], column.mean(), deviation))
                ratios[name].append(parts[0] - parts[1])
        wins = [(a > b) + 0.5 * (a == b) for a in ratios["yes"] for b in ratios["no"]]
        areas.append(sum(wins) / len(wins))
        rates.append(sum(a > max(ratios["no"]) for a in ratios["yes"]) / examples)
    found = u_lira(unlearned, retrained, seeded(), folds=models, spread=spread)
    assert found.auc == pytest.approx(np.mean(areas), abs=1e-12)
    assert found.true_positive_rate == pytest.approx(np.mean(rates), abs=1e-12)
    assert (found.shadows, found.models, found.examples) == (6, 7, 5)
    assert found.underpowered


@pytest.mark.parametrize("apart", [0.5, 1.5])
def test_u_lira_of_two_gaussians_meets_the_closed_form(apart):
    # Every example has its own mean, which an attack on all of them together could not know.
    means = 5 * normal(2, 40)
    found = u_lira(means + apart + normal(3, 200, 40), means + normal(4, 200, 40), seeded())
    assert found.auc == pytest.approx(norm.cdf(apart / math.sqrt(2)), abs=0.02)
    closed = norm.sf(norm.isf(0.01) - apart)
    assert found.true_positive_rate == pytest.approx(closed, abs=0.03)
    assert (found.shadows, found.spread, found.underpowered) == (150, "example", False)


@settings(max_examples=20, deadline=None)
@given(models=st.integers(6, 12), examples=st.integers(1, 6), seed=st.integers(0, 99))
def test_u_lira_is_even_where_nothing_was_left_to_forget(models, examples, seed):
    phi = normal(seed, models, examples)
    found = u_lira(phi, phi.clone(), seeded(seed), folds=3)
    assert (found.auc, found.true_positive_rate) == (0.5, 0)
    assert found.spread == "pooled"


def test_u_lira_is_even_on_average_for_equal_laws_and_few_shadows():
    areas = [
        u_lira(normal(2 * s, 8, 30), normal(2 * s + 1, 8, 30), seeded(s)).auc for s in range(60)
    ]
    assert abs(np.mean(areas) - 0.5) < 4 * np.std(areas) / math.sqrt(60)


def test_u_lira_survives_models_that_all_agree():
    found = u_lira(torch.ones(8, 3), torch.zeros(8, 3), seeded())
    assert (found.auc, found.true_positive_rate) == (1, 1)


@pytest.mark.parametrize(
    ("unlearned", "retrained", "arguments", "word"),
    [
        (torch.zeros(5, 3), torch.zeros(5, 3), {}, "at least 4 shadows"),
        (torch.zeros(8, 3), torch.zeros(8, 3), {"folds": 1}, "folds"),
        (torch.zeros(8, 3), torch.zeros(8, 3), {"folds": 9}, "folds"),
        (torch.zeros(8, 3), torch.zeros(9, 3), {}, "models, examples"),
        (torch.zeros(8), torch.zeros(8), {}, "models, examples"),
        (torch.zeros(8, 3), torch.full((8, 3), math.inf), {}, "finite"),
        (torch.zeros(8, 3), torch.zeros(8, 3), {"spread": "wide"}, "spread"),
    ],
)
def test_u_lira_refuses_what_it_cannot_judge(unlearned, retrained, arguments, word):
    with pytest.raises(ValueError, match=word):
        u_lira(unlearned, retrained, seeded(), **arguments)


def gridded_epsilon(ours, theirs, delta=1e-5, step=0.05):
    """epsilon of one example by trying thresholds on a fine grid, one rule at a time."""
    found = []

    def consider(false_positive, false_negative):
        if false_positive == false_negative == 0:
            found.append(math.inf)
        elif false_positive > 0 and false_negative > 0:
            for a, b in ((false_positive, false_negative), (false_negative, false_positive)):
                if 1 - delta - a > 0:
                    found.append(max(math.log(1 - delta - a) - math.log(b), 0))

    high, low = (theirs, ours) if np.median(theirs) > np.median(ours) else (ours, theirs)
    for threshold in np.arange(min(*ours, *theirs), max(*ours, *theirs) + step, step):
        consider((low >= threshold).mean(), (high < threshold).mean())
    narrow, wide = sorted((ours, theirs), key=np.ptp)
    for right in np.arange(narrow.max() - 2, narrow.max() + 2, step) + step / 3:
        for left in np.arange(right - np.ptp(narrow) - 2, right - np.ptp(narrow) + 2, step):
            inside = [(left <= phi) & (phi <= right) for phi in (wide, narrow)]
            consider(inside[0].mean(), (~inside[1]).mean())
    return min(max(found, default=0.0), EPSILON_CAP)


@pytest.mark.parametrize("seed", range(6))
def test_epsilon_equals_a_fine_grid_of_thresholds(seed):
    generator = np.random.default_rng(seed)
    # Values on a lattice much coarser than the grid, so that no rule falls between its points.
    ours = generator.integers(-6, 6 + 2 * seed, 9) / 2
    theirs = generator.integers(-9, 5 + 4 * seed, 9) / 2 + (seed % 3)
    found = example_epsilons(torch.tensor(ours)[:, None], torch.tensor(theirs)[:, None])
    assert found == pytest.approx([gridded_epsilon(ours, theirs)], rel=1e-12)


def test_epsilon_by_hand():
    # From 2.25 on, one low one is called high and no high one low, which does not count; from 3 on
    # one of four errs on each side, and no other rule that errs on both sides does better.
    low, high = torch.tensor([0.0, 1, 2, 3.5]), torch.tensor([2.25, 3, 4, 5])
    best = math.log((1 - 1e-5 - 0.25) / 0.25)
    found = example_epsilons(low[:, None], high[:, None])[0]
    assert found == pytest.approx(best, rel=1e-9)


def test_epsilon_is_nothing_for_equal_samples_and_the_cap_for_disjoint_ones():
    phi = normal(5, 20, 4)
    assert (example_epsilons(phi, phi.clone()) == 0).all()
    assert (example_epsilons(phi, phi[torch.randperm(20, generator=seeded())]) == 0).all()
    assert (example_epsilons(phi, phi + 50) == EPSILON_CAP).all()
    # One kind nearly constant, inside the range of the other.
    assert (example_epsilons(phi, phi * 1e-3) == EPSILON_CAP).all()
    constant = torch.zeros(5, 1)
    assert example_epsilons(constant, constant) == [0]
    assert example_epsilons(constant, constant + 1) == [EPSILON_CAP]


@settings(max_examples=25, deadline=None)
@given(models=st.integers(3, 9), shift=st.integers(-3, 3), seed=st.integers(0, 99))
def test_epsilon_knows_no_order_no_origin_and_no_sides(models, shift, seed):
    ours, theirs = normal(seed, models, 2) + shift, 2 * normal(seed + 100, models, 2)
    found = example_epsilons(ours, theirs)
    np.testing.assert_allclose(example_epsilons(theirs, ours), found, rtol=1e-12)
    np.testing.assert_allclose(example_epsilons(ours.flip(0), theirs.roll(1, 0)), found, rtol=1e-12)
    np.testing.assert_allclose(example_epsilons(ours + 8, theirs + 8), found, rtol=1e-12)
    assert ((found >= 0) & (found <= EPSILON_CAP)).all()


def test_an_interval_finds_what_no_threshold_can():
    # Equal medians: a narrow law within a wide one.
    narrow, wide = normal(6, 60, 1) / 5, 5 * normal(7, 60, 1)
    assert 2 < example_epsilons(narrow, wide)[0] < math.log(60)


def test_an_interval_is_not_much_wider_than_the_kind_it_is_for():
    # Reaching from -8 to 0.85 would err once on each side; the family's best errs 2 and 1 times.
    narrow, wide = np.arange(7) / 6, np.array([-20, -20, -8, 0.9, 0.9, 10, 10])
    found = example_epsilons(torch.tensor(narrow)[:, None], torch.tensor(wide)[:, None])[0]
    assert found == pytest.approx(math.log((1 - 1e-5 - 2 / 7) * 7), rel=1e-9)
    assert found == pytest.approx(gridded_epsilon(narrow, wide), rel=1e-9)


def test_forgetting_score_gives_half_the_points_for_every_bin():
    ours = normal(8, 12, 30)
    theirs = ours + torch.linspace(0, 6, 30) + 0.3 * normal(9, 12, 30)
    points, bins = [], set()
    for epsilon in example_epsilons(ours, theirs):
        lower, point, score = 0.0, 1.0, 0.0
        while lower + 0.5 <= math.ceil(math.log(11)):
            if lower <= epsilon < lower + 0.5:
                score = point
                bins.add(lower)
            lower, point = lower + 0.5, point / 2
        points.append(score)
    assert len(bins) >= 3
    assert 0.0 in points
    assert forgetting_score(ours, theirs) == pytest.approx(sum(points) / 30, rel=1e-12)


def test_forgetting_score_at_its_ends():
    phi = normal(10, 6, 4)
    assert forgetting_score(phi, phi.clone()) == 1
    assert forgetting_score(phi, phi + 99) == 0
    with pytest.raises(ValueError, match="at least 3"):
        forgetting_score(phi[:2], phi[:2])


def test_final_score_by_hand():
    assert final_score(0.8, 0.9, 1.0, 0.7, 0.8) == pytest.approx(0.8 * 0.9 * 0.875)
    with pytest.raises(ValueError, match="positive"):
        final_score(0.8, 0.9, 0.0, 0.7, 0.8)
