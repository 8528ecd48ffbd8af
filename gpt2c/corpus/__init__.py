"""Scores for whole files of texts: formats of records, and jobs that can be resumed."""
