"""One check for each axis of isolation."""

import pytest

from checks.model import Axis
from checks.plugin import judge
from checks.trial import Trial


def test_axis(axis: Axis, trial: Trial, request: pytest.FixtureRequest) -> None:
    """The runtime's verdict on the axis is the one that the contract requires."""
    judge(axis, trial, request)
