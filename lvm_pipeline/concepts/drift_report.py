"""The drift report: the present concepts beside those that the champion was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvm_pipeline import files
from lvm_pipeline.concepts.drift import FALSE_ALARM_RATE, Drift
from lvm_pipeline.concepts.report import as_cell

JSON_NAME, MARKDOWN_NAME = "drift.json", "drift.md"


def drift_report(drift: Drift) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    findings = [{**finding.as_json(), "outcome": finding.outcome} for finding in drift.findings]
    return {**drift.as_json(), "false_alarm_rate": FALSE_ALARM_RATE, "findings": findings}


def write_drift_report(report_dir: Path, drift: Drift) -> tuple[Path, Path]:
    """Write `drift.json` and `drift.md`, each whole or not at all, and return where they are."""
    report = drift_report(drift)
    json_path, markdown_path = report_dir / JSON_NAME, report_dir / MARKDOWN_NAME
    files.write_json(json_path, report)
    files.write_text(markdown_path, as_markdown(report))
    return json_path, markdown_path


def as_markdown(report: Mapping[str, Any]) -> str:
    """Write a report for reading."""
    verdict = "the concepts have drifted" if report["has_drifted"] else "no drift was found"
    lines = ["# Drift against the champion's training data", "", f"Verdict: **{verdict}**.", ""]
    lines += _table_lines(report)
    lines += [
        "",
        "## Checks",
        "",
        "| check | outcome | observed | allowed | p | what was found |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_finding_line(finding) for finding in report["findings"]]
    lines += [
        "",
        f"Limits come from permuting whole articles, so that all checks together raise a false alarm in at most "
        f"{report['false_alarm_rate']:.0%} of comparisons; p is of all checks together. Evidence: `{JSON_NAME}`.",
    ]
    return "\n".join(lines) + "\n"


def _table_lines(report: Mapping[str, Any]) -> list[str]:
    lines = ["| table | concepts | articles | space | fingerprint |", "|---|---|---|---|---|"]
    for name, table in (("champion's", report["reference"]), ("present", report["present"])):
        if table is not None:
            lines.append(
                f"| {name} | {table['num_concepts']} | {table['num_articles']} | `{table['space_id']}` "
                f"| `{table['fingerprint'][:12]}` |"
            )
    if report["num_arrived"] is not None:
        counts = f"{report['num_arrived']} articles arrived, {report['num_kept']} stayed, {report['num_left']} left."
        lines += ["", counts]
    return lines


def _finding_line(finding: Mapping[str, Any]) -> str:
    numbers = (finding["observed"], finding["allowed"], finding["details"].get("p_value_of_all_checks"))
    cells = " | ".join("" if number is None else f"{number:.3f}" for number in numbers)
    return f"| `{finding['name']}` | {finding['outcome']} | {cells} | {as_cell(finding['message'])} |"
