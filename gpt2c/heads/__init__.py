"""Uses of the last hidden states: labels of texts and tokens, choices between texts, embeddings."""
