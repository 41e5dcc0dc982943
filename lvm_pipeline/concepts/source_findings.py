"""What only the source can answer for, before anything is written: coverage, widths, spaces, packings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lvm_pipeline.concepts.reader import PackedCodes
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity, listed

UNDECLARED = "undeclared-"


def undeclared_space(vector_dim: int) -> str:
    """Return the space id of vectors whose space nobody named."""
    return f"{UNDECLARED}{vector_dim}"


def every_concept_has_a_vector(num_concepts: int, num_missing: int, missing_ids: Sequence[str]) -> Finding:
    """Coverage must be complete; `missing_ids` names some of the concepts without a vector."""
    coverage = 1.0 - num_missing / num_concepts if num_concepts else 0.0
    message = f"all {num_concepts} concepts have a vector"
    if num_missing:
        message = (
            f"{num_missing} of {num_concepts} concepts have no vector: {listed(missing_ids, num_missing)}; "
            "encode them or leave them out"
        )
    return Finding(
        name="every_concept_has_a_vector",
        passed=not num_missing,
        severity=Severity.BLOCKING,
        message=message,
        observed=coverage,
        allowed=1.0,
        details={"num_missing": num_missing, "cpe_ids": list(missing_ids[:MAX_LISTED])},
    )


def vectors_are_of_one_width(widths: Mapping[int, int], ids_by_width: Mapping[int, Sequence[str]]) -> Finding:
    """All vectors must have one width above 0; those that have not the commonest are named.

    Args:
        widths: How many vectors have each width.
        ids_by_width: Some concepts of each width.
    """
    commonest = max(widths, key=lambda width: (width > 0, widths[width]), default=0)
    others = [
        (cpe_id, width) for width in sorted(widths) if width != commonest or not width for cpe_id in ids_by_width[width]
    ]
    counted = ", ".join(f"{count} of width {width}" for width, count in sorted(widths.items()))
    passed = len(widths) <= 1 and 0 not in widths
    message = f"all vectors have one width ({counted})" if widths else "there is no vector to look at"
    if not passed:
        names = listed([f"{cpe_id} (width {width})" for cpe_id, width in others])
        message = f"vectors differ in width or are empty ({counted}): {names}; encode all concepts with one encoder"
    return Finding(
        name="vectors_are_finite_and_of_one_width",
        passed=passed,
        severity=Severity.BLOCKING,
        message=message,
        observed=float(len(widths)),
        allowed=1.0,
        details={
            "widths": {str(width): count for width, count in sorted(widths.items())},
            "cpe_ids": [cpe_id for cpe_id, _ in others[:MAX_LISTED]],
        },
    )


def choose_space(counts: Mapping[str | None, int], *, wanted: str | None) -> tuple[str | None, Finding | None]:
    """Decide which space the vectors are in: what the table says, and where it says nothing, what the setting says.

    Args:
        counts: Vectors for each space id of the table; None for those that name none.
        wanted: Space id of the setting.

    Returns:
        The space id, None where nobody names one; and a failed finding where table and setting contradict.
    """
    named = {space: count for space, count in counts.items() if space is not None}
    num_unnamed = counts.get(None, 0)
    if len(named) > 1:
        spaces = ", ".join(f"{space} ({count} vectors)" for space, count in named.items())
        return None, _space_failure(f"the vectors are in several spaces: {spaces}; encode all with one encoder", named)
    if not named:
        return wanted, None
    (space,) = named
    if wanted is not None and wanted != space:
        return None, _space_failure(
            f"LVM_SPACE_ID says {wanted}, but {named[space]} vectors of the table are in {space}; correct the setting",
            named,
        )
    if num_unnamed and wanted is None:
        return None, _space_failure(
            f"{num_unnamed} vectors name no space beside {named[space]} in {space}; "
            f"set LVM_SPACE_ID={space} if they are in the same one",
            named,
        )
    return space, None


def _space_failure(message: str, named: Mapping[str, int]) -> Finding:
    return Finding(
        name="vectors_match_their_space",
        passed=False,
        severity=Severity.BLOCKING,
        message=message,
        observed=float(len(named)),
        allowed=1.0,
        details={"spaces": dict(named)},
    )


def tmd_packing_is_known(codes: PackedCodes | None) -> Finding:
    """Where the table has TMD codes as columns and packed, both must agree by `d<<11 | t<<6 | m`."""
    name, severity = "tmd_packing_is_known", Severity.WARNING
    if codes is None or not codes.num_rows:
        message = "the source has no packed TMD codes to compare"
        return Finding(name=name, passed=True, severity=severity, message=message, was_checked=False)
    num_other = codes.num_rows - codes.num_known
    message = f"all {codes.num_rows} packed TMD codes are domain<<11 | task<<6 | modifier"
    if num_other:
        message = (
            f"{num_other} of {codes.num_rows} packed TMD codes are not domain<<11 | task<<6 | modifier "
            f"({codes.num_shifted} are domain<<12 | task<<7 | modifier<<1); the three columns are used"
        )
    return Finding(
        name=name,
        passed=not num_other,
        severity=severity,
        message=message,
        observed=float(num_other),
        allowed=0.0,
        details={"num_packed": codes.num_rows, "num_shifted": codes.num_shifted},
    )


def finding_of(
    name: str,
    problems: Iterable[str],
    *,
    good: str,
    observed: float | None,
    allowed: float = 0.0,
    severity: Severity = Severity.BLOCKING,
    details: dict[str, Any] | None = None,
) -> Finding:
    """Pass where there is no problem; the problems are the message of a failure."""
    problems = list(problems)
    return Finding(
        name=name,
        passed=not problems,
        severity=severity,
        message="; ".join(problems) or good,
        observed=None if observed is None else float(observed),
        allowed=allowed,
        details=details or {},
    )
