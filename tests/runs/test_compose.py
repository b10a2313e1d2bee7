"""The fast composer gives what Hydra gives, for every task, method and tier there is."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from sextant.errors import UserError
from sextant.paths import Project
from sextant.runs.compose import Composer, merge, resolve, spec_from_config
from sextant.runs.hydra_store import composed, register
from sextant.runs.identity import identifying, run_id
from sextant.runs.spec import TIERS
from sextant.tables.definition import find_table
from sextant.verbs.tabling import runs_of
from tests.toy import ROOT

COMPOSER = Composer(ROOT / "conf")
TASKS, METHODS = COMPOSER.options("task"), COMPOSER.options("method")


@pytest.fixture(autouse=True)
def registered():
    register(ROOT / "conf")


def by_hydra(*overrides: str) -> dict:
    return OmegaConf.to_container(composed(overrides), resolve=True)


def fitting(task: str, tier: str = "small") -> list[str]:
    found = []
    for method in METHODS:
        try:
            COMPOSER.config(task, method, tier, 0)
            found.append(method)
        except UserError:
            continue
    return found


FITTING = {task: fitting(task) for task in TASKS}
MET = {
    task: [m for place, m in enumerate(methods) if (number + place) % 3 == 0 or len(methods) < 3]
    for number, (task, methods) in enumerate(FITTING.items())
}
"""A third of the methods of every task, each task another third."""


@pytest.mark.parametrize("task", TASKS)
def test_every_task_composes_as_hydra_does(task):
    assert MET[task], f"no method fits {task}"
    for position, method in enumerate(MET[task]):
        tier = TIERS[position % len(TIERS)]
        ours = COMPOSER.config(task, method, tier, 3)
        theirs = by_hydra(f"task={task}", f"method={method}", f"tier={tier}", "seed=3")
        assert identifying(ours) == identifying(theirs)


def test_every_method_composes_as_hydra_does():
    met = {method for methods in MET.values() for method in methods}
    for method in set(METHODS) - met:
        task = next(task for task, methods in FITTING.items() if method in methods)
        theirs = by_hydra(f"task={task}", f"method={method}", "tier=gpu", "seed=3")
        assert identifying(COMPOSER.config(task, method, "gpu", 3)) == identifying(theirs)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_some_task(method):
    assert any(method in methods for methods in FITTING.values())


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_every_tier(task, tier):
    assert fitting(task, tier)


def test_ids_ignore_order_spelling_and_surroundings():
    same = [
        by_hydra("seed=3", "tier=smoke", "task.learning_rate=2e-3"),
        by_hydra("task.learning_rate=0.002", "tier=smoke", "seed=3", "trainer.accelerator=cpu"),
        by_hydra("tier=smoke", "seed=3", "logger=wandb", "tier.time_limit=5"),
    ]
    assert len({run_id(identifying(config), {}) for config in same}) == 1
    other = by_hydra("tier=smoke", "seed=3", "task.learning_rate=0.003")
    assert run_id(identifying(other), {}) != run_id(identifying(same[0]), {})


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UserError, match="did you mean 'flow/mean_flow'"):
        COMPOSER.spec(TASKS[0], "flow/meanflow", "small", 0)


def test_a_method_that_does_not_fit_says_what_it_needs():
    with pytest.raises(UserError, match=r"needs task\.latent, which the task lacks"):
        COMPOSER.spec("generation/normal_to_checkerboard", "backbone/conv_autoencoder", "small", 0)


def test_parents_are_resolved_at_the_same_tier():
    spec = COMPOSER.spec("generation/mnist_latent", "flow/mean_flow", "smoke", 4)
    assert {role: (p.tier, p.seed) for role, p in spec.parents.items()} == {
        "autoencoder": ("smoke", 0),
        "classifier": ("smoke", 0),
    }


def test_parents_that_a_table_shares_are_composed_once(monkeypatch):
    composed = []
    config = Composer.config

    def counted(self, *choices):
        composed.append(choices)
        return config(self, *choices)

    monkeypatch.setattr(Composer, "config", counted)
    project, table = Project(ROOT, ROOT / "results"), find_table(ROOT, 13)
    composer = Composer(ROOT / "conf")
    specs = runs_of(project, table, "small", composer=composer).specs
    members = [member for spec in specs for member in spec.lineage()]
    distinct = {member.run_id for member in members}
    assert len(composed) == len(set(composed)) == len(distinct) < len(members)
    assert runs_of(project, table, "small", composer=composer).specs == specs
    assert len(composed) == len(distinct)


@pytest.fixture
def conf(tmp_path):
    def write(**files: str) -> Composer:
        base = {"config": "seed: 0", "task/t": "version: 1", "method/m": "version: 1"}
        base |= {"tier/small": "name: small"}
        for name, text in (base | files).items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Composer(tmp_path)

    return write


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"method/m": "a: [1"}, r"m\.yaml: the file is not valid YAML on line"),
        ({"method/m": "a: 1\na: 2"}, r"m\.yaml: .* on line 2: the key 'a' is written twice"),
        ({"method/m": "- a"}, "must hold a mapping"),
        ({"method/m": "a: ${task.b}\nc: 1"}, r"needs task\.b"),
        ({"method/m": "a: ???"}, "left open"),
        ({"method/m": "a: ${method.b}\nb: ${method.a}"}, "circle"),
        ({"method/m": "defaults: [other]"}, "_self_"),
        ({"method/m": "defaults: [/method/m@_here_]"}, "m.yaml builds on itself: m <- m"),
        ({"method/m": "defaults: [/method/n@_here_]"}, r"unknown method 'n' \(known: m\)"),
        ({"method/m": "parents: {up: {task: t, method: m}}"}, "its own parent"),
        ({"method/m": "a: 'in ${task.b}'"}, r"'in \$\{task\.b\}' cannot be read; a reference is"),
        ({"method/m": "a: ${oc.select:task.b}"}, "cannot be read"),
        ({"method/m": "a: ${oc.env:NOWHERE_SET}"}, "'NOWHERE_SET' not found"),
        ({"method/m": "a: ${budget.b}"}, r"conf/task/t\.yaml, `tiers: \{small: \{b: \.\.\.\}\}`"),
        (
            {"task/t": "tiers: {smal: {b: 1}}"},
            "unknown tier in conf/task/t.yaml 'smal'; did you mean",
        ),
        ({"task/t": "tiers: {small: 1}"}, "conf/task/t.yaml: small must be a mapping"),
        (
            {"method/o": "variants: {m: {}}"},
            "method=m is written in conf/method/m.yaml and in conf/m",
        ),
        ({"attention/a": "methods: {x/a: }"}, "unknown wrapper in conf/attention/a.yaml 'x'"),
        ({"local/default": "cluster: {account: lab}"}, "must begin with the line '# @package"),
    ],
)
def test_broken_configs_get_one_sentence(conf, files, sentence):
    with pytest.raises(UserError, match=sentence):
        conf(**files).spec("t", "m", "small", 0)


def test_a_mapping_over_a_reference_changes_what_it_names_for_that_method_alone(conf):
    composer = conf(
        **{
            "task/t": "inversion: {images: '${budget.images}', jitter: 0}\n"
            "tiers: {small: {images: 9}}",
            "method/m": "inversion: ${task.inversion}",
            "method/plain": "defaults: ['/method/m@_here_', _self_]\ninversion: {weight: 0}",
            "tuned/t": "plain: {inversion: {jitter: 2}}",
        }
    )
    settings = composer.spec("t", "plain", "small", 0).settings
    assert settings["method"]["inversion"] == {"images": 9, "jitter": 2, "weight": 0}
    assert settings["task"]["inversion"] == {"images": 9, "jitter": 0}


def test_tuned_values_and_budgets_come_after_the_method(conf):
    composer = conf(
        **{
            "method/m": "module: {rate: 1, steps: '${budget.steps}'}",
            "task/_base": "tiers: {all: {steps: 6, batch: 3}, small: {points: 8}}",
            "task/t": "defaults: [/task/_base@_here_, _self_]\ntiers: {small: {steps: 7}}",
            "tuned/t": "# @package method.module\nm: {rate: 2}",
        }
    )
    config = composer.config("t", "m", "small", 0)
    assert config["budget"] == {"steps": 7, "batch": 3, "points": 8}
    assert config["method"] == {"module": {"rate": 2, "steps": 7}}


def test_variants_differ_from_their_file_and_from_each_other(conf):
    composer = conf(
        **{
            "method/f/m": "a: {b: 1, c: 2}\nvariants:\n  n: {a: {b: 3}}\n"
            "  o: {defaults: [/method/f/n@_here_, _self_], a: {c: 4}}",
            "method/f/p": "defaults: [/method/f/m@_here_, _self_]\na: {d: 5}",
        }
    )
    assert composer.options("method") == ["f/m", "f/n", "f/o", "f/p", "m"]
    found = [composer.config("t", f"f/{name}", "small", 0)["method"]["a"] for name in "mnop"]
    assert found == [{"b": 1, "c": 2}, {"b": 3, "c": 2}, {"b": 3, "c": 4}, {"b": 1, "c": 2, "d": 5}]


def test_an_attention_is_put_into_the_wrappers_that_it_names(conf):
    composer = conf(
        **{
            "wrapper/x": "version: 1\nmodule: {attention: {heads: 2}, longest: null}",
            "wrapper/y": "version: 1\nmodule: {network: {attention: {length: '${task.version}'}}}",
            "attention/a": "_target_: A\nfeatures: 8\nmethods:\n  x/a:\n"
            "  x/b: &b {features: 4, around: {module: {longest: 9}}}\n"
            "  x/c: {<<: *b, wrapper: y}",
        }
    )
    a, b, c = (composer.config("t", f"x/{name}", "small", 0)["method"]["module"] for name in "abc")
    assert a == {"attention": {"_target_": "A", "heads": 2, "features": 8}, "longest": None}
    assert b == {"attention": {"_target_": "A", "heads": 2, "features": 4}, "longest": 9}
    assert c["network"] == {"attention": {"_target_": "A", "length": 1, "features": 4}}


def test_the_environment_is_read_as_hydra_reads_it(conf, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "here")
    said = "{entity: '${oc.env:SOMEWHERE}', note: 'in ${oc.env:SOMEWHERE}'}"
    local = f"# @package _global_\nlogger: {said}"
    composer = conf(**{"local/default": local, "logger/csv": "kind: csv"})
    assert composer.setting("logger", "csv") == {"kind": "csv", "entity": "here", "note": "in here"}
    register(composer.conf)
    (composer.conf / "config.yaml").write_text("defaults: [logger: csv, local: default]")
    register(composer.conf)
    assert by_hydra()["logger"] == composer.setting("logger", "csv")


def test_seeds_change_what_refers_to_them_and_nothing_else(conf):
    composer = conf(**{"method/m": "noise: [{from: '${seed}'}]", "method/n": "noise: 5"})
    configs = [composer.config("t", "m", "small", seed) for seed in (3, 4)]
    assert [config["method"] for config in configs] == [
        {"noise": [{"from": 3}]},
        {"noise": [{"from": 4}]},
    ]
    plain = [composer.config("t", "n", "small", seed) for seed in (3, 4)]
    assert [config["seed"] for config in plain] == [3, 4]
    assert plain[0]["method"] == plain[1]["method"] == {"noise": 5}


def test_merging_replaces_lists_and_joins_mappings():
    assert merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}}
    assert resolve({"a": {"b": "${c}"}, "c": [1]}, "here") == {"a": {"b": [1]}, "c": [1]}


def test_the_faults_of_a_tier_name_its_file():
    config = {"task": {}, "method": {}, "tier": {"name": "smoke", "time_limit": "1h", "gpu": True}}
    with pytest.raises(UserError) as caught:
        spec_from_config(config, "lra/text", "attention/luna", "smoke", None)
    assert str(caught.value).splitlines() == [
        "conf/tier/smoke.yaml: time_limit must be a number, got '1h'",
        "conf/tier/smoke.yaml: gpu is not a field of the file; allowed: description, name, "
        "needs_gpu, time_limit; nearest match: needs_gpu",
    ]
