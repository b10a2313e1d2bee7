"""CovarNav as a whole: what it forgets, what it keeps, what it may see, and `unlearn`."""

import functools
import importlib

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from sextant.contracts import Streams
from sextant.methods.unlearning.covarnav import CovarNav
from sextant.methods.unlearning.inversion import Inversion
from sextant.methods.unlearning.library import METHODS, Report, known_space, unlearn
from sextant.methods.unlearning.problem import (
    Examples,
    NotDeclared,
    PixelSpace,
    Problem,
    forget_accuracy,
)
from sextant.methods.unlearning.wrong_labels import least_probable, second_best
from tests.unlearning_problem import CLASSES, SPACE, images
from tests.unlearning_wider import of_classes, trained_wide

FORGOTTEN, KEPT = 2, (0, 1, 3)
QUICK = Inversion(
    images=60, iterations=80, rate=0.1, batch_norm=0.3, jitter=0, least_accuracy=0.8, progress=False
)
BRIEF = Inversion(images=6, iterations=2, on_poor="warn", least_accuracy=0.0, progress=False)


def never():
    raise AssertionError("retained data was asked for")


def sight_for(method, **changes):
    given = {
        "classes": CLASSES,
        "forget": of_classes(images(60), FORGOTTEN),
        "retain": never,
        "subset": never,
        "forgotten_classes": (FORGOTTEN,),
        "space": SPACE,
    }
    return Problem.of(method.needs, **given | changes)


def run(method, model=None, seed=0, watch=None, **changes):
    model = trained_wide() if model is None else model
    return method(model, sight_for(method, **changes), Streams(seed), watch)


@functools.cache
def results():
    """The three ways to protect, up to 5 % forget accuracy, and unprotected steps beside them."""
    found = {}
    for proxy in ("none", "inverted", "given"):
        method = CovarNav(inversion=QUICK, proxy=proxy, rate=1e-2, stop_at=0.05)
        given = {"subset": of_classes(images(60), *KEPT)} if proxy == "given" else {}
        found[proxy] = run(method, **given)
    return found


def kept_accuracy(model):
    """Of images of the kept classes that are noisier than those of the training."""
    examples = of_classes(images(100, seed=9), *KEPT)
    noise = torch.randn(examples.inputs.shape, generator=torch.Generator().manual_seed(3))
    return forget_accuracy(model, Examples(SPACE.clamp(examples.inputs + noise), examples.labels))


@pytest.mark.parametrize("proxy", ["inverted", "given"])
def test_a_class_is_forgotten_and_the_others_are_kept(proxy):
    navigated, plain = results()[proxy], results()["none"]
    unseen = of_classes(images(100, seed=9), FORGOTTEN)
    assert forget_accuracy(trained_wide(), unseen) > 0.95
    for found in (navigated, plain):
        assert found.report["stopped_by"] == "forget accuracy"
        assert found.report["forget_accuracy"] <= 0.05
        assert forget_accuracy(found.model, unseen) <= 0.05
    original = kept_accuracy(trained_wide())
    assert original > 0.9
    assert kept_accuracy(plain.model) < original - 0.1, "the problem must be one"
    assert kept_accuracy(navigated.model) > kept_accuracy(plain.model) + 0.1


def test_the_report_says_what_moved_and_only_that_moved():
    found = results()["inverted"]
    report, before = found.report, trained_wide().state_dict()
    changed = {
        name
        for name, value in found.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"0.weight", "3.weight", "6.weight", "11.weight", "11.bias"}
    names = {name for name, _ in found.model.named_parameters()}
    assert set(report["frozen"]) == names - changed
    assert report["dimensions"] == {"0": 9, "3": 144, "6": 288, "11": 33}
    assert all(1 <= report["kept"][name] <= width for name, width in report["dimensions"].items())
    assert report["proxy_images"] == 60
    assert set(found.proxy.labels.tolist()) == set(KEPT)
    assert report["inversion"]["own_accuracy"] >= 0.8
    assert report["steps"] == report["epochs"] * 1
    assert [entry["epoch"] for entry in found.curve] == list(range(1, report["epochs"] + 1))
    assert found.curve[-1]["forget_accuracy"] == report["forget_accuracy"]
    assert list(found.seconds) == ["inversion", "covariance", "labels", "updates"]
    assert found.seconds["inversion"] > found.seconds["covariance"] > 0
    assert not found.model.training
    assert all(parameter.requires_grad for parameter in found.model.parameters())


