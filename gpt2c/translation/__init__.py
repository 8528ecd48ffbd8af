"""What an encoder-decoder model makes of texts: other texts, and how probable these are."""
