"""Scores or continuations for whole files of texts.

tasks.py computes results for texts. jobs.py plans and runs the work, and resumes it with journal.py.
formats.py lists the file formats, which jsonl.py (JSON and .txt), delimited.py (.csv and .tsv) and parquet.py
read and write record by record. lines.py decompresses; records.py has the types that all share.
"""
