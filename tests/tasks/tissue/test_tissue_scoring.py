"""The exam, taken by students whose marks are known beforehand."""

import pytest
import torch

from sextant.contracts import Grasps, Streams
from sextant.methods.tissue.reference import FiniteElements, NoMotion
from tasks.tissue import scoring
from tasks.tissue.bodies import BallLiver
from tasks.tissue.data import TissueData
from tasks.tissue.scoring import TissueExam, errors, places, stability


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEXTANT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        made = TissueData(
            2, 1, nodes=129, law="neo_hookean", tools=1, train=10, test=6,
            others={"far": {"reach": [0.02, 0.03]}, "other": {"law": "linear", "poisson": 0.3}},
            others_each=3, paths=1,
        )  # fmt: skip
        made.prepare(Streams(0), {})
        return made


def test_the_errors_of_answers_known_beforehand(data):
    u = data.test.displacement
    perfect, none, double = errors(u, u), errors(torch.zeros_like(u), u), errors(2 * u, u)
    assert perfect["capture"].value == 100
    assert perfect["mean_error"].value == perfect["relative_error"].value == 0
    for marks in (none, double):
        assert marks["capture"].value == pytest.approx(0)
        assert marks["relative_error"].value == pytest.approx(100)
    moved = 1000 * u.norm(dim=2)
    assert none["mean_error"].value == pytest.approx(float(moved.mean()), rel=1e-5)
    assert none["max_error"].value == pytest.approx(float(moved.amax(1).mean()), rel=1e-5)


def test_capture_looks_at_nodes_and_the_released_one_does_not():
    wanted = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
    found = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]]])
    marks = errors(found, wanted)
    assert marks["capture"].value == pytest.approx(100 * (1 - 7 / 5))
    # over the nodes: errors (0, 5, 0), displacement (3, 4, 0)
    assert marks["capture_released"].value == pytest.approx(100 * (1 - 5 / 7))


def test_places_are_told_apart():
    mesh = BallLiver(1).mesh()
    held = int((~mesh.fixed).nonzero()[0][0])
    grasps = Grasps(torch.tensor([[held, -1]]), torch.zeros(1, 2, 3))
    wanted = torch.zeros(1, len(mesh.positions), 3)
    found = wanted.clone()
    found[0, held, 0], found[0, torch.from_numpy(mesh.fixed), 1] = 0.001, 0.002
    marks = places(found, wanted, grasps, mesh)
    assert marks["held_error"].value == pytest.approx(1)
    assert marks["boundary_error"].value == pytest.approx(2)
    assert marks["free_error"].value == 0


def test_jitter_of_a_true_and_of_a_shaky_path(data):
    u = data.paths.displacement
    assert stability(u, u)["jitter"].value == pytest.approx(1)
    assert stability(u, u)["jitter_error"].value == 0
    still = stability(torch.zeros_like(u), u)
    assert still["jitter"].value == 0
    assert still["jitter_error"].value == pytest.approx(1)
    shaky = u.clone()
    shaky[::2] += 0.001
    assert stability(shaky, u)["jitter"].value > 2


def test_the_solver_that_made_the_data_passes_and_stillness_does_not(data):
    exam = TissueExam(timed=2, sizes=(129,))
    best, worst = (FiniteElements("task"), NoMotion())
    marks = []
    for student in (best, worst):
        student.prepare(Streams(0), {}, data)
        examined = exam.examine(student, data, Streams(0), {})
        marks.append({name: score.value for name, score in examined.scores.items()})
        assert examined.arrays["found"].shape == (3, 129, 3)
    assert marks[0]["mean_error"] < 1e-4
    assert marks[0]["mean_error_far"] < 1e-4
    assert marks[0]["capture_far"] > 99.99
    assert marks[0]["inverted"] == 0
    assert marks[0]["jitter"] == pytest.approx(1, abs=1e-4)
    assert marks[0]["milliseconds"] > marks[1]["milliseconds"] >= 0
    assert {"milliseconds_129", "milliseconds_p95", "failed_solves"} <= marks[0].keys()
    assert marks[1]["mean_error"] > 0.1
    assert marks[1]["held_error"] > marks[1]["free_error"]
    assert marks[1]["boundary_error"] == 0


def test_wrong_and_infinite_answers_are_refused(data):
    class Wrong:
        def __init__(self, answer):
            self.answer = answer

        def simulate(self, mesh, grasps, material):
            return self.answer

    def ask(answer):
        scoring.answers(Wrong(answer), data.mesh, data.test.grasps, data.material)

    with pytest.raises(ValueError, match="simulate must return shape"):
        ask(torch.zeros(6, 140, 3))
    with pytest.raises(FloatingPointError, match="not finite"):
        ask(torch.full((6, 129, 3), float("nan")))
    with pytest.raises(ValueError, match="timed must be at least 0"):
        TissueExam(timed=-1)
