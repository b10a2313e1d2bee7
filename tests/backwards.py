"""A pytest plugin that runs what was collected in reverse order; `make test-order` uses it."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The last test first."""
    items.reverse()
