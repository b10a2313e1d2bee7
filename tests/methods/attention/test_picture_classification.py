"""A vision transformer around any attention: its patches, its training, what is said of it."""

import pytest
import torch
from torch.nn import functional

from sextant.contracts import Streams
from sextant.methods.attention.classification import AttentionClassifier
from sextant.methods.attention.differential import DifferentialAttention
from sextant.methods.attention.esp import ESPAttention
from sextant.methods.attention.fixed import FixedAttention
from sextant.methods.attention.inspection import diagnostics, matrices, outermost, weights
from sextant.methods.attention.sinkhorn import SinkhornAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from sextant.methods.attention.uniform import UniformAttention
from sextant.methods.backbones.linear_pixels import LinearPixels
from sextant.methods.backbones.patch_classifier import PatchClassifier

SIZES = {"channels": 2, "side": 8, "patch": (4, 2), "classes": 3, "width": 12, "hidden": 8}
HEADS = {"heads": 2, "head_dimension": 4}


def network(attention=None, **changes):
    torch.manual_seed(0)
    return PatchClassifier(attention or SoftmaxAttention(), **SIZES | HEADS | changes)


class Data:
    """Pictures whose class is the bright third."""

    classes = 3

    def __init__(self):
        torch.manual_seed(1)
        self.inputs, self.labels = 0.3 * torch.randn(120, 2, 8, 8), torch.arange(120) % 3
        for place, label in enumerate(self.labels):
            self.inputs[place, :, 2 * label : 2 * label + 2] += 1.0

    def examples(self, part):
        rows = slice(90) if part == "train" else slice(90, 120)
        return self.inputs[rows], self.labels[rows]


def test_patches_are_cut_row_by_row():
    images = torch.arange(2 * 64).view(1, 2, 8, 8).float()
    found = network().patches(images)
    assert found.shape == (1, 8, 16)
    # The first row's second patch has columns 2 and 3 of rows 0 to 3, channel by channel.
    assert torch.equal(found[0, 1], images[0, :, 0:4, 2:4].flatten())
    assert torch.equal(found[0, 4], images[0, :, 4:8, 0:2].flatten())


def test_layers_have_attentions_of_their_own():
    made = network(DifferentialAttention(2, 4), layers=3)
    attentions = outermost(made)
    assert [attention.layer for attention in attentions] == [1, 2, 3]
    assert not torch.equal(attentions[0].vectors, attentions[1].vectors)
    without = network(hidden=None)
    assert without.layers[0].feed_forward is None
    assert without.logits(torch.randn(5, 2, 8, 8)).shape == (5, 3)


def test_without_attention_only_the_mean_counts():
    """Under the uniform control the picture's patches could as well trade places."""
    made = network(UniformAttention(), layers=1, hidden=None)
    with torch.no_grad():
        made.positions.zero_()
    images = torch.randn(3, 2, 8, 8)
    turned = torch.cat((images[:, :, 4:], images[:, :, :4]), 2)
    torch.testing.assert_close(made.logits(turned), made.logits(images))


def test_sizes_are_checked():
    with pytest.raises(
        ValueError, match="patch must be a height and a width that divide the side 8"
    ):
        network(patch=(3, 2))
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        network(layers=0)
    with pytest.raises(ValueError, match="attention must have heads 2, got 3"):
        network(ESPAttention(3, 4))
    with pytest.raises(ValueError, match="drops must be ascending shares"):
        AttentionClassifier(network(), 1e-3, 10, drops=(0.9, 0.5))


def trained(attention, steps=60, **settings):
    data, module = Data(), AttentionClassifier(network(attention), 1e-2, steps, **settings)
    module.prepare(Streams(0), {}, data)
    optimizer = module.configure_optimizers()["optimizer"]
    for _ in range(steps):
        optimizer.zero_grad()
        module.loss(data.examples("train")).backward()
        optimizer.step()
    inputs, labels = data.examples("validation")
    return (module.logits(inputs).argmax(1) == labels).float().mean().item(), module


@pytest.mark.parametrize(
    "attention",
    [
        SoftmaxAttention(),
        SinkhornAttention(),
        DifferentialAttention(2, 4),
        ESPAttention(2, 4),
        ESPAttention(2, 4, sorting="lapsum", temperature=0.05),
        DifferentialAttention(2, 4, inner=ESPAttention(2, 2)),
    ],
)
def test_every_attention_learns(attention):
    assert trained(attention)[0] > 0.9


