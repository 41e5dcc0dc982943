"""Table to ordered concepts: schema, ordering, reader, numbering, duplicates, store, extract, invariants, report."""
