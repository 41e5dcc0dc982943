"""0. Text to `cpe_entry`: schema, articles, prose, corpus, split_hash, encoders, records, deduplication, load."""
