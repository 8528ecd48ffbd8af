"""State that follows a text as it is written."""
