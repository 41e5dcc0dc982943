"""Invariants of the order: articles in one piece, positions without gaps, every id once."""

import numpy as np

from lvm_pipeline.concepts.facts import ConceptFacts
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity, invariant, listed
from lvm_pipeline.words import counted


@invariant(
    remedy="Fill document_id and sequence_index, or chunk_position; or set LVM_ARTICLE_COLUMN and LVM_POSITION_COLUMN "
    "to the columns that hold the order; or accept the order of the table's rows with LVM_ACCEPT_TABLE_ORDER=true."
)
def order_is_unambiguous(facts: ConceptFacts) -> Finding:
    """A rule puts the concepts of every article in exactly one order.

    The model learns to predict the next concept; in a wrong order there is nothing to learn.
    """
    details = {"order_key": facts.metadata.order_key}
    warning = facts.metadata.order_warning
    if warning is None:
        return order_is_unambiguous.not_checked(
            f"the file says that concepts are ordered by {facts.metadata.order_key}", details=details
        )
    return order_is_unambiguous.finding(passed=False, severity=Severity.WARNING, message=warning, details=details)


@invariant(remedy="The file is damaged or was written by another program: materialise concepts again.")
def articles_are_contiguous(facts: ConceptFacts) -> Finding:
    """Each article is one unbroken run of rows, and the columns row and article_index count from 0.

    Sequences are cut by row number.
    """
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
        problems.append(f"{counted(len(split_ids), 'article is', 'articles are')} in several pieces: {where}")
    if len(wrong_rows):
        problems.append(
            f"{counted(len(wrong_rows), 'row has', 'rows have')} "
            f"a wrong row number, first {facts.named(wrong_rows[:1])[0]}"
        )
    if len(wrong_indices) and not split_ids:
        problems.append(f"article_index is wrong from {facts.named(wrong_indices[:1])[0]} on")
    return articles_are_contiguous.from_problems(
        problems,
        otherwise=f"each of the {len(facts.article_ids):,} articles is one unbroken run of rows",
        observed=len(split_ids),
        details={
            "article_ids": split_ids[:MAX_LISTED],
            "rows": again[:MAX_LISTED],
            "num_misnumbered_rows": len(wrong_rows),
            "num_wrong_article_indices": len(wrong_indices),
        },
    )


@invariant(
    remedy="Load the listed articles again in full. If the positions come from a wrong column, set LVM_ARTICLE_COLUMN "
    "and LVM_POSITION_COLUMN; if gaps are expected (offsets, steps of ten), set both variables to the columns in use."
)
def positions_have_no_gap(facts: ConceptFacts) -> Finding:
    """Positions in an article count 0, 1, 2 and so on.

    A gap is a missing concept. The concepts before and after it would be taken for neighbours.
    """
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
    return positions_have_no_gap.from_count(
        len(wrong_codes),
        f"{counted(len(wrong_codes), 'article has', 'articles have')} missing, repeated or misordered positions: "
        f"{listed(names, len(wrong_codes))}",
        otherwise="the positions of every article count from 0 without a gap",
        details={"num_rows": len(wrong), "articles": offenders},
    )


@invariant(remedy="A join or a second load repeated rows: delete the second copies from the table.")
def cpe_ids_are_unique(facts: ConceptFacts) -> Finding:
    """No two rows have the same cpe_id."""
    encoded = facts.cpe_ids.dictionary_encode()
    codes = encoded.indices.to_numpy()
    repeated = np.flatnonzero(np.bincount(codes) > 1)
    rows = {
        str(encoded.dictionary[code]): np.flatnonzero(codes == code).tolist() for code in repeated[:MAX_LISTED].tolist()
    }
    names = [f"{cpe_id} in rows {listed(found)}" for cpe_id, found in rows.items()]
    return cpe_ids_are_unique.from_count(
        len(repeated),
        f"{counted(len(repeated), 'cpe_id occurs', 'cpe_ids occur')} more than once: {listed(names, len(repeated))}",
        otherwise=f"all {facts.num_concepts} cpe_ids differ",
        details={"rows": rows},
    )


@invariant(
    severity=Severity.WARNING,
    remedy="Nothing, if short articles are expected. Otherwise look for articles that were split or lost concepts.",
)
def articles_are_long_enough(facts: ConceptFacts, *, context_length: int = 5) -> Finding:
    """Every article holds a full context and a target. A shorter article gives no sequence."""
    lengths = facts.article_lengths()
    short = np.flatnonzero(lengths <= context_length)
    names = [f"{facts.article_ids[code]} ({lengths[code]})" for code in short[:MAX_LISTED].tolist()]
    return articles_are_long_enough.from_count(
        len(short),
        f"{len(short):,} of {len(lengths):,} articles have fewer than {context_length + 1} concepts and give no "
        f"sequence: {listed(names, len(short))}",
        otherwise=f"every article has at least {context_length + 1} concepts",
        details={
            "context_length": context_length,
            "num_concepts": int(lengths[short].sum()),
            "article_ids": [facts.article_ids[code] for code in short[:MAX_LISTED].tolist()],
        },
    )
