"""Kinds of what a concept table holds beside ids, articles and vectors, each with its columns."""

TEXTS, CODES, NEGATIVES = "texts", "codes", "negatives"
CONTENT: dict[str, tuple[str, ...]] = {
    TEXTS: ("concept_text",),
    CODES: ("domain", "task", "modifier", "tmd_dense"),
    NEGATIVES: ("soft_negatives", "hard_negatives"),
}
