"""Time what a batch run of the plan costs beside training: seconds a trial, in one process with the data loaded.

Counted is everything of a trial but its optimiser steps and validation: building the model, the checks (scored again in
another process), files, the MLflow run with the model in it. Scoring for the study is shown beside it.

    PYTHONPATH=. python benchmarks/plan.py --json
    PYTHONPATH=. python benchmarks/plan.py --home /path/of/a/home     # its data; trials are kept there
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from lvm_pipeline import lineage
from lvm_pipeline.adapters import embedded_postgres
from lvm_pipeline.experiments import plan
from lvm_pipeline.experiments.trial_scores import Outcome
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

SECONDS = 0.5  # a trial
WARM_UP = 1  # the first trial starts the processes, fits the weighted mean and scores the baselines


def main() -> None:
    """Run some trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="LVM_HOME with promoted data.")
    parser.add_argument("--articles", type=int, default=300, help="Articles of 37 concepts to make.")
    parser.add_argument("--trials", type=int, default=8, help="Trials after the first.")
    parser.add_argument("--architecture", default="gru")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = arguments.home or made_home(Path(folder), num_articles=arguments.articles)
        try:
            outcomes = run_trials(home, arguments)
        finally:
            if arguments.home is None:
                embedded_postgres.stop(home / "postgres")
    rows = rows_of(outcomes[WARM_UP:], outcomes[0])
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:44} {row['ours']:9.2f} {row['peer'] or 0:9.2f}  {row['met']}")


def made_home(folder: Path, *, num_articles: int) -> Path:
    """Write concepts and sequences where a home has them."""
    settings = Settings(home=folder / "home")
    write_synthetic_concepts(settings.concepts_path, article_lengths=[37] * num_articles, vector_dim=768)
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    return settings.home


def run_trials(home: Path, arguments: argparse.Namespace) -> tuple[Outcome, ...]:
    """Run one config with several seeds, tracked."""
    settings = Settings(home=home, preset="smoke", epochs=arguments.epochs, num_threads=arguments.threads)
    plan.SHARES = (plan.Share(architecture=arguments.architecture, week=1, count=WARM_UP + arguments.trials),)
    ended = lineage.run_plan(
        settings, week=1, tracker_for=lambda week: lineage.plan_tracker(settings, week), again=True
    )
    return ended.outcomes


def rows_of(outcomes: tuple[Outcome, ...], first: Outcome) -> list[dict[str, Any]]:
    """Return the rows of the table; a ratio above 1 is below the limit."""
    parts = [parts_of(outcome) for outcome in outcomes]
    overheads, training, scoring = ([part[index] for part in parts] for index in range(3))
    return [
        row("s beside training, a trial, median", median(overheads), goal=SECONDS),
        row("s beside training, a trial, worst", max(overheads)),
        row("s beside training, the first trial", parts_of(first)[0]),
        row("s of scoring for the study, a trial, median", median(scoring)),
        row("s of training, a trial, median", median(training)),
    ]


def parts_of(outcome: Outcome) -> tuple[float, float, float]:
    """Return the seconds beside training, of training and of scoring. Stops if the trial was not scored."""
    overhead, scores = outcome.overhead_seconds, outcome.scores
    if overhead is None or scores is None:
        raise SystemExit(f"The trial {outcome.trial_id} was not scored: the benchmark measures nothing.")
    return overhead, scores.training_seconds, outcome.seconds - overhead - scores.training_seconds


def row(name: str, seconds: float, *, goal: float | None = None) -> dict[str, Any]:
    """Return one row of the table."""
    ratio = None if goal is None else goal / max(seconds, 1e-9)
    return {
        "name": name,
        "ours": seconds,
        "peer": goal,
        "ratio": ratio,
        "goal": goal,
        "met": None if goal is None else seconds <= goal,
    }


if __name__ == "__main__":
    main()
