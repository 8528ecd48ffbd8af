"""Scoring texts: passages and their windows, scores, words, the cost of number formats."""
