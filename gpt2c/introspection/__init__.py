"""Looking inside: names of values, captures, edits, the logit lens, attribution, activation patching."""
