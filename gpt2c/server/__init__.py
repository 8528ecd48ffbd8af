"""``gpt2c serve``: the model over HTTP, compatible with OpenAI's API. Needs the extra ``server``."""
