"""gpt2c inside other programs: lm-evaluation-harness, llm, Ray and `datasets`."""