def exact(place, optimizer, dtype=torch.float64):
    """Two protected images leave every layer but the first without full rank."""
    model = trained_wide().to(dtype)
    model[1].train()
    protected = of_classes(images(60), *KEPT)
    protected = Examples(protected.inputs[[0, 100]].to(dtype), protected.labels[[0, 100]])
    forget = of_classes(images(60), FORGOTTEN)
    method = CovarNav(
        proxy="given",
        rule="nscl",
        setting={"factor": 1.0},
        place=place,
        optimizer=optimizer,
        layers=("3", "6", "11"),
        rate=1e-3 if optimizer == "adam" else 3e-3,
        stop_at=0.0,
        epochs=40,
        batch_size=20,
    )
    found = run(
        method,
        model,
        subset=protected,
        forget=Examples(forget.inputs.to(dtype), forget.labels),
    )
    with torch.no_grad():
        drift = (found.model(protected.inputs) - model.eval()(protected.inputs)).abs().max().item()
    return found, drift


@pytest.mark.parametrize(("place", "optimizer"), [("update", "adam"), ("gradient", "sgd")])
def test_protected_images_stay_exactly_where_the_null_space_is_exact(place, optimizer):
    found, drift = exact(place, optimizer)
    assert drift < 1e-10
    assert found.report["forget_accuracy"] < 0.1
    assert found.report["steps"] >= 6
    assert found.report["kept"]["3"] >= 144 - 32


def test_protected_images_stay_in_single_precision_and_move_with_projected_gradients_of_adam():
    assert exact("update", "adam", torch.float32)[1] < 1e-4
    assert exact("gradient", "adam")[1] > 1e-2


