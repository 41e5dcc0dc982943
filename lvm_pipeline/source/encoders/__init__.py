"""Text to vectors: encoder (the contract), lsa, sentence_transformer, registry."""
