"""Concepts to sequences. Read: schema, windows, near_duplicates, splits, rows, build, invariants."""
