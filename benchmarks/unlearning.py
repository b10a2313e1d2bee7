"""Times what CovarNav does to a ResNet-18 in parts, and whole against training a network again.

Run `python benchmarks/unlearning.py --help`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time

import torch
from memory import peak_megabytes
from showing import Shown, show, table_of
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18
from unlearning_whole import whole

from sextant.methods.unlearning.covariance import feature_covariances, stream_covariances
from sextant.methods.unlearning.projected import ProjectedStep
from sextant.methods.unlearning.projectors import Projector, Spectrum
from sextant.runs.provenance import hardware

EPILOG = """
One process, contestants taking turns, medians. With one CPU thread times are those this thread had
the processor, so that other load disturbs little but the caches; else they are of the wall clock.
Images are uniform noise, which costs what photos cost. "peak" is what a call needs beyond what was
held before (Linux and CUDA only).

covariance: Z^T Z of all 21 convolutions and linear layers, forward passes included, against patches
of `F.unfold` multiplied in float64 or float32; sums over batches are float64 in all. "error" is the
largest difference from unfold in float64, relative to the largest entry, at the worst layer. "one
at a time" hands each covariance over as soon as it is made, as for eigenvectors.
eigenvectors: of each width of the network in float64, up to --widest (4608 takes minutes).
step: forward, backward and Adam, against the same with projected updates; "half" keeps half of the
directions of every layer, the most costly number there is.
whole: CovarNav, that is inversion, covariance with eigenvectors, labels and updates, against
training without the class, for an All-CNN of half width and ten classes of noisy patterns.
Processor time, all threads together, so on a CPU alone. Patterns are learnt and forgotten sooner
than photos: steps of inversion and training are set by the options, epochs of forgetting are not.
"""

PARTS = ("covariance", "eigenvectors", "step", "whole")


def network(size: int) -> nn.Module:
    """torchvision's ResNet-18 with 10 classes; the CIFAR stem for images below 112 pixels."""
    model = resnet18(num_classes=10)
    if size < 112:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model.eval()


