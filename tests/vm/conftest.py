"""The student's machine for the tests, booted once for all: `@pytest.mark.vm` and `guest` lead in.

The image is made at the first run and kept in the cache, by the hash of what it is made of.
"""

from collections.abc import Iterator

import pytest

from labs import vm
from tests.vm.guest import Guest


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Return the machine, with Debian 13's kernel and this checkout in it."""
    machine = Guest(tmp_path_factory.mktemp("machine"), ours=True)
    machine.take(vm.made(), "current")
    try:
        machine.start()
        machine.copy_checkout()
        yield machine
    finally:
        machine.unplug()
