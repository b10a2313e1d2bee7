"""Image networks and the modules that train them."""

import pytest
import torch
from torch.utils.data import DataLoader

from sextant.contracts import Autoencoder, Classifier, StepBatches, Streams
from sextant.methods.backbones.autoencoder import ConvAutoencoder
from sextant.methods.backbones.classifier import ConvClassifier
from sextant.methods.backbones.supervised import RecognitionModule, ReconstructionModule
from sextant.methods.backbones.training import Adam, cosine, stop_if_diverged
from tests.fitting import quiet_fit

STREAMS, STEPS = Streams(2), 30


def draw(step):
    """Bright squares in one of four corners, and which corner."""
    generator = STREAMS.generator("batch", step)
    labels = torch.randint(4, (16,), generator=generator)
    images = 0.1 * torch.rand(16, 1, 28, 28, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 14 * (label // 2), 14 * (label % 2)
        image[:, row + 3 : row + 11, column + 3 : column + 11] += 0.8
    return images, labels


def build(kind, steps=STEPS):
    torch.manual_seed(0)
    if kind == "reconstruction":
        return ReconstructionModule(ConvAutoencoder(latent=4), 3e-3, steps)
    return RecognitionModule(ConvClassifier(classes=4, width=4), 5e-3, steps)


def fit(module, steps=STEPS, first_step=0, checkpoint=None):
    module.prepare(STREAMS, {}, None)
    loader = DataLoader(StepBatches(draw, first_step, STEPS), batch_size=None)
    return quiet_fit(module, loader, steps, checkpoint)


def test_a_classifier_learns_corners():
    module = build("recognition")
    fit(module)
    images, labels = draw(1000)
    assert isinstance(module, Classifier)
    logits, features = module.logits(images), module.features(images)
    assert logits.shape == (16, 4)
    assert features.shape == (16, 64)
    assert (logits.argmax(1) == labels).double().mean() > 0.95
    torch.testing.assert_close(module.network.head(features), logits)
    assert not logits.requires_grad


def test_an_autoencoder_learns_corners():
    module = build("reconstruction")
    images, labels = draw(1000)
    before = module.loss((images, labels)).item()
    fit(module)
    assert isinstance(module, Autoencoder)
    codes = module.encode(images)
    rebuilt = module.decode(codes)
    assert codes.shape == (16, 4)
    assert rebuilt.shape == images.shape
    assert 0 <= rebuilt.min() <= rebuilt.max() <= 1
    after = (rebuilt - images).square().mean().item()
    assert after < 0.5 * before
    assert module.loss(images).item() == pytest.approx(after, rel=1e-5)
    assert module.loss((images,)).item() == pytest.approx(after, rel=1e-5)


@pytest.mark.parametrize("kind", ["reconstruction", "recognition"])
def test_resumed_equals_undisturbed(kind, tmp_path):
    whole, first, second = build(kind, 4), build(kind, 4), build(kind, 4)
    fit(whole, steps=4)
    fit(first, steps=2).save_checkpoint(tmp_path / "last.ckpt")
    trainer = fit(second, steps=4, first_step=2, checkpoint=tmp_path / "last.ckpt")
    assert module_loss(trainer) >= 0
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def module_loss(trainer):
    return trainer.lightning_module.loss(draw(0)).item()


def test_answers_in_chunks(monkeypatch):
    module = build("recognition")
    images, _ = draw(0)
    whole = module.logits(images)
    monkeypatch.setattr("sextant.methods.backbones.supervised.CHUNK", 5)
    torch.testing.assert_close(module.logits(images), whole)
    assert module.network.training


def test_networks_hold_no_batch_norm():
    for network in (ConvAutoencoder(), ConvClassifier()):
        assert not any(
            isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.modules()
        )


def test_cosine():
    assert cosine(0, 10) == 1.0
    assert cosine(5, 10) == pytest.approx(0.5)
    assert cosine(10, 10) == pytest.approx(0.0, abs=1e-15) == cosine(99, 10)


def test_adam_is_torchs():
    start = torch.randn(4, 3)
    networks = []
    for kind in (Adam, torch.optim.Adam):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=1e-2, fused=True)
        for step in range(3):
            parameter.grad = torch.full_like(start, step + 0.5)
            optimizer.step()
        networks.append(parameter.detach())
    assert torch.equal(*networks)


def test_divergence_is_named():
    stop_if_diverged(torch.tensor(1.0), 3, 10)
    for bad in ("nan", "inf"):
        with pytest.raises(FloatingPointError, match="diverged at step 3"):
            stop_if_diverged(torch.tensor(float(bad)), 3, 10)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="images must be"):
        ConvAutoencoder().encode(torch.rand(2, 28, 28))
    with pytest.raises(ValueError, match="codes must be"):
        ConvAutoencoder(6).decode(torch.rand(2, 5))
    with pytest.raises(ValueError, match="images must be"):
        ConvClassifier().logits(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match="latent"):
        ConvAutoencoder(0)
    with pytest.raises(ValueError, match="classes"):
        ConvClassifier(1)
    with pytest.raises(ValueError, match="width"):
        ConvClassifier(width=0)
    with pytest.raises(ValueError, match="learning_rate"):
        RecognitionModule(ConvClassifier(), -1.0, 3)
    with pytest.raises(ValueError, match="steps"):
        RecognitionModule(ConvClassifier(), 1.0, 0)
