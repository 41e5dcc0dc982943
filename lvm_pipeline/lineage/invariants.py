"""The invariants of every asset, and the table of them in `docs/checks.md`."""

from collections.abc import Mapping

from lvm_pipeline.concepts import invariants as of_concepts
from lvm_pipeline.concepts.drift.compare import drift_invariants
from lvm_pipeline.evaluation import gates as of_report
from lvm_pipeline.findings import Invariant
from lvm_pipeline.sequences import invariants as of_sequences
from lvm_pipeline.tables import table_of
from lvm_pipeline.training import invariants as of_model

INVARIANTS: Mapping[str, tuple[Invariant, ...]] = {
    "concepts": of_concepts.invariants(),
    "drift": drift_invariants(),
    "sequences": of_sequences.invariants(),
    "trained_model": of_model.invariants(),
    "evaluation_report": of_report.invariants(),
}
TITLES = {"drift": "`drift` (on the asset `concepts`, compared with what the champion was trained on)"}


def as_markdown() -> str:
    """Return `docs/checks.md`; `make docs` writes it."""
    lines = [
        "# Checks",
        "",
        "A failed *blocking* check stops everything downstream, and the asset keeps its earlier version.",
        "A *warning* is only reported. This file is generated from the code by `make docs`.",
    ]
    for asset, invariants in INVARIANTS.items():
        rows = [
            {"check": f"`{each.name}`", "severity": each.severity, "meaning": each.meaning, "if it fails": each.remedy}
            for each in invariants
        ]
        lines += ["", f"## {TITLES.get(asset, f'`{asset}`')}", "", table_of(rows).markdown()]
    return "\n".join(lines) + "\n"
