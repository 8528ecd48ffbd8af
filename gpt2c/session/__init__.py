"""The state that follows a text while it is written."""
