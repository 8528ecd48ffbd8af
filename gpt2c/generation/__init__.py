"""Continuing texts: options, logits processors, the loop, beam search and its trace."""
