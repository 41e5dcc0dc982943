"""What predicts: `_contract`, `_residual_head`, `_backbone`; then one file an architecture, found by `_registry`."""
