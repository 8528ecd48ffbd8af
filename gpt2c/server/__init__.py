"""``gpt2c serve``: the model over HTTP, in the forms of OpenAI's API. It needs the extra ``server``."""
