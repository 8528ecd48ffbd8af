"""``import gpt2c.lm_eval`` registers the model; ``python -m gpt2c.lm_eval run …`` runs lm-eval with it."""

from .integrations.lm_eval import GPT2LM as GPT2LM

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
