"""What is read off the last hidden states: labels of texts and tokens, choices between texts, embeddings."""
