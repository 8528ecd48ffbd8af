"""What a BERT makes of masks: the tokens that they may stand for, and how probable those of a text are."""
