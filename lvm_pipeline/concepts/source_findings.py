"""Findings that need the source table: widths, spaces, packed codes."""

from collections.abc import Mapping, Sequence

from lvm_pipeline.concepts.content_invariants import tmd_packing_is_known
from lvm_pipeline.concepts.reader import PackedCodes
from lvm_pipeline.concepts.vector_invariants import vectors_are_finite_and_of_one_width, vectors_match_their_space
from lvm_pipeline.findings import MAX_LISTED, Finding, listed
from lvm_pipeline.source.space_ids import is_declared
from lvm_pipeline.words import counted


def width_finding(widths: Mapping[int, int], ids_by_width: Mapping[int, Sequence[str]]) -> Finding:
    """Check that all vectors have one width above 0; `ids_by_width` names some concepts of each."""
    commonest = max(widths, key=lambda width: (width > 0, widths[width]), default=0)
    others = [
        (cpe_id, width) for width in sorted(widths) if width != commonest or not width for cpe_id in ids_by_width[width]
    ]
    counted = ", ".join(f"{count} of width {width}" for width, count in sorted(widths.items()))
    passed = len(widths) <= 1 and 0 not in widths
    message = f"all vectors have one width ({counted})" if widths else "there are no vectors"
    if not passed:
        names = listed([f"{cpe_id} (width {width})" for cpe_id, width in others])
        message = f"vectors differ in width or are empty ({counted}): {names}"
    return vectors_are_finite_and_of_one_width.finding(
        passed=passed,
        message=message,
        observed=len(widths),
        allowed=1,
        details={
            "widths": {str(width): count for width, count in sorted(widths.items())},
            "cpe_ids": [cpe_id for cpe_id, _ in others[:MAX_LISTED]],
        },
    )


def choose_space(counts: Mapping[str | None, int], *, wanted: str | None) -> tuple[str | None, Finding | None]:
    """Choose the space of the vectors: the one that the table declares, or else the `wanted` one of the setting.

    `counts` is the number of vectors for each space id; None, or an undeclared space as `lvm ingest` writes it, for
    those that declare none. The space id is None if nothing declares it; if table and setting disagree, there is a
    failed finding.
    """
    named = {space: count for space, count in counts.items() if space is not None and is_declared(space)}
    num_unnamed = sum(counts.values()) - sum(named.values())
    problem = None
    if len(named) > 1:
        spaces = ", ".join(f"{space} ({counted(count, 'vector')})" for space, count in named.items())
        problem = f"the vectors are in several spaces: {spaces}"
    elif not named:
        return wanted, None
    elif wanted is not None and wanted not in named:
        (space,) = named
        problem = f"LVM_SPACE_ID is {wanted}, but {named[space]} vectors of the table are in {space}"
    elif num_unnamed and wanted is None:
        (space,) = named
        problem = (
            f"{counted(num_unnamed, 'vector declares', 'vectors declare')} no space, {named[space]} are in {space}; "
            f"set LVM_SPACE_ID={space} if all are in the same one"
        )
    if problem is None:
        return next(iter(named)), None
    return None, vectors_match_their_space.finding(
        passed=False, message=problem, observed=len(named), allowed=1, details={"spaces": named}
    )


def packing_finding(codes: PackedCodes | None) -> Finding:
    """Check that packed TMD codes agree with the three columns by `domain<<11 | task<<6 | modifier`."""
    if codes is None or not codes.num_rows:
        return tmd_packing_is_known.not_checked("the source has no packed TMD codes")
    num_other = codes.num_rows - codes.num_known
    message = f"all {codes.num_rows} packed TMD codes are domain<<11 | task<<6 | modifier"
    if num_other:
        message = (
            f"{num_other:,} of {codes.num_rows:,} packed TMD codes are not domain<<11 | task<<6 | modifier "
            f"({codes.num_shifted} are domain<<12 | task<<7 | modifier<<1); the three columns are used"
        )
    return tmd_packing_is_known.finding(
        passed=not num_other,
        message=message,
        observed=num_other,
        allowed=0,
        details={"num_packed": codes.num_rows, "num_shifted": codes.num_shifted},
    )
