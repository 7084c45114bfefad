"""What the tests of the stages share."""

from collections.abc import Iterator

import pytest

from tests.running import DEAD_CHECKS, assert_unchanged, machine


@pytest.fixture(scope="module")
def nothing_is_left() -> Iterator[None]:
    """See that a file's tests leave the machine as it was."""
    before = machine()
    # No stage has a bench: those are left, and cleared away, by the tests of the checks.
    del before[DEAD_CHECKS]
    yield
    assert_unchanged(before)
