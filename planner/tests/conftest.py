"""What tests of several files share."""

from __future__ import annotations

import pytest

from problems import Small, problem, trained
from safenet_planner import Problem


@pytest.fixture(scope="session")
def network() -> Small:
    """A small trained network; not to be changed."""
    return trained()


@pytest.fixture(scope="session")
def posed(network: Small, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """The problem of planning it; not to be changed."""
    return problem(network, tmp_path_factory.mktemp("cost"))
