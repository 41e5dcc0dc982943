"""Which trained model is the one that everybody loads: champion (the rule), selection (the rule on trained models)."""
