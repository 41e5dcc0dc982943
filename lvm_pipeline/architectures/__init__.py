"""What predicts: `_contract`, the two heads, `_backbone`; then one file an architecture, found by `_registry`."""
