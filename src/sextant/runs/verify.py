"""Shows that changed code still makes the results it made before.

For every pair (code that made results, today's code) one twin a combination of classes is carried
out twice on this machine, with the code of a commit that made the results and with today's code.
Where untimed scores and weights agree to the last bit, the pair is attested and its results are no
longer stale. Twins are runs at tier smoke, and a few of the cheapest real ones, since some branches
open only at size. Numbers of two machines are never compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Any

from sextant.errors import UserError
from sextant.runs import code, provenance, twins
from sextant.runs.code import Edge, Sources
from sextant.runs.compose import Composer
from sextant.runs.history import History
from sextant.runs.migrations import Migrations, migrate_frozen
from sextant.runs.spec import RunSpec

Record = Mapping[str, Any]
Answer = Mapping[str, Any]
BATCH = 24  # today's twins go to several processes, so that both cores work to the end
NOW = "now"
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Twin:
    """One run, frozen as the old code and as today's code read it."""

    title: str
    before: Mapping[str, Any]
    now: Mapping[str, Any]


@dataclass
class Pair:
    """Two codes and the twins that compare them."""

    old: str
    new: str
    runs: int
    twins: list[Twin] = field(default_factory=list)
    commit: str = ""
    settled: bool = False


@dataclass
class Findings:
    """What a verification found: pairs that agree, sentences on twins that differ, and sentences
    on what could not be compared."""

    equal: list[Edge] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def pairs_of(
    records: Mapping[str, Record],
    ledger: Path,
    composer: Composer,
    migrations: Migrations,
    sample: int,
) -> tuple[list[Pair], list[str]]:
    """The pairs that need twins, the twins, and sentences on runs that can have none.

    Args:
        records: the ledger lines to look at.
        sample: how many real small runs, the cheapest ones, are twins too.
    """
    old_runs = code.stale(records, ledger)
    sources = Sources(ledger.parent / code.CACHE)
    pairs: dict[Edge, Pair] = {}
    seen: set[tuple[Any, ...]] = set()
    unknown: dict[str, int] = {}
    cheapest: list[tuple[float, Record, Pair]] = []
    for run_id in sorted(old_runs):
        record = records[run_id]
        edge = (record["provenance"]["code"], code.digest_of(sources.of(record["spec"])))
        pair = pairs.setdefault(edge, Pair(*edge, 0))
        pair.runs += 1
        if record["status"] == "done" and not record["parents"] and record["tier"] == "small":
            cheapest.append((record["seconds"], record, pair))
        classes = (edge, tuple(sorted(set(code.targets_of(record["spec"])))))
        if classes in seen:
            continue
        seen.add(classes)
        try:
            spec = composer.spec(record["task"], record["method"], "smoke", 0)
        except UserError as problem:
            unknown[f"{record['task']} by {record['method']}: {problem}"] = 1
            continue
        pair.twins.append(_twin(spec, record, migrations))
    taken: set[str] = set()
    for _, record, pair in sorted(cheapest, key=lambda entry: entry[0]):
        if len(taken) < sample and pair.new not in taken:
            taken.add(pair.new)
            spec = RunSpec(
                record["task"], record["method"], record["tier"], record["seed"], record["spec"]
            )
            pair.twins.append(_twin(spec, record, migrations))
    return [pair for pair in pairs.values() if pair.twins], list(unknown)


def _twin(spec: RunSpec, record: Record, migrations: Migrations) -> Twin:
    now = spec.to_json()
    # only lines that were renamed tell of code that knows the former names
    before = migrate_frozen(now, migrations.inverse()) if record.get("former_ids") else now
    title = f"{spec.task} by {spec.method}, tier {spec.tier}, seed {spec.seed}"
    return Twin(title, before, now)