def unfolded(model: nn.Module, batches: list[Tensor], precision: torch.dtype) -> dict[str, Tensor]:
    """The reference: all patches of a batch as a matrix, times itself."""
    sums: dict[str, Tensor] = {}
    rows: Counter[str] = Counter()

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, arguments: tuple[Tensor]) -> None:
            inputs = arguments[0]
            if isinstance(layer, nn.Conv2d):
                made = functional.unfold(
                    inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride
                )
                made = made.transpose(1, 2).flatten(0, 1).to(precision)
            else:
                made = torch.cat((inputs, torch.ones_like(inputs[:, :1])), 1).to(precision)
            product = (made.T @ made).double()
            sums[name] = sums[name].add_(product) if name in sums else product
            rows[name] += len(made)

        return hook

    hooks = [
        layer.register_forward_pre_hook(watch(name))
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return {name: total / rows[name] for name, total in sums.items()}


def ours(model: nn.Module, batches: list[Tensor], precision: torch.dtype) -> dict[str, Tensor]:
    """All covariances at once."""
    found = feature_covariances(model, batches, precision=precision)
    return {name: one.matrix for name, one in found.items()}


def exhaust(pairs: Iterator[object]) -> None:
    """Asks for everything and keeps nothing."""
    for _ in pairs:
        pass


class Clock:
    """Seconds of a call on the device in use."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.cuda = device.type == "cuda"
        self.now = thread_time if threads == 1 and not self.cuda else perf_counter

    def seconds(self, call: Callable[[], object]) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        start = self.now()
        call()
        if self.cuda:
            torch.cuda.synchronize()
        return self.now() - start

    def medians(self, calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
        """Median seconds of each call, taking turns."""
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                seconds[name].append(self.seconds(call))
        return {name: median(values) for name, values in seconds.items()}

    def peak_megabytes(self, call: Callable[[], object]) -> str:
        """Memory a call needs at its peak beyond what is held before; "" where not known."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"
        peak = peak_megabytes(call)
        return "" if peak is None else f"{peak:.0f}"


def covariance(
    clock: Clock, model: nn.Module, batches: list[Tensor], repeats: int
) -> Iterator[Shown]:
    """Time, memory and error of the covariances."""

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                model(batch)

    exact = unfolded(model, batches, torch.float64)
    errors: dict[str, str] = {}

    def compared(name: str, make: Callable[[], dict[str, Tensor]]) -> None:
        found = make()
        worst = max(
            ((found.pop(layer) - one).abs().max() / one.abs().max()).item()
            for layer, one in exact.items()
        )
        errors[name] = f"{worst:.0e}"

    makers: dict[str, Callable[[], dict[str, Tensor]]] = {
        "unfold, float64": lambda: unfolded(model, batches, torch.float64),
        "unfold, float32": lambda: unfolded(model, batches, torch.float32),
        "feature_covariances, float64": lambda: ours(model, batches, torch.float64),
        "feature_covariances, float32": lambda: ours(model, batches, torch.float32),
    }
    calls: dict[str, Callable[[], object]] = {
        "forward passes alone": forward,
        **makers,
        "float64, one at a time": lambda: exhaust(stream_covariances(model, batches)),
    }
    for name, make in makers.items():
        compared(name, make)
    exact.clear()
    peaks = {name: clock.peak_megabytes(call) for name, call in calls.items()}
    seconds = clock.medians(calls, repeats)
    count, size = sum(len(batch) for batch in batches), batches[0].shape[-1]
    table = table_of(
        f"Covariances, {count} images of {size} pixels, batches of {len(batches[0])}",
        "way",
        ["s", "unfold f64 / it", "unfold f32 / it", "peak MB", "error"],
    )
    for name in calls:
        table.add_row(
            name,
            f"{seconds[name]:.2f}",
            f"{seconds['unfold, float64'] / seconds[name]:.2f}",
            f"{seconds['unfold, float32'] / seconds[name]:.2f}",
            peaks[name],
            errors.get(name, ""),
        )
    yield table


def eigenvectors(
    clock: Clock, model: nn.Module, widest: int, device: torch.device
) -> Iterator[Shown]:
    """Time of eigenvectors by width, and of all layers."""
    widths = Counter(
        layer.weight[0].numel() + (isinstance(layer, nn.Linear) and layer.bias is not None)
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    )
    table = table_of("Eigenvectors, float64", "width", ["layers", "s a layer", "s of all", "MB"])
    total = 0.0
    for width, layers in sorted(widths.items()):
        if width > widest:
            table.add_row(str(width), str(layers), "", "", "")
            continue
        rows = torch.rand(2 * width, width, dtype=torch.float64, device=device)
        matrix = rows.T @ rows / len(rows)
        del rows
        seconds = clock.seconds(lambda of=matrix: Spectrum.of(of))
        peak = clock.peak_megabytes(lambda of=matrix: Spectrum.of(of))
        total += layers * seconds
        table.add_row(str(width), str(layers), f"{seconds:.3f}", f"{layers * seconds:.2f}", peak)
    table.add_row("all above", "", "", f"{total:.2f}", "")
    yield table


def random_projectors(model: nn.Module, share: float) -> dict[str, Projector]:
    """Projectors that keep a share of the directions of every layer, drawn at random."""
    made = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        width = layer.weight[0].numel()
        kept = max(1, round(share * width))
        form, columns = ("keep", kept) if 2 * kept <= width else ("remove", width - kept)
        # What a step costs does not depend on the columns being orthonormal.
        basis = torch.randn(width, columns, device=layer.weight.device) / width**0.5
        made[name] = Projector(basis, form)
    return made


def step(
    clock: Clock, size: int, batch: int, repeats: int, device: torch.device
) -> Iterator[Shown]:
    """A training step as it is and projected."""
    images = torch.rand(batch, 3, size, size, device=device)
    labels = torch.randint(10, (batch,), device=device)
    calls: dict[str, Callable[[], object]] = {}
    updates: dict[str, Callable[[], object]] = {}

    def training(model: nn.Module, update: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            for parameter in model.parameters():
                parameter.grad = None
            functional.cross_entropy(model(images), labels).backward()
            update()

        return call

    for name, share in (
        ("plain Adam", None),
        ("a tenth", 0.1),
        ("half", 0.5),
        ("nine tenths", 0.9),
    ):
        model = network(size).to(device)
        # As the projected contestants: biases and norms rest, the weights of layers move.
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim > 1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-6)
        update = optimizer.step
        if share is not None:
            update = ProjectedStep(model, random_projectors(model, share), optimizer).step
        calls[name], updates[name] = training(model, update), update
        calls[name]()
    seconds = clock.medians(calls, repeats)
    alone = clock.medians(updates, repeats)
    table = table_of(
        f"Step, batch {batch} of {size} pixels",
        "directions kept",
        ["ms", "of plain Adam's", "update alone, ms"],
    )
    for name in calls:
        table.add_row(
            name,
            f"{1e3 * seconds[name]:.0f}",
            f"{seconds[name] / seconds['plain Adam']:.2f}",
            f"{1e3 * alone[name]:.0f}",
        )
    yield table


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts")
    parser.add_argument("--images", type=int, default=256, help="that covariances are of")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch")
    parser.add_argument("--size", type=int, default=32, help="pixels; 224 takes torchvision's stem")
    parser.add_argument("--widest", type=int, default=2304, help="eigenvectors: largest width")
    parser.add_argument("--each", type=int, default=400, help="whole: images of a class")
    parser.add_argument("--training", type=int, default=6, help="whole: epochs of training")
    parser.add_argument("--inverted", type=int, default=180, help="whole: images to protect")
    parser.add_argument("--inversion", type=int, default=150, help="whole: steps of inversion")
    parser.add_argument("--whole-size", type=int, default=16, help="whole: pixels")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each contestant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", type=Path, help="a markdown file for what is printed")
    asked = parser.parse_args(words)
    if asked.device != "cpu" and "whole" in asked.only:
        if asked.only is not PARTS:
            parser.error("whole counts processor time: it needs --device cpu")
        asked.only = PARTS[:-1]
    return asked


def measured(asked: argparse.Namespace) -> Iterator[Shown]:
    """The parts that were asked for, one after another."""
    device = torch.device(asked.device)
    clock, model = Clock(device, asked.threads), network(asked.size).to(device)
    images = torch.rand(asked.images, 3, asked.size, asked.size, device=device)
    batches = list(images.split(asked.batch))
    parts = {
        "covariance": lambda: covariance(clock, model, batches, asked.repeats),
        "eigenvectors": lambda: eigenvectors(clock, model, asked.widest, device),
        "step": lambda: step(clock, asked.size, asked.batch, asked.repeats, device),
        "whole": lambda: whole(
            asked.whole_size, asked.each, asked.training, asked.inverted, asked.inversion
        ),
    }
    for name in PARTS:
        if name in asked.only:
            yield from parts[name]()


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints and, where it is asked for, saves the tables."""
    asked = parse(words)
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    where = hardware("cpu")["cpu"] if asked.device == "cpu" else torch.cuda.get_device_name()
    machine = f"{where}, {asked.threads} CPU threads, torch {torch.__version__}."
    show(measured(asked), f"# What CovarNav costs\n\n{machine}\n{EPILOG}", asked.save)


if __name__ == "__main__":
    main()
