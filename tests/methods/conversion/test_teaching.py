"""Teaching a map the rows of softmax."""

from __future__ import annotations

import pytest
import torch

from sextant.conversion import convert
from sextant.methods.conversion.teaching import (
    RowLesson,
    cross_entropy,
    lesson,
    map_parameters,
    start_from_softmax,
)
from tests.methods.conversion.models import encoder, picture_model, sentences


def test_cross_entropy_is_at_least_the_teachers_entropy():
    rows = torch.rand(2, 3, 4, 5).softmax(-1)
    entropy = -(rows * rows.log()).sum(-1)
    torch.testing.assert_close(cross_entropy(rows, rows), entropy)
    assert (cross_entropy(rows, rows.flip(-1)) >= entropy - 1e-6).all()


def test_padded_queries_teach_nothing():
    taken, other = RowLesson(), RowLesson()
    teacher, student = torch.rand(2, 2, 3, 4, 4).softmax(-1)
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    taken.take(teacher, student, mask)
    changed = student.clone()
    changed[1, :, 2:] = 0.25
    other.take(teacher, changed, mask)
    assert torch.equal(taken.loss(), other.loss())
    with pytest.raises(ValueError, match="none was"):
        RowLesson().loss()


@pytest.mark.parametrize("name", ["luna", "hedgehog", "t2r"])
def test_only_maps_are_taught_and_rows_come_nearer(name):
    torch.manual_seed(0)
    batch, converted = sentences(), convert(encoder(), name)
    before = {key: tensor.clone() for key, tensor in converted.state_dict().items()}
    optimizer = torch.optim.Adam(map_parameters(converted), 1e-2)
    losses = []
    for _ in range(25):
        with lesson(converted) as taken:
            converted(**batch)
        optimizer.zero_grad()
        taken.loss().backward()
        optimizer.step()
        losses.append(taken.loss().item())
    assert losses[-1] < losses[0] - 0.01
    for key, tensor in converted.state_dict().items():
        assert torch.equal(tensor, before[key]) == (".converted." not in key)
    # What the layers hand on is softmax's, so that the answers inside a lesson are the model's.
    with lesson(converted):
        inside = converted(**batch).logits
    torch.testing.assert_close(inside, encoder()(**batch).logits, atol=1e-6, rtol=1e-5)


def test_a_start_from_softmax_is_nearer_to_the_model():
    torch.manual_seed(0)
    pictures, model = torch.randn(4, 3, 16, 16), picture_model()
    converted = convert(model, "luna", features=32, channels=4)
    with lesson(converted) as first:
        converted(pictures)
    start_from_softmax(converted, steps=60)
    with lesson(converted) as second:
        converted(pictures)
    assert second.loss() < first.loss()
    with pytest.raises(ValueError, match="must be converted to luna"):
        start_from_softmax(convert(model, "hedgehog"))
