"""The verification report: the extracted data, and the result of every check."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lvm_pipeline import files
from lvm_pipeline.concepts.facts import CODES, NO_CODE, lacks_codes
from lvm_pipeline.concepts.schema import explain_bad_parquet, read_concepts_metadata
from lvm_pipeline.concepts.store import Articles, article_ranges, read_columns
from lvm_pipeline.findings import Finding, blocking_failures
from lvm_pipeline.tables import table_of
from lvm_pipeline.words import counted

NUM_SAMPLE_ARTICLES = 5
NUM_SAMPLE_TEXTS = 5
NUM_LISTED_DROPS = 100
TEXT_CHARACTERS = 160
JSON_NAME, MARKDOWN_NAME = "verification.json", "verification.md"


def verification_report(
    concepts_path: Path | None, *, findings: Iterable[Finding], sequences: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the report as plain JSON values; `concepts_path` is None if a failed check prevented the table.

    `sequences` is the summary of the sequence table, if there is one.

    Raises:
        LvmError: If the table cannot be read.
    """
    findings = list(findings)
    coverage = next((finding.observed for finding in findings if finding.name == "every_concept_has_a_vector"), None)
    return {
        "passed": not blocking_failures(findings),
        "num_failed": len(blocking_failures(findings)),
        "num_warnings": sum(finding.outcome == "warning" for finding in findings),
        "num_not_checked": sum(finding.outcome == "not checked" for finding in findings),
        "concepts": None if concepts_path is None else _concepts(concepts_path, coverage),
        "sequences": None if sequences is None else dict(sequences),
        "findings": [finding.as_json() for finding in findings],
    }


