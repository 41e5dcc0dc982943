"""What must hold for a concept table, as functions that return a finding; checks, command line and tests share them."""

from pathlib import Path

from lvm_pipeline.concepts.content_invariants import (
    no_duplicate_concepts,
    texts_are_not_empty,
    tmd_codes_are_assigned,
    tmd_packing_is_known,
)
from lvm_pipeline.concepts.facts import read_facts
from lvm_pipeline.concepts.order_invariants import (
    articles_are_contiguous,
    articles_are_long_enough,
    cpe_ids_are_unique,
    order_is_unambiguous,
    positions_have_no_gap,
)
from lvm_pipeline.concepts.vector_invariants import (
    CanaryEncoder,
    every_concept_has_a_vector,
    vectors_are_finite_and_of_one_width,
    vectors_match_their_space,
)
from lvm_pipeline.findings import Finding


def check_concepts(path: Path, *, encoder: CanaryEncoder | None = None, context_length: int = 5) -> list[Finding]:
    """Run every invariant on a concept table, in the order in which they are documented.

    Args:
        path: The table.
        encoder: Encoder of the vectors' space, to encode some texts again; without one that is not checked.
        context_length: Context concepts of a sequence, which decides whether an article is long enough for one.

    Returns:
        One finding for each invariant; what only the source could show is read from the file.

    Raises:
        LvmError: If the file cannot be read.
    """
    facts = read_facts(path)
    findings = [
        order_is_unambiguous(facts),
        articles_are_contiguous(facts),
        positions_have_no_gap(facts),
        every_concept_has_a_vector(facts),
        vectors_are_finite_and_of_one_width(facts),
        vectors_match_their_space(facts, encoder=encoder),
        cpe_ids_are_unique(facts),
        no_duplicate_concepts(facts),
        texts_are_not_empty(facts),
        tmd_codes_are_assigned(facts),
        tmd_packing_is_known(facts),
        articles_are_long_enough(facts, context_length=context_length),
    ]
    from_source = {finding.name: finding for finding in facts.source_findings if not finding.passed}
    return [from_source.get(finding.name, finding) if finding.passed else finding for finding in findings]