def test_one_unprotected_step_is_that_of_the_optimizer():
    """Without a proxy, an epoch of SGD in one batch is the gradient of the mean loss, by hand."""
    model = trained_wide()
    forget = of_classes(images(60), FORGOTTEN)
    labels = second_best(model, forget.inputs, forget.labels)
    loss = nn.functional.cross_entropy(model(forget.inputs), labels)
    moving = {name: p for name, p in model.named_parameters() if name[0] in "0361" and p.ndim > 1}
    moving["11.bias"] = model[11].bias
    gradients = dict(zip(moving, torch.autograd.grad(loss, list(moving.values())), strict=True))
    method = CovarNav(
        proxy="none", optimizer="sgd", momentum=0.0, rate=0.1, epochs=1, batch_size=60
    )
    found = run(method, model)
    assert found.proxy is None
    assert found.curve[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    after = dict(found.model.named_parameters())
    for name, parameter in model.named_parameters():
        expected = parameter.detach().clone()
        if name in gradients:
            expected -= 0.1 * gradients[name]
        torch.testing.assert_close(after[name].detach(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rule", [second_best, least_probable])
def test_wrong_labels_are_those_of_the_first_weights_in_every_epoch(rule, monkeypatch):
    model, forget = trained_wide(), images(15)
    first, later, taught = rule(model, forget.inputs, forget.labels), [], []
    monkeypatch.setattr(
        "sextant.methods.unlearning.covarnav.cross_entropy",
        lambda logits, labels: taught.append(labels.clone()) or cross_entropy(logits, labels),
    )

    def watch(epoch, student):
        later.append(rule(student, forget.inputs, forget.labels))
        return {}

    brief = {"inversion": BRIEF, "epochs": 2, "rate": 1e-2, "stop_at": 0.0}
    method = CovarNav(proxy="none", label_rule=rule.__name__, **brief)
    run(method, model, watch=watch, forget=forget, forgotten_classes=())
    assert len(taught) == 2
    for epoch, labels in enumerate(taught, 1):
        order = torch.randperm(60, generator=Streams(0).generator("covarnav/order", epoch))
        assert torch.equal(labels, first[order])
    assert (later[0] != first).sum() > 10, "other weights must give other labels"


def test_what_is_not_declared_is_not_seen():
    """Every data-free setting runs with retained data that cannot be touched."""
    for proxy in ("inverted", "noise", "none"):
        method = CovarNav(inversion=BRIEF, proxy=proxy, epochs=1)
        assert method.needs.retain == "none"
        run(method)
        with pytest.raises(NotDeclared):
            _ = sight_for(method).retain
    asking = CovarNav(proxy="given", epochs=1)
    assert asking.needs.retain == "subset"
    with pytest.raises(AssertionError, match="retained data was asked for"):
        run(asking)


def test_a_seed_says_everything_and_the_given_model_stays():
    model = trained_wide().train()
    model[4].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    method = CovarNav(inversion=BRIEF, epochs=2, label_rule="random_other", batch_size=16)
    one, again, other = (run(method, model, seed).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["3.weight"], other["3.weight"])
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_watching_joins_the_curve_and_changes_nothing():
    method = CovarNav(inversion=BRIEF, proxy="noise", epochs=3, stop_at=0.0, rate=1e-5)
    seen = []

    def watch(epoch, model):
        seen.append(epoch)
        model.train()
        return {"extra": 2.0 * epoch}

    watched, alone = run(method, watch=watch), run(method)
    assert seen == [1, 2, 3]
    assert [entry["extra"] for entry in watched.curve] == [2.0, 4.0, 6.0]
    assert watched.report["stopped_by"] == "epochs"
    theirs = alone.model.state_dict()
    assert all(torch.equal(theirs[name], one) for name, one in watched.model.state_dict().items())


def test_a_random_subset_protects_all_classes_and_needs_a_place_to_stop():
    forget = Examples(images(60).inputs[::8], images(60).labels[::8])
    subset = {"forget": forget, "forgotten_classes": ()}
    with pytest.raises(ValueError, match="stop_at must be given where a random subset"):
        run(CovarNav(inversion=BRIEF), **subset)
    found = run(CovarNav(inversion=BRIEF, stop_at=0.8, proxy="noise", rate=1e-2), **subset)
    assert set(found.proxy.labels.tolist()) == set(range(CLASSES))
    assert found.report["forget_accuracy"] <= 0.8
    there = run(CovarNav(inversion=BRIEF, stop_at=1.0), **subset)
    assert (there.report["epochs"], there.report["steps"]) == (0, 0)
    assert torch.equal(there.model[3].weight, trained_wide()[3].weight)


def test_settings_are_checked():
    for name in ("proxy", "rule", "place", "label_rule", "optimizer"):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            CovarNav(**{name: "other"})
    for name in ("epochs", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            CovarNav(**{name: 0})
    with pytest.raises(ValueError, match="rate must be positive"):
        CovarNav(rate=0.0)
    with pytest.raises(ValueError, match="momentum must lie in"):
        CovarNav(momentum=1.0)
    with pytest.raises(ValueError, match="stop_at must lie in"):
        CovarNav(stop_at=-0.1)
    with pytest.raises(ValueError, match="'other' is not"):
        run(CovarNav(proxy="none", layers=("other",)))
    with pytest.raises(ValueError, match="space must say how pixels became inputs"):
        run(CovarNav(inversion=BRIEF), space=None)
    with pytest.raises(TypeError, match="energy"):
        run(CovarNav(inversion=BRIEF, proxy="noise", rule="nscl", setting={"energy": 0.5}))


def test_a_residual_network_of_torchvision_unlearns():
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18(num_classes=5)
    inputs = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    forget = TensorDataset(inputs, torch.full((6,), 3))
    layers = ("conv1", "layer1.0.conv1", "layer2.0.downsample.0", "fc")
    few = {"images": 8, "iterations": 2, "least_accuracy": 0.0}
    found = unlearn(model, forget, inversion=few, layers=layers, epochs=2, stop_at=0.0, space=None)
    assert set(found.proxy.labels.tolist()) == {0, 1, 2, 4}
    assert found.report["inversion"]["batch_norm_layers"] == 20
    assert list(found.report["kept"]) == list(layers)
    assert "bn1.weight" in found.report["frozen"]
    assert "layer1.1.conv1.weight" in found.report["frozen"]
    page = str(found.report)
    assert "layer2.0.downsample.0" in page
    assert f" of {found.report['dimensions']['fc']} (" in page
    assert "stopped by: " in page
    assert all(len(line) < 200 for line in page.splitlines())


def test_a_transformer_of_timm_unlearns_in_the_space_it_names():
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=8,
            embed_dim=16,
            depth=2,
            num_heads=2,
            num_classes=4,
        )
    space = PixelSpace(tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))
    pixels = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = space.to_inputs(pixels)
    assert known_space(model, inputs) == space
    assert known_space(model, pixels) == PixelSpace((0.0,) * 3, (1.0,) * 3)
    assert known_space(model, inputs * 3) is None
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    few = {"images": 8, "iterations": 2, "least_accuracy": 0.0}
    found = unlearn(model, (inputs, labels), inversion=few, epochs=2, stop_at=0.0, rate=1e-2)
    assert found.report["inversion"]["batch_norm_layers"] == 0
    assert {"patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc2", "head"} <= set(
        found.report["kept"]
    )
    assert {"pos_embed", "cls_token", "blocks.0.norm1.weight"} <= set(found.report["frozen"])
    assert not torch.equal(found.model.head.weight, model.head.weight)
    again = unlearn(model, (inputs, labels), inversion=few, epochs=2, stop_at=0.0, rate=1e-2)
    assert torch.equal(found.model.head.weight, again.model.head.weight)


@pytest.mark.parametrize("name", METHODS)
def test_every_named_method_is_there(name):
    module, _, kind = METHODS[name].partition(":")
    found = getattr(importlib.import_module(f"sextant.methods.unlearning.{module}"), kind)
    assert callable(found)
    assert hasattr(found, "needs")


def test_unlearn_hands_over_what_a_method_asks_for_and_nothing_else():
    model, forget = trained_wide(), of_classes(images(20), FORGOTTEN)

    class Untouchable:
        def __len__(self):
            return never()

        __getitem__ = __len__

    shrunk = unlearn(
        model, forget, "boundary_shrink", space=SPACE, retained=Untouchable(), epochs=1
    )
    assert isinstance(shrunk.report, Report)
    assert "epochs: 1" in str(shrunk.report)
    with pytest.raises(AssertionError, match="retained data"):
        unlearn(model, forget, "finetune", retained=Untouchable(), epochs=1)
    seen = []
    kept = of_classes(images(20), *KEPT)
    unlearn(
        model,
        forget,
        "finetune",
        retained=(kept.inputs, kept.labels),
        epochs=2,
        watch=lambda epoch, student: seen.append(epoch) or {},
        progress=False,
    )
    assert seen == [1, 2]


def many_classes(classes):
    """A linear classifier of 2 x 2 grey pixels, and pictures of its first class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes)).eval()
    pictures = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return model, (pictures, torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize("proxy", ["inverted", "noise"])
def test_every_retained_class_is_protected_or_it_is_said(proxy):
    model, forget = many_classes(50)
    few = {"images": 9, "iterations": 1, "least_accuracy": 0.0}
    with pytest.raises(ValueError, match="must be at least 49, one for each retained class, got 9"):
        unlearn(model, forget, inversion=few, proxy=proxy)
    with pytest.raises(ValueError, match="must be at least 49, one for each retained class, got 9"):
        unlearn(model, forget, CovarNav(inversion=Inversion(**few), proxy=proxy))
    enough = unlearn(model, forget, inversion=few | {"images": 49}, proxy=proxy, epochs=1)
    assert enough.proxy.labels.unique().tolist() == list(range(1, 50))
    unlearn(model, forget, inversion=few, proxy="none", epochs=1)


def test_images_that_nobody_counted_are_at_least_one_of_each_retained_class():
    model, forget = many_classes(300)
    quick = {"iterations": 1, "least_accuracy": 0.0}
    found = unlearn(model, forget, inversion=quick, epochs=1)
    assert found.proxy.labels.tolist() == list(range(1, 300))


def test_unlearn_refuses_what_it_cannot_use():
    model, forget = trained_wide(), of_classes(images(4), FORGOTTEN)
    with pytest.raises(ValueError, match="method must be one of covarnav"):
        unlearn(model, forget, "magic")
    with pytest.raises(ValueError, match=r"labels in 0\.\.3, the model's logits, got 7\.\.7"):
        unlearn(model, (forget.inputs, torch.full((4,), 7)))
    with pytest.raises(ValueError, match="forget_set must hold at least one"):
        unlearn(model, (forget.inputs[:0], forget.labels[:0]))
    with pytest.raises(TypeError, match="forget_set must be a data set"):
        unlearn(model, 3)
    with pytest.raises(TypeError, match="must give inputs as tensors"):
        unlearn(model, [("picture", 1)])
    with pytest.raises(TypeError, match="settings must be those of a named method"):
        unlearn(model, forget, CovarNav(), epochs=3)
    with pytest.raises(ValueError, match="retain"):
        unlearn(model, forget, "finetune")
