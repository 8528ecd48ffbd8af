"""Masks of a BERT: the tokens that fit them, and the probabilities of a text's tokens."""
