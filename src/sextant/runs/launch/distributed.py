"""One run over several processes: data-parallel training under SLURM, on one node or more.

SLURM starts the processes; process 0 is the run, and owns its folder, its line in the ledger and
its place in the queue. The others train with it from a folder of their own, which goes when they
end. Each takes its share of every batch and gradients are averaged, so the weights are those of one
process up to rounding where the loss is a mean over examples; a loss that looks across the batch
(a coupling, a contrast, batch normalisation) sees a share alone.

Lightning's own handlers of SIGTERM speak to the other processes from inside the handler, and a
process that stopped alone would leave the others waiting. So a thread takes the signals here, and
before each step the processes agree whether one of them was asked to stop: then all do, after the
same step.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from torch.utils import _pytree as pytree

from sextant.errors import UserError
from sextant.runs.context import RunContext
from sextant.runs.execute import execute
from sextant.runs.spec import RunSpec
from sextant.runs.store import RunFolder, open_folder
from sextant.runs.training import Interrupted
from sextant.runs.worker import output_to

STRATEGY = "sextant_shared_batches"


class Notice:
    """Whether this process was asked to stop, taken by a thread so that no handler has to run."""

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self.signals = set(signals)
        self.asked = threading.Event()
        self.training = False

    @contextmanager
    def listening(self) -> Iterator[Notice]:
        signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        threading.Thread(target=self._wait, daemon=True).start()
        yield self

    def _wait(self) -> None:
        signal.sigwait(self.signals)
        self.asked.set()
        if not self.training:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


class SharedBatches(DDPStrategy):
    """Gives each process its share of every batch, and stops all of them after the same step."""

    def __init__(self, notice: Notice) -> None:
        super().__init__(cluster_environment=SLURMEnvironment(auto_requeue=False))
        self.notice = notice

    def batch_to_device(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        self.notice.training = True
        asked = torch.tensor(int(self.notice.asked.is_set()), device=self.root_device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        if asked.item():
            signal.raise_signal(signal.SIGINT)
        share = share_of(batch, self.global_rank, self.world_size)
        return super().batch_to_device(share, device, dataloader_idx)

    def teardown(self) -> None:
        self.notice.training = False
        super().teardown()


def share_of(batch: Any, process: int, processes: int) -> Any:
    """The examples of a batch that fall to one process; what is no batch of examples stays whole.

    Raises:
        UserError: where the examples cannot be shared equally, which would weigh some of them more.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(batch) if _has_examples(leaf)]
    if not leaves:
        return batch
    count = len(leaves[0])
    if count % processes:
        raise UserError(
            f"a batch of {count} examples cannot be shared equally by {processes} processes; "
            "change processes_per_node or nodes in conf/trainer"
        )
    size = count // processes

    def share(leaf: Any) -> Any:
        if not (_has_examples(leaf) and len(leaf) == count):
            return leaf
        return leaf[process * size : (process + 1) * size]

    return pytree.tree_map(share, batch)


def _has_examples(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0


def share_batches(context: RunContext, notice: Notice) -> RunContext:
    """Makes Lightning use `SharedBatches` on all processes, and says so in the context."""
    StrategyRegistry.register(STRATEGY, SharedBatches, override=True, notice=notice)
    # Lightning takes what its Trainer is not told from variables of this name.
    os.environ["PL_TRAINER_STRATEGY"] = STRATEGY
    os.environ["PL_TRAINER_NUM_NODES"] = str(context.nodes)
    # A batch belongs to a step, whoever draws it; the strategy shares it afterwards.
    os.environ["PL_TRAINER_USE_DISTRIBUTED_SAMPLER"] = "False"
    devices = context.processes // context.nodes
    return replace(context, trainer={**context.trainer, "devices": devices})


def train_as_follower(spec: RunSpec, process: int, context: RunContext) -> None:
    """What every process but the first does: trains with it, and keeps nothing."""
    run = RunFolder(context.runs / spec.run_id)
    root = run.path / "processes" / str(process)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for member in spec.lineage():
        if member.run_id != spec.run_id:
            (root / member.run_id).symlink_to((context.runs / member.run_id).resolve())
    along = replace(context, runs=root, ledger=root / "ledger", logger={"kind": "csv"})
    folder = open_folder(root, spec)
    if run.code.is_file():  # else the checkpoint would count as one of unknown code
        shutil.copyfile(run.code, folder.code)
    if run.checkpoint.is_file():
        # Process 0 writes no newer one before all of them have begun.
        folder.checkpoint.symlink_to(run.checkpoint.resolve())
    try:
        with output_to(run.path / f"log.{process}.txt"):
            # The first process alone keeps the time; two clocks would stop at two steps.
            execute(replace(spec, time_limit=None), along)
    except (Interrupted, KeyboardInterrupt, SystemExit):
        pass  # the first process goes back to the queue for all of them
    finally:
        shutil.rmtree(root, ignore_errors=True)
