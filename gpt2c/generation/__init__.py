"""Continuing texts: options, what changes logits, the loop, beam search and its record."""
