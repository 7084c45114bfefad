"""The checks as a pytest plug-in: a check is a probe with a required verdict.

`pytest -p checks.plugin --pyargs checks --runtime "CMD" --rootfs DIR --axes ID,…` runs them; what
was found is in each report's `user_properties`, for whoever reports it further.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.bench import Bench, NoBench
from checks.model import Axis, Verdict, axes
from checks.peers import runtime
from checks.probes import observe
from checks.runtimes import Unsupported
from checks.trial import Trial
from checks.words import language


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say what is judged, with which root, and on which axes."""
    group = parser.getgroup("labrun", "checks of container runtimes")
    group.addoption("--runtime", metavar="CMD", help="the runtime: a command line, or @PEER")
    group.addoption("--rootfs", metavar="DIR", type=Path, help="a root file system")
    group.addoption("--axes", metavar="ID,...", help="the axes to check")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one check of each axis that was asked for."""
    if "axis" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--axes").split(",")
        metafunc.parametrize("axis", [axes()[id_] for id_ in asked], ids=asked)


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """The runtime under test, on a bench of its own."""
    try:
        judged = runtime(request.config.getoption("--runtime"))
        with Bench(request.config.getoption("--rootfs")) as bench:
            yield Trial(judged, bench)
    except (NoBench, Unsupported) as error:
        cannot(request, str(error))


def cannot(request: pytest.FixtureRequest, *evidence: str) -> None:
    """End a check that could not be run: skipped, for pytest has no better word; never passed."""
    note(request, Verdict.UNKNOWN, evidence)
    pytest.skip(evidence[0])


def note(request: pytest.FixtureRequest, verdict: Verdict, evidence: tuple[str, ...]) -> None:
    """Write down what was found, where every report of this check finds it."""
    request.node.user_properties.append(("verdict", str(verdict)))
    request.node.user_properties.extend(("evidence", fact) for fact in evidence)


def judge(axis: Axis, trial: Trial, request: pytest.FixtureRequest) -> None:
    """Observe the axis, and pass, fail, or say that it cannot be told."""
    finding = observe(axis.id, trial)
    if finding.verdict is Verdict.UNKNOWN:
        cannot(request, *finding.evidence)
    note(request, finding.verdict, finding.evidence)
    if finding.verdict is not axis.required:
        pytest.fail("\n".join((axis.hint[language()], *finding.evidence)), pytrace=False)
