"""gpt2c inside other programs: lm-evaluation-harness, Ray and `datasets`."""
