"""Time the lineage without training through Dagster and from the command line: source table, concepts, sequences.

Each is a process of its own that extracts, checks and promotes the same table again; neither reuses a search for
near-duplicates. Processor time counts, so that other work on the machine does not; wall time is shown, too.

    PYTHONPATH=. python benchmarks/orchestration.py --home /path/of/a/copy --json     # of a home with a source table
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from lvm_pipeline import lineage
from lvm_pipeline.lineage import data, drift
from lvm_pipeline.settings import Settings, load_settings

LIMIT = 2.0  # times the command line
WAYS = ("command line", "Dagster")


def main() -> None:
    """Run both ways, the command line first and again, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="LVM_HOME whose source table is loaded; its products are replaced.")
    parser.add_argument("--repeats", type=int, default=1, help="The fastest counts.")
    parser.add_argument("--articles", type=int, default=60, help="Articles to load where no home is given.")
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)  # in the process of its own
    arguments = parser.parse_args()
    if arguments.run is not None:
        refresh(load_settings(), through_dagster=arguments.run == "Dagster")
        return
    home = arguments.home or loaded_home(arguments.articles)
    timed = {way: [measured(way, home) for _ in range(arguments.repeats)] for way in WAYS}
    rows = rows_of({way: tuple(map(min, zip(*found, strict=True))) for way, found in timed.items()})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:44} {row['ours']:9.2f} {row['peer']:9.2f} {row['ratio']:9.2f}  {row['met']}")


def refresh(settings: Settings, *, through_dagster: bool) -> None:
    """Extract, check and promote concepts and sequences."""
    (settings.data_dir / "near_duplicates.json").unlink(missing_ok=True)
    settings.concepts_path.unlink(missing_ok=True)  # or only what changed would be extracted
    if through_dagster:
        from lvm_pipeline.defs.launch import refresh_data

        refresh_data(settings)
        return
    lineage.observe_source(settings)
    data.promote_with_sequences(settings, data.stage_concepts(settings))
    drift.check_drift(settings)


def measured(way: str, home: Path) -> tuple[float, float]:
    """Return processor seconds and seconds of one refresh in a process of its own."""
    environment = {**os.environ, "LVM_HOME": str(home)}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-W", "ignore", __file__, "--run", way], env=environment)
    spent, watched = 0.0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            times = watched.cpu_times()
            spent = times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait():
        sys.exit(f"The refresh by {way} failed; see above.")
    return spent, time.perf_counter() - started


def loaded_home(num_articles: int) -> Path:
    """Load small articles into a home that is deleted after the benchmark."""
    import atexit
    import shutil
    import tempfile

    from lvm_pipeline.adapters import embedded_postgres

    home = Path(tempfile.mkdtemp())
    settings = Settings(home=home)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    atexit.register(embedded_postgres.stop, settings.postgres_dir)
    articles = home / "articles.jsonl"
    lines = [
        {
            "title": f"Article {article}",
            "concepts": [f"Concept {n} of {article} says {n * article}." for n in range(12)],
        }
        for article in range(num_articles)
    ]
    articles.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    lineage.ingest_file(settings, articles, dataset_source="user_input")
    return home


def rows_of(found: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Return the rows of the table; the peer is the command line, and a ratio of one half is the limit."""
    rows = []
    for index, unit in enumerate(("processor s", "s")):
        ours, peer = found["Dagster"][index], found["command line"][index]
        goal = 1 / LIMIT if index == 0 else None
        ratio = peer / ours
        met = None if goal is None else ratio >= goal
        rows.append(
            {
                "name": f"{unit} of a refresh by Dagster",
                "ours": ours,
                "peer": peer,
                "ratio": ratio,
                "goal": goal,
                "met": met,
            }
        )
    return rows


if __name__ == "__main__":
    main()