class Verification:
    """Carries out twins, two processes at a time, and attests what agrees.

    Args:
        root: the checkout.
        ledger: the ledger, in which attestations stand.
        work: a folder for the twins; what was carried out there on this machine counts.
        told: called with (twins done, twins in all) as they end.
        workers: processes at a time.
    """

    def __init__(
        self,
        root: Path,
        ledger: Path,
        work: Path,
        told: Callable[[int, int], None],
        workers: int = 2,
    ) -> None:
        self.root, self.ledger, self.told, self.workers = root, ledger, told, workers
        self.machine = {
            "hardware": provenance.hardware("cpu"),
            "packages": provenance.versions(),
        }
        self.work = work / _short(self.machine)
        self.history = History(root)
        self.answers: dict[tuple[str, str], Answer] = {}
        self.findings = Findings()
        self._lock = Lock()

    def compare(self, pairs: Sequence[Pair]) -> Findings:
        """Carries out the twins of every pair, attesting a pair as soon as its twins agree."""
        meaning = code.known(self.ledger)
        wanted = {pair.old: meaning[pair.old] for pair in pairs if pair.old in meaning}
        commits = self.history.cover(wanted)
        for pair in pairs:
            if pair.old not in commits:
                self.findings.unknown.append(
                    f"no commit holds the code {pair.old} of {pair.runs} runs, such as "
                    f"{pair.twins[0].title}: they stay stale"
                )
        self.open = [pair for pair in pairs if pair.old in commits]
        for pair in self.open:
            pair.commit = commits[pair.old]
        self.total = 2 * sum(len(pair.twins) for pair in self.open)
        self.told(0, self.total)
        by_commit: dict[str, list[Pair]] = {}
        for pair in self.open:
            by_commit.setdefault(pair.commit, []).append(pair)
        with ExitStack() as stack, ThreadPoolExecutor(self.workers) as pool:
            running = []
            for commit, mine in by_commit.items():
                # both sides in turn, so that pairs are settled early
                tree = stack.enter_context(self.history.checked_out(commit))
                before = {twin.before["run_id"]: twin.before for p in mine for twin in p.twins}
                running.append(pool.submit(self._carry_out, commit, tree, list(before.values())))
                now = {twin.now["run_id"]: twin.now for p in mine for twin in p.twins}
                for first in range(0, len(now), BATCH):
                    jobs = list(now.values())[first : first + BATCH]
                    running.append(pool.submit(self._carry_out, NOW, self.root, jobs))
            for batch in as_completed(running):
                batch.result()
        for pair in self.open:
            self._settle(pair, last=True)
        return self.findings

    def _carry_out(self, version: str, tree: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Twins with one version of the code, in a process of its own."""
        folder = self.work / (_short(Sources().modules()) if version == NOW else version)
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(list(jobs), file)
            file.flush()
            process = subprocess.Popen(
                [sys.executable, "-P", twins.__file__, file.name, str(folder), str(tree)],
                env=os.environ
                | {"PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}"}
                | dict.fromkeys(ONE_THREAD, "1"),
                stdout=subprocess.PIPE,
                stderr=(folder / "log.txt").open("a"),
                cwd=tree,
                text=True,
            )
            for line in process.stdout or ():
                answer = json.loads(line)
                with self._lock:
                    self.answers[version, answer["run_id"]] = answer
                    self.told(len(self.answers), self.total)
                    for pair in self.open:
                        self._settle(pair)
            if process.wait():
                raise UserError(f"twins with the code {version} ended early; see {folder}/log.txt")

    def _settle(self, pair: Pair, last: bool = False) -> None:
        """Attests a pair whose twins all agree, or says which does not."""
        if pair.settled:
            return
        answers = [
            (
                twin,
                self.answers.get((pair.commit, twin.before["run_id"])),
                self.answers.get((NOW, twin.now["run_id"])),
            )
            for twin in pair.twins
        ]
        for twin, before, now in answers:
            if before and now and (wrong := difference(before, now)):
                self._differs(pair, twin, wrong)
                return
        if all(before and now for _, before, now in answers):
            pair.settled = True
            self.findings.equal.append((pair.old, pair.new))
            attestation = {
                "from": pair.old,
                "to": pair.new,
                "commit": pair.commit,
                "twins": {twin.title: now["weights"] for twin, _, now in answers if now},
                **self.machine,
            }
            code.attest(self.ledger, attestation)

    def _differs(self, pair: Pair, twin: Twin, wrong: str) -> None:
        pair.settled = True
        old = code.known(self.ledger)[pair.old]
        new = Sources().of(twin.now["settings"])
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        self.findings.differ.append(
            f"{twin.title}: {wrong} (before: commit {pair.commit[:10]}; changed: "
            f"{', '.join(changed)})"
        )


def difference(before: Answer, now: Answer) -> str:
    """What two answers of a twin disagree on, or an empty text; marks of time are left out."""
    for name, answer in (("before", before), ("now", now)):
        if "refused" in answer:
            return f"could not be carried out {name}: {answer['refused']}"
    ends = [
        answer["status"] + (f" ({answer['message']})" if answer.get("message") else "")
        for answer in (before, now)
    ]
    if before["status"] != now["status"] or before.get("reason") != now.get("reason"):
        return f"ended {ends[0]} before and {ends[1]} now"
    marks, today = before["scores"], now["scores"]
    timed = {
        name.partition("@")[0]
        for scores in (marks, today)
        for name, score in scores.items()
        if score.get("timed")
    }
    for name in sorted(marks.keys() | today.keys()):
        if name.partition("@")[0] in timed:
            continue
        values = [scores[name]["value"] if name in scores else None for scores in (marks, today)]
        if values[0] != values[1]:
            return f"{name} was {values[0]} before and is {values[1]} now"
    if before["weights"] != now["weights"]:
        return "scores agree, but the final weights do not"
    return ""


def _short(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
