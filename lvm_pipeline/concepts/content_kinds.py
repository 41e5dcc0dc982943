"""The content columns of a concept table, grouped by kind: texts, TMD codes, negatives."""

TEXTS, CODES, NEGATIVES = "texts", "codes", "negatives"
CONTENT: dict[str, tuple[str, ...]] = {
    TEXTS: ("concept_text",),
    CODES: ("domain", "task", "modifier", "tmd_dense"),
    NEGATIVES: ("soft_negatives", "hard_negatives"),
}
