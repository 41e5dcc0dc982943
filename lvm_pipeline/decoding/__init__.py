"""Vectors to text: the contract of a decoder, and the decoders."""
