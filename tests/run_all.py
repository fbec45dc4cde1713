#!/usr/bin/env python3
"""Run what tests this checkout, one step after the other, and close with the totals of all of it.

A step that fails does not keep the later ones from running, and what it said of its failure is shown again before the
totals. Tests are counted from the result files that pytest writes; a step that writes none (the linters, a molecule
scenario beside the tests in it) counts as one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
RESULTS = ROOT / ".cache" / "results"
TELLING = re.compile(r"fatal: |\[ERROR\]|FAILED|ERROR |UNREACHABLE")
"""Lines that tell of a failure, in the words of Ansible, molecule and pytest."""
SHOWN_AGAIN = 40
"""How many of a failed step's telling lines are shown once more at the end, the last ones."""


@dataclass(frozen=True)
class Step:
    """A command, and the result files that it writes below .cache/results, without their ending."""

    name: str
    command: tuple[str, ...]
    results: tuple[str, ...] = ()
    counts_itself: bool = False
    """Whether the command shows something beyond the tests in its result files."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to."""

    step: Step
    passed: int
    failed: int
    skipped: int
    seconds: float
    telling: tuple[str, ...]
    """Lines of the output that tell of a failure."""


def pytest_step(name: str, *folders: str) -> Step:
    """A step that runs pytest in some folders."""
    return Step(name, (str(PYTHON), "-m", "pytest", f"--junitxml={RESULTS / name}.xml", *folders), (name,))


def molecule_step(scenario: str) -> Step:
    """A step that runs a whole scenario, from create to destroy."""
    command = (str(PYTHON), "-m", "molecule", "test", "--no-command-borders", "--scenario-name", scenario)
    return Step(f"molecule-{scenario}", command, (f"hosts-{scenario}", scenario), counts_itself=True)


def all_steps(slow: bool) -> list[Step]:
    """Every step, the quick ones first; each folder with a molecule.yml is a scenario."""
    scenarios = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))
    backbone = ("make", "-C", "backbone", "test", f"PYTEST_ARGS=--junitxml={RESULTS / 'backbone'}.xml")
    faults = ("make", "-C", "backbone", "test-faults", f"PYTEST_ARGS=--junitxml={RESULTS / 'faults'}.xml")
    return [
        Step("lint", ("make", "--keep-going", "lint")),
        pytest_step("unit", "tests/unit", "tests/package"),
        pytest_step("browser", "tests/browser"),
        Step("backbone-lint", ("make", "-C", "backbone", "lint")),
        Step("backbone", backbone, ("backbone",)),
        *(molecule_step(scenario) for scenario in scenarios),
        pytest_step("scenarios", "tests/scenarios"),
        *([Step("faults", faults, ("faults",))] if slow else []),
    ]


def counted(name: str) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a result file; nothing where a step did not get to write it."""
    path = RESULTS / f"{name}.xml"
    if not path.exists():
        return 0, 0, 0
    suites = ElementTree.parse(path).getroot().iter("testsuite")
    totals = [[int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")] for suite in suites]
    tests, failures, errors, skipped = (sum(column) for column in zip(*totals, strict=True))
    failed = failures + errors
    return tests - failed - skipped, failed, skipped


def run(step: Step) -> Outcome:
    """Run a step with its output on the screen."""
    print(f"\n===== {step.name}: {' '.join(step.command)}", flush=True)
    for name in step.results:
        (RESULTS / f"{name}.xml").unlink(missing_ok=True)
    started = time.monotonic()
    code, telling = show(step.command)
    seconds = time.monotonic() - started
    counts = [counted(name) for name in step.results]
    passed, failed, skipped = (sum(count[i] for count in counts) for i in range(3))
    if code == 0 and (step.counts_itself or not step.results):
        passed += 1
    # A command that failed without a failed test broke down itself.
    if code != 0 and (step.counts_itself or not failed):
        failed += 1
    # Tests that did not run prove nothing.
    if code == 0 and step.results and not passed + failed:
        failed += 1
    print(f"===== {step.name}: {passed} passed, {failed} failed, {skipped} skipped in {seconds:.0f} s", flush=True)
    return Outcome(step, passed, failed, skipped, seconds, telling)


def show(command: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Run a command with its output on the screen; return its exit code and its telling lines."""
    telling: deque[str] = deque(maxlen=SHOWN_AGAIN)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if TELLING.search(line):
                telling.append(line)
    return process.returncode, tuple(telling)


def main() -> int:
    """Run the steps that the command line asks for and return the exit code: 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="also what is marked slow, and the backbone's fault matrix")
    parser.add_argument("names", nargs="*", metavar="STEP", help="run only these steps; without a name all of them")
    arguments = parser.parse_args()
    slow, names = arguments.slow, arguments.names
    steps = all_steps(slow)
    unknown = sorted(set(names) - {step.name for step in steps})
    if unknown:
        raise SystemExit(f"no such step: {', '.join(unknown)}; there are {', '.join(step.name for step in steps)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PY_COLORS", "0")
    if not slow:
        os.environ["PYTEST_ADDOPTS"] = f"{os.environ.get('PYTEST_ADDOPTS', '')} -m 'not slow'"
    outcomes = [run(step) for step in steps if not names or step.name in names]
    for outcome in outcomes:
        if outcome.failed:
            print(f"\n===== {outcome.step.name} failed, and said:")
            print("".join(outcome.telling), end="")
    print("\n===== all steps")
    for outcome in outcomes:
        print(
            f"{outcome.step.name:20} {outcome.passed:5} passed {outcome.failed:5} failed"
            f" {outcome.skipped:5} skipped {outcome.seconds:7.0f} s"
        )
    passed, failed, skipped = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in Outcome.__match_args__[1:4]
    )
    print(f"{sum(outcome.seconds for outcome in outcomes):.0f} s in all\n")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
