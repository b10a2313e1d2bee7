"""Carries out runs with whatever version of the code is imported, to compare versions.

Called as a script, with PYTHONPATH naming the version: `python -P twins.py JOBS FOLDER ROOT`. JOBS
is a JSON list of frozen runs; for each, a line of JSON says how it ended, what it scored and a
digest of its weights. It must stay able to drive the oldest code that a ledger tells of.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "checkpoint_seconds": 1e9,
    "checkpoint_steps": None,
    "log_every": 50,
}


def carry_out(frozen: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """One run and the parents it starts from; what was carried out before is not done again."""
    from sextant.runs.execute import execute
    from sextant.runs.spec import RunSpec

    try:
        from sextant.runs.context import RunContext
    except ImportError:  # as it was called in code of before
        from sextant.runs.surroundings import Surroundings as RunContext

    context = RunContext(root, folder / "runs", folder / "ledger", TRAINER)
    spec = RunSpec.from_json(frozen)
    record: Mapping[str, Any] = {}
    for member in spec.lineage():
        record = execute(member, context)
        if record["status"] != "done":
            break
    return {
        "run_id": spec.run_id,
        "status": record["status"],
        "reason": record.get("reason"),
        "message": record.get("message"),
        "scores": record["scores"],
        "weights": digest_of_weights(folder / "runs" / spec.run_id / "student.pt"),
    }


def digest_of_weights(path: Path) -> str | None:
    """16 hexadecimal digits over a student's tensors in their order, whatever they are called; what
    it keeps of its own seconds does not count."""
    import torch

    if not path.is_file():
        return None
    digest = hashlib.sha256()
    for value in _untimed(torch.load(path, map_location="cpu", weights_only=True)):
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:16]


def _untimed(state: Any) -> Iterator[Any]:
    """The leaves of a state whose names do not speak of seconds."""
    if isinstance(state, Mapping):
        for name, value in state.items():
            if "seconds" not in str(name):
                yield from _untimed(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _untimed(value)
    else:
        yield state


def main(jobs: Path, folder: Path, root: Path) -> None:
    """Carries out every job, telling of each as it ends."""
    import torch

    torch.set_num_threads(1)
    told, sys.stdout = sys.stdout, sys.stderr  # what runs print is no answer
    for frozen in json.loads(jobs.read_text()):
        try:
            answer = carry_out(frozen, folder, root)
        except Exception as error:
            answer = {"run_id": frozen["run_id"], "refused": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=told, flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
