"""A trained model at work: concepts in, one after the other, and the next concept's vector out."""
