"""How good is a prediction: targets, arithmetic, ridge, baselines, metrics, retrieval, uncertainty."""