def test_the_loss_is_of_scores_not_of_probabilities():
    """The released sentiment code feeds a softmax to the cross-entropy, whose loss cannot fall
    below log(1 + 2 / e) for three classes."""
    module = trained(SoftmaxAttention(), 150)[1]
    inputs, labels = Data().examples("train")
    assert module.loss((inputs, labels)) < 0.1
    twice = functional.cross_entropy(module.network(inputs).softmax(1), labels)
    assert twice > torch.tensor(1 + 2 / torch.e).log() - 1e-3


def test_the_rate_drops_by_tens():
    module = AttentionClassifier(network(), 0.1, 100, drops=(0.5, 0.9))
    schedule = module.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    assert rates[49::50] == pytest.approx([0.1, 0.001])
    assert rates[50] == pytest.approx(0.01)
    assert rates[89:91] == pytest.approx([0.01, 0.001])


def test_matrices_are_those_values_are_mixed_by():
    made = network(ESPAttention(2, 4, sorting="lapsum", temperature=0.05), layers=2)
    images = torch.randn(3, 2, 8, 8)
    found = matrices(made, lambda: made.logits(images))
    assert [matrix.shape for matrix in found] == [(3, 2, 9, 9)] * 2
    for axis in (2, 3):
        torch.testing.assert_close(found[0].sum(axis), torch.ones(3, 2, 9))
    queries, keys, values = torch.randn(3, 1, 2, 9, 4)
    for attention in (SoftmaxAttention(), ESPAttention(2, 4), SinkhornAttention()):
        mixed = weights(attention, queries, keys) @ values
        torch.testing.assert_close(mixed, attention(queries, keys, values))


def test_diagnostics_name_what_is_wrong_with_a_matrix():
    images = torch.randn(3, 2, 8, 8)

    def of(attention):
        made = network(attention, layers=2)
        return diagnostics(made, lambda: made.logits(images))

    uniform = of(UniformAttention())
    assert uniform["entropy"] == pytest.approx(1.0, abs=1e-6)
    assert uniform["row_defect"] == pytest.approx(0.0, abs=1e-6)
    softmax = of(SoftmaxAttention())
    assert softmax["column_defect"] > 0.01 > softmax["row_defect"]
    assert "effective_slices" not in softmax
    soft = of(ESPAttention(2, 4, tau=0.0))
    assert soft["effective_slices"] == pytest.approx(4.0)
    assert soft["column_defect"] > 1e-3
    hard = of(ESPAttention(2, 4, sorting="hard", tau=1e6))
    assert hard["effective_slices"] == pytest.approx(1.0, abs=0.05)
    assert hard["entropy"] == pytest.approx(0.0, abs=0.05)
    assert hard["column_defect"] < 1e-5
    one, two = (of(ESPAttention(2, 4, temperature=t))["relative_temperature"] for t in (1e-3, 2e-3))
    # The second layer's scores are of what the first made.
    assert two == pytest.approx(2 * one, rel=0.01)
    inner = of(DifferentialAttention(2, 4, inner=ESPAttention(2, 2)))
    assert 1.0 <= inner["effective_slices"] <= 2.0


def test_annealing_is_told_the_share_of_the_steps(monkeypatch):
    attention = ESPAttention(2, 4, temperature=1e-2, final_temperature=1e-4)
    inside = DifferentialAttention(2, 8, inner=attention)
    module = AttentionClassifier(network(inside, head_dimension=8), 1e-2, 10)
    inner = module.network.layers[0].attention.second
    for step, expected in ((0, 1e-2), (6, 1e-3), (9, 1e-4)):
        monkeypatch.setattr(AttentionClassifier, "global_step", step)
        module.on_train_batch_start(None, step)
        assert inner.temperature.item() == pytest.approx(expected)


def test_linear_pixels_learn_what_is_linear():
    data, student = Data(), LinearPixels(examples=60)
    with pytest.raises(RuntimeError, match="call prepare"):
        student.logits(data.inputs)
    student.prepare(Streams(0), {}, data)
    inputs, labels = data.examples("validation")
    assert (student.logits(inputs).argmax(1) == labels).float().mean() > 0.9
    assert student.parameter_count == 3 * 128 + 3


def test_a_fixed_attention_is_drawn_by_seed():
    def drawn(seed):
        student = FixedAttention(ESPAttention(2, 4, slicer="frozen", evaluation="hard"))
        student.prepare(Streams(seed), {}, None)
        return student.attention()

    assert torch.equal(drawn(0).directions, drawn(0).directions)
    assert not torch.equal(drawn(0).directions, drawn(1).directions)
    assert not drawn(0).training
    with pytest.raises(ValueError, match="attention must be made for no length, got 5"):
        FixedAttention(SoftmaxAttention(length=5))
