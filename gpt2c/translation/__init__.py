"""Encoder-decoder models: generating texts for sources, and scoring them."""