def write_verification_report(report_dir: Path, report: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `verification.json` and `verification.md`, each whole or not at all, and return their paths."""
    json_path, markdown_path = report_dir / JSON_NAME, report_dir / MARKDOWN_NAME
    files.write_json(json_path, report)
    files.write_text(markdown_path, as_markdown(report))
    return json_path, markdown_path


def _concepts(path: Path, coverage: float | None) -> dict[str, Any]:
    metadata = read_concepts_metadata(path)
    articles = _article_ranges_or_none(path)
    columns = read_columns(path, CODES)
    codes = np.stack([columns[name].fill_null(NO_CODE).to_numpy() for name in CODES], axis=1)
    assigned = codes[~lacks_codes(codes)]
    with explain_bad_parquet(path):
        num_row_groups = pq.read_metadata(path).num_row_groups
    return {
        "source": metadata.source,
        "dataset_source": metadata.dataset_source,
        "fingerprint": metadata.fingerprint,
        "space_id": metadata.space_id,
        "vector_dim": metadata.vector_dim,
        "order_key": metadata.order_key,
        "order_warning": metadata.order_warning,
        "num_source_rows": metadata.num_source_rows,
        "num_concepts": columns.num_rows,
        "num_articles": metadata.num_articles,
        "num_dropped": len(metadata.dropped),
        "duplicates_policy": metadata.duplicates_policy,
        "dropped": metadata.dropped,
        "num_row_groups": num_row_groups,
        "vector_coverage_fraction": coverage,
        "num_tmd_codes": len(np.unique(assigned, axis=0)),
        "num_concepts_with_tmd_codes": len(assigned),
        "article_lengths": None if articles is None else _lengths(articles),
        "sample_articles": [] if articles is None else _samples(path, articles),
    }


def _article_ranges_or_none(path: Path) -> Articles | None:
    """Return the rows of each article, None if one is not a single run (a finding names it)."""
    codes = read_columns(path, ["article_id"])["article_id"].combine_chunks().dictionary_encode()
    num_runs = int(np.count_nonzero(np.diff(codes.indices.to_numpy(), prepend=-1)))
    return article_ranges(path) if len(codes) and num_runs == len(codes.dictionary) else None


def _lengths(articles: Articles) -> dict[str, float]:
    lengths = articles.lengths
    return {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": float(lengths.mean()),
        "max": int(lengths.max()),
    }


def _samples(path: Path, articles: Articles) -> list[dict[str, Any]]:
    """Return some articles spread over the table, each with its first texts."""
    chosen = np.unique(np.linspace(0, len(articles.ids) - 1, NUM_SAMPLE_ARTICLES).astype(int))
    table = read_columns(path, ["position", "concept_text"])
    samples = []
    for index in chosen.tolist():
        length = int(articles.lengths[index])
        first = table.slice(int(articles.first_rows[index]), min(length, NUM_SAMPLE_TEXTS)).to_pylist()
        concepts = [{"position": row["position"], "text": _shortened(row["concept_text"] or "")} for row in first]
        samples.append({"article_id": articles.ids[index], "num_concepts": length, "concepts": concepts})
    return samples


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"


def as_markdown(report: Mapping[str, Any]) -> str:
    verdict = "passed" if report["passed"] else "FAILED"
    counts = (
        f"{report['num_failed']} failed, {counted(report['num_warnings'], 'warning')}, "
        f"{report['num_not_checked']} not checked"
    )
    lines = ["# Data verification", "", f"Verdict: **{verdict}** ({counts}).", *_open_lines(report["findings"])]
    if report["concepts"] is not None:
        lines += _concept_lines(report["concepts"])
    else:
        lines += ["", "No concept table was written, because a blocking check of the source failed (see below)."]
    if report["sequences"] is not None:
        lines += _sequence_lines(report["sequences"])
    invariants = [
        {"invariant": f"`{found['name']}`", "outcome": found["outcome"], "message": found["message"]}
        for found in report["findings"]
    ]
    lines += ["", "## Invariants", "", table_of(invariants).markdown()]
    if report["concepts"] is not None:
        lines += _sample_lines(report["concepts"]) + _drop_lines(report["concepts"])
    return "\n".join(lines) + "\n"


def _open_lines(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    """List failures and warnings with their remedies, and what was not checked."""
    findings = sorted(findings, key=lambda found: found["outcome"])
    lines = [
        f"- {found['outcome']}: `{found['name']}`. {found['remedy']}".rstrip()
        for found in findings
        if found["outcome"] in ("failed", "warning")
    ]
    open_ones = [f"`{found['name']}`" for found in findings if found["outcome"] == "not checked"]
    lines += [f"- not checked: {', '.join(open_ones)}"] if open_ones else []
    return ["", *lines] if lines else []


def _concept_lines(concepts: Mapping[str, Any]) -> list[str]:
    lengths, coverage = concepts["article_lengths"], concepts["vector_coverage_fraction"]
    rows = {
        "source": f"{concepts['source']}, dataset_source = {concepts['dataset_source']}",
        "rows in the source": concepts["num_source_rows"],
        "dropped duplicates": f"{concepts['num_dropped']} (policy: {concepts['duplicates_policy']})",
        "concepts": concepts["num_concepts"],
        "articles": concepts["num_articles"],
        "concepts in an article": "unknown: an article is in several pieces"
        if lengths is None
        else f"{lengths['min']} to {lengths['max']}, median {lengths['median']:g}, mean {lengths['mean']:.1f}",
        "vector coverage": "not checked" if coverage is None else f"{coverage:.2%}",
        "vectors": f"{concepts['vector_dim']} wide, space `{concepts['space_id']}`",
        "TMD codes": f"{concepts['num_tmd_codes']} different, on "
        f"{counted(concepts['num_concepts_with_tmd_codes'], 'concept')}",
        "order": concepts["order_key"],
        "fingerprint": f"`{concepts['fingerprint']}`",
    }
    facts = [{"property": name, "value": value} for name, value in rows.items()]
    lines = ["", "## Concepts", "", table_of(facts).markdown()]
    return [*lines, "", f"**Warning:** {concepts['order_warning']}"] if concepts["order_warning"] else lines


def _sequence_lines(sequences: Mapping[str, Any]) -> list[str]:
    lines = ["", "## Sequences", ""]
    num_short = sequences.get("num_articles_without_window", 0)
    lines.append(
        f"{counted(sequences['num_windows'], 'window')}, expected {sequences['num_expected_windows']:,} "
        f"(context {sequences.get('context_length')}; {counted(num_short, 'article')} too short)."
    )
    if sequences.get("is_leaking"):
        lines += ["", f"**Leaking:** {sequences.get('leak_reason')}"]
    splits = sequences.get("splits") or {}
    columns = {"articles": "num_articles", "concepts": "num_concepts", "windows": "num_sequences"}
    rows = [{"split": name} | {key: counts[count] for key, count in columns.items()} for name, counts in splits.items()]
    return [*lines, "", table_of(rows).markdown()] if rows else lines


def _sample_lines(concepts: Mapping[str, Any]) -> list[str]:
    lines = ["", "## Sample articles, in order"]
    for sample in concepts["sample_articles"]:
        lines += ["", f"`{sample['article_id']}`, {counted(sample['num_concepts'], 'concept')}:", ""]
        lines += [f"- {concept['position']}: {concept['text'].replace('<', '&lt;')}" for concept in sample["concepts"]]
    return lines


def _drop_lines(concepts: Mapping[str, Any]) -> list[str]:
    dropped = concepts["dropped"]
    if not dropped:
        return []
    lines = ["", "## Dropped duplicates", "", table_of(dropped[:NUM_LISTED_DROPS]).markdown()]
    num_more = len(dropped) - NUM_LISTED_DROPS
    return [*lines, "", f"and {num_more} more, in `{JSON_NAME}`"] if num_more > 0 else lines
