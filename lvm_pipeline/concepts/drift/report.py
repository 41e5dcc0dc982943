"""The drift report, as JSON and as Markdown."""

from pathlib import Path

from lvm_pipeline import files
from lvm_pipeline.concepts.drift.compare import FALSE_ALARM_RATE, Drift
from lvm_pipeline.concepts.report import as_cell

JSON_NAME, MARKDOWN_NAME = "drift.json", "drift.md"


def write_drift_report(report_dir: Path, drift: Drift) -> tuple[Path, Path]:
    """Write `drift.json` and `drift.md`, each whole or not at all, and return their paths."""
    findings = [{**finding.as_json(), "outcome": finding.outcome} for finding in drift.findings]
    json_path, markdown_path = report_dir / JSON_NAME, report_dir / MARKDOWN_NAME
    files.write_json(json_path, {**drift.as_json(), "false_alarm_rate": FALSE_ALARM_RATE, "findings": findings})
    files.write_text(markdown_path, as_markdown(drift))
    return json_path, markdown_path


def as_markdown(drift: Drift) -> str:
    """Return the report as Markdown."""
    verdict = "the concepts have drifted" if drift.has_drifted else "no drift found"
    lines = ["# Drift from the champion's training data", "", f"Result: **{verdict}**.", ""]
    lines += ["| table | concepts | articles | space | fingerprint |", "|---|---|---|---|---|"]
    for name, table in (("champion's", drift.reference), ("present", drift.present)):
        if table is not None:
            cells = (name, table.num_concepts, table.num_articles, f"`{table.space_id}`", f"`{table.fingerprint[:12]}`")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    if drift.num_arrived is not None:
        lines += [
            "",
            f"Articles: {drift.num_arrived} new or changed, {drift.num_kept} unchanged, {drift.num_left} removed.",
        ]
    lines += ["", "## Checks", "", "| check | result | observed | limit | p | message |", "|---|---|---|---|---|---|"]
    for finding in drift.findings:
        numbers = (finding.observed, finding.allowed, finding.details.get("p_value_of_all_checks"))
        cells = [
            f"`{finding.name}`",
            finding.outcome,
            *("" if number is None else f"{number:.3f}" for number in numbers),
        ]
        lines.append(f"| {' | '.join(cells)} | {as_cell(finding.message)} |")
    lines += [
        "",
        f"Limits come from permuting whole articles; at most {FALSE_ALARM_RATE:.0%} of comparisons of unchanged data "
        f"fail any check. p is adjusted for all checks. All evidence is in `{JSON_NAME}`.",
    ]
    return "\n".join(lines) + "\n"
