"""The packages for users: light to import, true to what they list."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("attention", "conversion", "transport", "flow", "unlearning")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there(package):
    module = importlib.import_module(f"sextant.{package}")
    assert module.__all__ == sorted(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__name__ == name


def test_importing_a_package_imports_no_torch():
    imports = "; ".join(f"import sextant.{package}" for package in PACKAGES)
    script = f"import sys; {imports}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ImportError, match="cannot import name 'Unlern'"):
        from sextant.unlearning import Unlern  # noqa: F401
    with pytest.raises(AttributeError, match="has no 'unlern'; it has Report, unlearn"):
        importlib.import_module("sextant.unlearning").unlern  # noqa: B018
