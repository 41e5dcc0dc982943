"""Sequences to a trained model: `config`, `data`, `batches`, `objectives`, `loop`, `checkpoint`, then `invariants`."""
