"""How good is a prediction: targets, metrics, retrieval, weighted means, ridge, baselines, scores, uncertainty."""
