"""`gpt2c bench`: how fast this machine runs a model, compared with its limits.

command.py runs the command and report.py prints its tables. The measurements: load.py (new processes, to the
first token), roofs.py (the machine's limits), kernels.py and cases.py (kernels, and calls of a model, with
their shares of the roofs), formats.py (number formats, to choose one). models.py makes random weights.
"""

from .cases import Case, Result, check_answers, measure
from .command import cpu_name, run
from .models import SHAPES, random_model, random_weights
from .roofs import operation_rate, read_rate

__all__ = [
    "SHAPES",
    "Case",
    "Result",
    "check_answers",
    "cpu_name",
    "measure",
    "operation_rate",
    "random_model",
    "random_weights",
    "read_rate",
    "run",
]
