"""The benchmark of conversions, on a few tokens."""


def test_it_shows_times_peaks_and_the_cost_of_converting(load, tmp_path, monkeypatch):
    conversion = load("conversion")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setitem(conversion.SIZES, "small", small | {"intermediate_size": 16})
    path = tmp_path / "costs.md"
    words = ["--attentions", "luna", "cosformer", "--lengths", "8", "16", "--repeats", "1"]
    conversion.main([*words, "--save", str(path)])
    text = path.read_text()
    assert "| 8 |" in text
    assert "luna / softmax" in text
    assert "Peak, MB" in text
    assert "Converting, s" in text
    assert "| cosformer |" in text
