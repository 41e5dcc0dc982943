"""One table of every figure that has a peer or a goal: ours, peer, ratio, goal, met or not.

    make bench                                   # everything that this machine can measure, about half an hour
    python benchmarks/bench.py --smoke           # tiny sizes, seconds: says that the scripts run, and nothing of speed
    python benchmarks/bench.py --only training.py --only drift.py --json

Each script measures ours and its peer in one run, so that ratios hold on any machine; a ratio above 1 says that ours is
better. A script that fails is named below the table, and the exit code is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script with the option --json, and how it is called in each form; None: only its help is read."""

    name: str
    options: tuple[str, ...] = ()
    smoke: tuple[str, ...] | None = None


SCRIPTS = (
    Script(name="extraction.py"),
    Script(name="parquet_encodings.py", smoke=("--rows", "64", "--repeats", "1")),
    Script(name="near_duplicates.py", smoke=("--rows", "2000", "--repeats", "1")),
    Script(name="training.py"),
    Script(name="larger_than_memory.py", smoke=("--concepts", "1000", "--limit-mb", "0", "--preset", "smoke")),
    Script(name="architectures.py", options=("--seconds", "1")),
    Script(
        name="drift.py",
        smoke=("--articles", "10", "--resamples", "1", "--injections", "1", "--rows", "100"),
    ),
    Script(
        name="drift.py",  # beside other tools, where their environments are at hand
        options=("--peers", "--resamples", "20", "--injections", "5"),
        smoke=("--peers", "--articles", "10", "--resamples", "1", "--injections", "1"),
    ),
    Script(name="text_match.py"),
    Script(name="serving.py"),
    Script(name="plan.py"),
    Script(name="evaluation.py", smoke=("--concepts", "3000", "--width", "32", "--threads", "1")),
    Script(name="growth.py", smoke=("--sizes", "600", "1800", "--width", "32", "--preset", "smoke", "--threads", "1")),
    Script(name="orchestration.py"),
)


def main() -> None:
    """Run the scripts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(script.name for script in SCRIPTS))
    parser.add_argument("--only", action="append", choices=names, help="Repeat; default: all.")
    parser.add_argument("--smoke", action="store_true", help="Tiny sizes; what takes longer only prints its help.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    chosen = [script for script in SCRIPTS if script.name in (arguments.only or names)]
    with ThreadPoolExecutor(os.cpu_count() if arguments.smoke else 1) as pool:  # what is measured runs alone
        done = list(pool.map(lambda script: run_and_say(script, is_smoke=arguments.smoke), chosen))
    rows = [row for found, _ in done for row in found]
    problems = [problem for _, problem in done if problem]
    print(json.dumps(rows, indent=2) if arguments.json else as_table(rows))
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


def run_and_say(script: Script, *, is_smoke: bool) -> tuple[list[dict[str, Any]], str | None]:
    """Run a script, and print its figures on standard error at once: the whole takes long and may be interrupted."""
    started = time.monotonic()
    rows, problem = run(script, is_smoke=is_smoke)
    print(f"{script.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    for row in rows:
        print(f"  {line_of(row)}", file=sys.stderr, flush=True)
    return rows, problem


def run(script: Script, *, is_smoke: bool) -> tuple[list[dict[str, Any]], str | None]:
    """Run a script; return its rows, and what went wrong."""
    if is_smoke and script.smoke is None:
        options = ["--help"]
    else:
        options = ["--json", *((script.smoke or ()) if is_smoke else script.options)]
    command = [sys.executable, "-W", "ignore", str(HERE / script.name), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [], f"{script.name} failed ({reason})"
    if options == ["--help"]:
        return [], None
    return [{"script": script.name, **row} for row in json.loads(done.stdout)], None


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text, with a count of the goals that are met."""
    lines = [f"{'script':21} {'figure':58} {'ours':>12} {'peer':>12} {'ratio':>7} {'goal':>6}  met"]
    lines += [f"{row['script']:21} {line_of(row)}" for row in rows]
    judged = [row for row in rows if row.get("met") is not None]
    return "\n".join([*lines, f"{sum(row['met'] for row in judged)} of {len(judged)} goals met."])


def line_of(row: dict[str, Any]) -> str:
    """Write one figure."""
    ours, peer, ratio, goal = (number(row.get(key)) for key in ("ours", "peer", "ratio", "goal"))
    met = {True: "yes", False: "NO", None: ""}[row.get("met")]
    return f"{row['name'][:58]:58} {ours:>12} {peer:>12} {ratio:>7} {goal:>6}  {met}"


def number(value: Any) -> str:
    """Write a figure in four digits; nothing for none."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


if __name__ == "__main__":
    main()
