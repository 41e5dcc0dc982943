"""Whether the vectors are there, usable, and of the space they claim.

Shapes: n = texts, D = vector width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts import source_findings
from lvm_pipeline.concepts.facts import ConceptFacts
from lvm_pipeline.concepts.source_findings import UNDECLARED, finding_of, listed
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity

CANARY_COSINE = 0.99
NORM_TOLERANCE = 0.01


class CanaryEncoder(Protocol):
    """An encoder, as far as this stage uses one."""

    @property
    def space_id(self) -> str:
        """The space its vectors are in."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to vectors (n, D)."""
        ...


def every_concept_has_a_vector(facts: ConceptFacts) -> Finding:
    """Coverage is complete; the concepts without a vector are named."""
    missing = np.flatnonzero(facts.widths < 0)
    ids = [str(facts.cpe_ids[row]) for row in missing[:MAX_LISTED].tolist()]
    return source_findings.every_concept_has_a_vector(facts.num_concepts, len(missing), ids)


def vectors_are_finite_and_of_one_width(facts: ConceptFacts) -> Finding:
    """Every vector has the width that the file names, and no NaN or infinity."""
    allowed = facts.metadata.vector_dim
    other = np.flatnonzero((facts.widths >= 0) & (facts.widths != allowed))
    broken = np.flatnonzero(~facts.is_finite)
    problems = []
    if len(other):
        names = [
            f"{name} is {facts.widths[row]} wide" for name, row in zip(facts.named(other[:20]), other, strict=False)
        ]
        problems.append(f"{len(other)} vectors are not {allowed} wide: {listed(names, len(other))}")
    if len(broken):
        names = listed(facts.named(broken[:MAX_LISTED]), len(broken))
        problems.append(f"{len(broken)} vectors hold NaN or infinity: {names}; encode these concepts again")
    return finding_of(
        "vectors_are_finite_and_of_one_width",
        problems,
        good=f"all vectors are finite and {allowed} wide",
        observed=len(other) + len(broken),
        details={
            "num_of_other_width": len(other),
            "num_not_finite": len(broken),
            "rows": np.concatenate([other, broken])[:MAX_LISTED].tolist(),
            "cpe_ids": [str(facts.cpe_ids[row]) for row in np.concatenate([other, broken])[:MAX_LISTED].tolist()],
        },
    )


def vectors_match_their_space(facts: ConceptFacts, *, encoder: CanaryEncoder | None = None) -> Finding:
    """The vectors are what their space id says: lengths fit, and some texts encoded again give the same vectors.

    A vector of length 0 fits no space. Where an encoder is at hand, or most vectors have length 1, all must have it.
    Without the encoder the finding says that the canaries were not checked.
    """
    space_id = facts.metadata.space_id
    problems, details = _norm_problems(facts, is_unit=encoder is not None)
    details["space_id"] = space_id
    cosines: NDArray[np.float32] | None = None
    if encoder is not None and encoder.space_id != space_id:
        problems.append(f"the encoder at hand makes vectors of {encoder.space_id}, the table says {space_id}")
    elif encoder is not None:
        cosines = _canary_cosines(facts, encoder)
        wrong = facts.canary_rows[~(cosines >= CANARY_COSINE)]
        details |= {
            "num_canaries": len(cosines),
            "cosines": dict(zip(map(str, facts.canary_rows), cosines.tolist(), strict=True)),
        }
        if len(wrong):
            problems.append(
                f"{len(wrong)} of {len(cosines)} texts encoded again by {space_id} give other vectors "
                f"(lowest cosine {np.nanmin(cosines):.3f}, allowed {CANARY_COSINE}): {listed(facts.named(wrong))}"
            )
    finding = finding_of(
        "vectors_match_their_space",
        problems,
        good=f"all vectors fit the space {space_id}"
        + ("" if cosines is not None else "; no text was encoded again, as its encoder is not at hand"),
        observed=None if cosines is None else float(np.min(cosines, initial=1.0)),
        allowed=CANARY_COSINE,
        details=details,
    )
    if finding.passed and space_id.startswith(UNDECLARED):
        message = (
            f"nobody named the space of the vectors ({space_id}); name it with LVM_SPACE_ID or `lvm ingest --space`"
        )
        return replace(finding, passed=False, severity=Severity.WARNING, message=message)
    return replace(finding, was_checked=cosines is not None or not finding.passed)


def _norm_problems(facts: ConceptFacts, *, is_unit: bool) -> tuple[list[str], dict[str, Any]]:
    known = np.isfinite(facts.norms)
    is_one = np.abs(facts.norms - 1) <= NORM_TOLERANCE
    is_unit = is_unit or is_one.sum() * 2 > known.sum()
    zero = np.flatnonzero(facts.norms == 0)
    wrong = np.flatnonzero(known & ~is_one & (facts.norms > 0)) if is_unit else np.empty(0, np.int64)
    problems = []
    if len(zero):
        problems.append(f"{len(zero)} vectors have length 0: {listed(facts.named(zero[:MAX_LISTED]), len(zero))}")
    if len(wrong):
        names = [
            f"{name} has {facts.norms[row]:.3f}" for name, row in zip(facts.named(wrong[:20]), wrong, strict=False)
        ]
        problems.append(
            f"{len(wrong)} vectors of a space of unit vectors have another length: {listed(names, len(wrong))}"
        )
    norms = facts.norms[known]
    details: dict[str, Any] = {
        "is_unit": bool(is_unit),
        "num_of_other_length": len(wrong) + len(zero),
        "rows": np.concatenate([zero, wrong])[:MAX_LISTED].tolist(),
        "norm_min": float(norms.min()) if norms.size else None,
        "norm_max": float(norms.max()) if norms.size else None,
    }
    return problems, details


def _canary_cosines(facts: ConceptFacts, encoder: CanaryEncoder) -> NDArray[np.float32]:
    """Cosine of each canary with its text encoded again; NaN where it has no vector or another width."""
    again = np.asarray(encoder.encode(facts.canary_texts), np.float32)
    cosines = np.full(len(facts.canary_rows), np.nan, np.float32)
    for number, vector in enumerate(facts.canary_vectors):
        if vector is not None and vector.shape == again[number].shape:
            norms = np.linalg.norm(vector) * np.linalg.norm(again[number])
            cosines[number] = vector @ again[number] / norms if norms else np.nan
    return cosines
