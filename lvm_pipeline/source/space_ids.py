"""Space ids: of vectors whose encoder is declared, and of others."""

UNDECLARED = "undeclared-"
FITTED = "lsa-768@"  # of encoders that `lvm ingest` fits on the articles that hash to train


def undeclared_space(vector_dim: int | None) -> str:
    """Return the space id of vectors whose encoder is not declared."""
    return f"{UNDECLARED}{vector_dim}"


def is_declared(space_id: str) -> bool:
    """Whether a space id names the encoder of the vectors."""
    return not space_id.startswith(UNDECLARED)
