"""Run a trained model: concepts in, predictions of the next concept's vector out."""
