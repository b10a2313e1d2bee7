"""Settings that are passed on are listed, and misspelt ones refused before anything is made."""

import inspect

import pytest

from sextant.errors import UserError
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.luna.feature_map import FeatureMap
from sextant.methods.attention.luna.special_cases import RandomFeatures
from sextant.methods.flow.module import FlowModule
from sextant.methods.flow.traced import TracedFlow
from sextant.runs.build import build

OWN = {"dimension", "projections", "channels"}


def test_what_is_passed_on_is_listed_with_its_default():
    passed = inspect.signature(FeatureMap).parameters
    for kind in (LunaAttention, RandomFeatures):
        listed = inspect.signature(kind).parameters
        assert set(passed) - OWN <= set(listed)
        for name in set(passed) - OWN - {"orthogonal"}:
            assert listed[name].default == passed[name].default
    inner = list(inspect.signature(FlowModule).parameters)
    assert list(inspect.signature(TracedFlow).parameters) == [*inner, "big_batch"]


@pytest.mark.parametrize(
    ("kind", "named"),
    [("attention.luna.attention.LunaAttention", "hidden"), ("flow.traced.TracedFlow", "steps")],
)
def test_a_misspelt_setting_is_the_users_mistake_and_no_failure_of_the_method(kind, named):
    settings = {"_target_": f"sextant.methods.{kind}", "hiden": 3}
    with pytest.raises(UserError, match=rf"it takes: .*{named}"):
        build(settings)
