"""The benchmark of ESP attention runs, and its forms compute the same."""

from __future__ import annotations

import torch

from sextant.methods.attention.esp import ESPAttention


def test_both_parts_are_measured_and_saved(load, tmp_path):
    benchmark = load("esp_attention")
    path = tmp_path / "saved.md"
    words = "--forms 20 --lengths 8 16 --repeats 3 --save"
    benchmark.main([*words.split(), str(path)])
    text = path.read_text()
    assert text.count("## Soft sorting, N = 20") == 1
    assert text.count("## Time over softmax's") == 2
    lines = [line for line in text.splitlines() if line.startswith("| 16 |")]
    assert len(lines) == 2
    assert len(lines[0].split("|")) == 2 + 8


def test_the_forms_are_one_attention(load):
    benchmark = load("esp_attention")
    tensors = benchmark.inputs(40)
    expected = ESPAttention(benchmark.HEADS, benchmark.WIDTH)(*tensors)
    for name in ("through_plans", "through_ranks", "through_spectra"):
        form = getattr(benchmark.expected_forms, name)
        found = benchmark.in_form(form, lambda n: n * n)(*tensors)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    # The reference differs in its costs alone: unsquared, and summed.
    code = ESPAttention(
        benchmark.HEADS, benchmark.WIDTH, tau=10.0, cost_power=1, tokens_times_tau=True
    )
    torch.testing.assert_close(benchmark.dense(*tensors), code(*tensors), rtol=1e-3, atol=1e-4)
