"""Text to vectors. Read: encoder (the contract), lsa, sentence_transformer, registry."""
