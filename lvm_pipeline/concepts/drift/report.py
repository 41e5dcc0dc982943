"""The drift report, as JSON and as Markdown."""

from pathlib import Path

from lvm_pipeline import files
from lvm_pipeline.concepts.drift.compare import FALSE_ALARM_RATE, Drift
from lvm_pipeline.findings import Finding
from lvm_pipeline.tables import RESULT, Column, Table, number, table_of

JSON_NAME, MARKDOWN_NAME = "drift.json", "drift.md"


def write_drift_report(report_dir: Path, drift: Drift) -> tuple[Path, Path]:
    """Write `drift.json` and `drift.md`, each whole or not at all, and return their paths."""
    json_path, markdown_path = report_dir / JSON_NAME, report_dir / MARKDOWN_NAME
    files.write_json(json_path, {**drift.as_json(), "false_alarm_rate": FALSE_ALARM_RATE})
    files.write_text(markdown_path, as_markdown(drift))
    return json_path, markdown_path


def drift_table(drift: Drift) -> Table[Finding]:
    columns: list[Column[Finding]] = [
        Column(title="check", text=lambda row: f"`{row.name}`", is_text=True),
        RESULT,
        number("observed", lambda row: row.observed, ".3f"),
        number("limit", lambda row: row.allowed, ".3f"),
        number("p", lambda row: row.details.get("p_value_of_all_checks"), ".3f"),
        Column(title="message", text=lambda row: row.message, is_text=True),
    ]
    return Table(columns=columns, rows=drift.findings)


def as_markdown(drift: Drift) -> str:
    verdict = "the concepts have drifted" if drift.has_drifted else "no drift found"
    if not drift.was_compared:
        verdict = "drift was not checked"
    lines = ["# Drift from the champion's training data", "", f"Result: **{verdict}**.", ""]
    summaries = [
        {
            "table": name,
            "concepts": table.num_concepts,
            "articles": table.num_articles,
            "space": f"`{table.space_id}`",
            "fingerprint": f"`{table.fingerprint[:12]}`",
        }
        for name, table in (("champion's", drift.reference), ("present", drift.present))
        if table is not None
    ]
    lines.append(table_of(summaries).markdown())
    if drift.num_arrived is not None:
        lines += [
            "",
            f"Articles: {drift.num_arrived} new or changed, {drift.num_kept} unchanged, {drift.num_left} removed.",
        ]
    lines += [
        "",
        "## Checks",
        "",
        drift_table(drift).markdown(),
        "",
        f"Limits come from permuting whole articles; at most {FALSE_ALARM_RATE:.0%} of comparisons of unchanged data "
        f"fail any check. p is adjusted for all checks. All evidence is in `{JSON_NAME}`.",
    ]
    return "\n".join(lines) + "\n"
