"""0. Text to `cpe_entry`. Read: schema, articles, prose, corpus, split_hash, encoders, records, load."""
