"""How good is a prediction: targets, metrics, retrieval, arithmetic, ridge, baselines, scores, uncertainty."""
