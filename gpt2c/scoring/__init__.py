"""How probable texts are: passages and their windows, scores, words, what a number format costs."""
