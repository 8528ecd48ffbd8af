"""Scores or continuations for whole files of texts.

tasks.py says what is done with texts. jobs.py plans and runs the work, and resumes it with journal.py.
formats.py lists the formats of files, which jsonl.py (JSON and .txt), delimited.py (.csv and .tsv) and
parquet.py read and write record by record. lines.py decompresses; records.py has the types that all share.
"""
