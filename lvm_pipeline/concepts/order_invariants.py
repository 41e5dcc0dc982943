"""Whether the rows are articles in order, each concept once."""

import numpy as np

from lvm_pipeline.concepts.facts import ConceptFacts
from lvm_pipeline.concepts.ordering import ORDER_FINDING
from lvm_pipeline.concepts.source_findings import finding_of
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity, listed


def order_is_unambiguous(facts: ConceptFacts) -> Finding:
    """The order was decided by a rule when the source was read; a file alone cannot show more than that."""
    known = next((finding for finding in facts.source_findings if finding.name == ORDER_FINDING), None)
    if known is not None:
        return known
    warning = facts.metadata.order_warning
    return Finding(
        name=ORDER_FINDING,
        passed=warning is None,
        severity=Severity.BLOCKING if warning is None else Severity.WARNING,
        message=warning or f"the concepts are ordered by {facts.metadata.order_key}, as the file says",
        was_checked=False,
        details={"order_key": facts.metadata.order_key},
    )


def articles_are_contiguous(facts: ConceptFacts) -> Finding:
    """Each article is one unbroken run of rows, and the columns `row` and `article_index` count them from 0."""
    starts = np.flatnonzero(np.diff(facts.article_codes, prepend=-1))
    runs = np.bincount(facts.article_codes[starts], minlength=len(facts.article_ids))
    _, firsts = np.unique(facts.article_codes[starts], return_index=True)
    again = np.delete(starts, firsts).tolist()
    split_ids = [facts.article_ids[code] for code in np.flatnonzero(runs > 1).tolist()]
    wrong_rows = np.flatnonzero(facts.rows != np.arange(facts.num_concepts))
    run_numbers = np.cumsum(np.diff(facts.article_codes, prepend=-1) != 0) - 1
    wrong_indices = np.flatnonzero(facts.article_indices != run_numbers)
    problems = []
    if split_ids:
        where = listed([f"{facts.article_ids[facts.article_codes[row]]} again at row {row}" for row in again])
        problems.append(f"{len(split_ids)} articles are not in one run: {where}")
    if len(wrong_rows):
        problems.append(f"{len(wrong_rows)} rows are not numbered from 0 on, first {facts.named(wrong_rows[:1])[0]}")
    if len(wrong_indices) and not split_ids:
        problems.append(f"article_index does not count the articles from {facts.named(wrong_indices[:1])[0]} on")
    return finding_of(
        "articles_are_contiguous",
        problems,
        good=f"{len(facts.article_ids)} articles are unbroken runs of rows",
        observed=len(split_ids),
        details={
            "article_ids": split_ids[:MAX_LISTED],
            "rows": again[:MAX_LISTED],
            "num_misnumbered_rows": len(wrong_rows),
            "num_wrong_article_indices": len(wrong_indices),
        },
    )


def positions_have_no_gap(facts: ConceptFacts) -> Finding:
    """The positions of each article are 0, 1, 2 and so on: a gap is a concept that is missing."""
    order = np.argsort(facts.article_codes, kind="stable")
    codes = facts.article_codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    expected = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    wrong = np.flatnonzero(facts.positions[order] != expected)
    wrong_codes, firsts = np.unique(codes[wrong], return_index=True)
    offenders = [
        {
            "article_id": facts.article_ids[code],
            "row": int(order[wrong[first]]),
            "position": int(facts.positions[order[wrong[first]]]),
            "expected": int(expected[wrong[first]]),
        }
        for code, first in zip(wrong_codes.tolist(), firsts.tolist(), strict=True)
    ][:MAX_LISTED]
    names = [
        f"{found['article_id']} (row {found['row']} has position {found['position']}, expected {found['expected']})"
        for found in offenders
    ]
    problem = (
        f"{len(wrong_codes)} articles have positions that are missing, doubled or out of order: "
        f"{listed(names, len(wrong_codes))}; "
        "load the missing concepts, or name the column that orders an article (LVM_ARTICLE_COLUMN, LVM_POSITION_COLUMN)"
    )
    return finding_of(
        "positions_have_no_gap",
        [problem] if len(wrong_codes) else [],
        good="the positions of every article count from 0 without a gap",
        observed=len(wrong_codes),
        details={"num_rows": len(wrong), "articles": offenders},
    )


def cpe_ids_are_unique(facts: ConceptFacts) -> Finding:
    """No two rows share a cpe_id."""
    encoded = facts.cpe_ids.dictionary_encode()
    codes = encoded.indices.to_numpy()
    repeated = np.flatnonzero(np.bincount(codes) > 1)
    rows = {
        str(encoded.dictionary[code]): np.flatnonzero(codes == code).tolist() for code in repeated[:MAX_LISTED].tolist()
    }
    names = [f"{cpe_id} in rows {', '.join(map(str, found[:MAX_LISTED]))}" for cpe_id, found in rows.items()]
    problem = f"{len(repeated)} cpe_ids stand in several rows: {listed(names, len(repeated))}; delete the repeated rows"
    return finding_of(
        "cpe_ids_are_unique",
        [problem] if rows else [],
        good=f"all {facts.num_concepts} cpe_ids differ",
        observed=len(repeated),
        details={"rows": rows},
    )


def articles_are_long_enough(facts: ConceptFacts, *, context_length: int = 5) -> Finding:
    """Every article has a context and a target; shorter ones give no sequence."""
    lengths = facts.article_lengths()
    short = np.flatnonzero(lengths <= context_length)
    names = [f"{facts.article_ids[code]} ({lengths[code]})" for code in short[:MAX_LISTED].tolist()]
    problem = (
        f"{len(short)} of {len(lengths)} articles have fewer than {context_length + 1} concepts and give no sequence: "
        f"{listed(names, len(short))}"
    )
    return finding_of(
        "articles_are_long_enough",
        [problem] if len(short) else [],
        severity=Severity.WARNING,
        good=f"every article has at least {context_length + 1} concepts",
        observed=len(short),
        details={
            "context_length": context_length,
            "num_concepts": int(lengths[short].sum()),
            "article_ids": [facts.article_ids[code] for code in short[:MAX_LISTED].tolist()],
        },
    )
