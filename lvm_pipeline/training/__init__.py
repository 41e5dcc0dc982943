"""Sequences to a trained model: config, data, batches, objectives, loop, trained_model, invariants."""
