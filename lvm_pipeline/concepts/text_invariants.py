"""Invariant of texts and vectors together: each vector is that of its text. No encoder is needed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.facts import ConceptFacts
from lvm_pipeline.concepts.sample import ConceptSample
from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.concepts.text_match import WHOLE_ARTICLE, Fault, TextMatch, match_texts
from lvm_pipeline.concepts.text_screen import suspicious_articles
from lvm_pipeline.findings import MAX_LISTED, Finding, invariant, listed
from lvm_pipeline.source.space_ids import is_declared
from lvm_pipeline.words import counted


@invariant(
    remedy="Encode the listed articles again with the encoder of the others, or load their texts and vectors again. "
    "If your vectors are not made from these texts, set LVM_SEVERITIES=vectors_go_with_their_texts=warning."
)
def vectors_go_with_their_texts(facts: ConceptFacts) -> Finding:
    """Each vector is that of its text: a map from words to vectors, fitted on other articles, tells concepts apart.

    It fails if vectors belong to other texts (shifted or shuffled rows, replaced texts), or if some come from another
    encoder. Of more than 48,000 concepts, a sample of whole articles is compared, and every other article that looks
    suspicious in a quick pass over all.
    """
    sample, screened = _sample(facts)
    match = match_texts(sample)
    details: dict[str, Any] = {"effect": match.effect, "num_compared": len(sample.rows), "fault": match.fault.value}
    details |= screened
    details["num_articles_not_judged"] = match.num_unknown
    if match.why_not:
        return vectors_go_with_their_texts.not_checked(match.why_not, details=details)
    of = f"{len(sample.rows):,}" if sample.is_whole else f"a sample of {len(sample.rows):,} of {facts.num_concepts:,}"
    if match.fault is Fault.NONE:
        return vectors_go_with_their_texts.finding(
            passed=True,
            message=f"texts and vectors of {of} concepts go together (mean difference of cosines {match.effect:.3f})",
            observed=0,
            allowed=0,
            details=details,
        )
    rows = sample.rows[match.is_bad]
    where, named = _where(facts, rows)
    when, dated = _since_when(facts, rows)
    return vectors_go_with_their_texts.finding(
        passed=False,
        message=f"{_what(match, num_bad=len(rows), of=of)}: {where}{when}; {_space(facts)}",
        observed=len(rows) / max(1, len(sample.rows)),
        allowed=0,
        details={**details, **named, **dated, "num_bad": len(rows), "space_id": facts.metadata.space_id},
    )


def _sample(facts: ConceptFacts) -> tuple[ConceptSample, dict[str, int]]:
    """Return the articles that are compared, and how many concepts were only screened, for the details."""
    if facts.sample.is_whole or not len(facts.sample.rows):
        return facts.sample, {}
    suspicious = suspicious_articles(facts, facts.sample)
    details = {
        "num_screened": suspicious.num_screened,
        "num_suspicious_articles": suspicious.num,
        "num_suspicious_articles_compared": len(suspicious.codes),
    }
    return facts.sample_with(suspicious.codes) if suspicious.codes else facts.sample, details


def _what(match: TextMatch, *, num_bad: int, of: str) -> str:
    if match.fault is Fault.UNRELATED:
        return f"the texts do not predict the vectors ({of} concepts compared)"
    if match.offset:
        direction = "later" if match.offset > 0 else "earlier"
        return (
            f"the texts of {num_bad:,} of {of} concepts fit the vectors {counted(abs(match.offset), 'row')} {direction}"
        )
    if match.has_own_map:
        return f"{num_bad:,} of {of} concepts have vectors of another space than the others"
    return f"the vectors of {num_bad:,} of {of} concepts do not fit their texts"


def _where(facts: ConceptFacts, rows: NDArray[np.int64]) -> tuple[str, dict[str, Any]]:
    """Name the articles that are bad as a whole, or else rows."""
    num_bad = np.bincount(facts.article_codes[rows], minlength=len(facts.article_ids))
    whole = np.flatnonzero(num_bad >= WHOLE_ARTICLE * np.maximum(facts.article_lengths(), 1))
    details = {"num_articles": len(whole), "article_ids": [facts.article_ids[code] for code in whole[:MAX_LISTED]]}
    if num_bad[whole].sum() >= WHOLE_ARTICLE * len(rows):
        noun = "article" if len(whole) == 1 else "articles"
        return f"{len(whole):,} {noun} ({listed(details['article_ids'], len(whole))})", {**details, **facts.some(rows)}
    return facts.listed(rows), {**details, **facts.some(rows)}


def _since_when(facts: ConceptFacts, rows: NDArray[np.int64]) -> tuple[str, dict[str, Any]]:
    """Say when the bad rows were created, how many of the rows since then are bad, and how many have no time."""
    created = read_columns(facts.path, ["created_at"])["created_at"]
    times = created.cast("int64").fill_null(np.iinfo(np.int64).min).to_numpy()
    known = times[rows][times[rows] > np.iinfo(np.int64).min]
    num_undated = len(rows) - len(known)
    if len(rows) == facts.num_concepts:
        return "", {"num_undated": num_undated}
    if not len(known):
        return f", created_at is empty in all {num_undated:,}", {"num_undated": num_undated}
    first, last = int(known.min()), int(known.max())
    num_between = int(np.count_nonzero((times >= first) & (times <= last)))
    since, until = (str(np.datetime64(time, "us").astype("datetime64[s]")) for time in (first, last))
    period = f"at {since}" if since == until else f"from {since} to {until}"
    text = f", created {period} UTC ({len(known):,} of the {num_between:,} concepts created then)"
    text += f", created_at is empty in {num_undated:,} more" if num_undated else ""
    return text, {
        "num_undated": num_undated,
        "created_from": since,
        "created_to": until,
        "num_created_then": num_between,
    }


def _space(facts: ConceptFacts) -> str:
    space_id = facts.metadata.space_id
    if is_declared(space_id):
        return f"all are declared to be of the space {space_id}"
    return "their encoder is not declared"
