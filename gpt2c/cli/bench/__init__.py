"""How fast this machine runs a model, beside how fast it could: `gpt2c bench`.

load.py (new processes, to the first token), roofs.py (what the machine could do), kernels.py and cases.py
(kernels, and calls of a model, with their shares of the roofs), models.py (random weights), report.py (the
command).
"""

from .cases import Case, Result, check_answers, measure
from .models import SHAPES, random_model, random_weights
from .report import cpu_name, main_bench
from .roofs import operation_rate, read_rate

__all__ = [
    "SHAPES",
    "Case",
    "Result",
    "check_answers",
    "cpu_name",
    "main_bench",
    "measure",
    "operation_rate",
    "random_model",
    "random_weights",
    "read_rate",
]
