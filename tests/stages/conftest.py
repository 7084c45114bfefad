"""What the tests of the stages share."""

from collections.abc import Iterator

import pytest

from tests.running import assert_unchanged, machine


@pytest.fixture(scope="module")
def nothing_is_left() -> Iterator[None]:
    """See that a file's tests leave the machine as it was."""
    before = machine()
    yield
    assert_unchanged(before)
