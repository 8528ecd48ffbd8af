"""Makes lm_eval.json: what lm-eval's own "hf" answers to tests/helpers/local_tasks.py with the bundled model.

python tests/data/golden/make_lm_eval.py          (pip install "lm_eval[hf]==0.4.13" transformers==4.57.6)
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER.parents[2])]
from helpers.local_tasks import evaluate, write_tasks  # noqa: E402

from gpt2c.checkpoint import BUNDLED  # noqa: E402


def answers_of_hf(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and answers of lm-eval's hf for the tasks in a folder of `write_tasks`."""
    return evaluate(folder, "hf", pretrained=str(BUNDLED), dtype="float32", device="cpu")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        write_tasks(Path(name))
        metrics, answers = answers_of_hf(Path(name))
    versions = {package: version(package) for package in ("lm_eval", "transformers", "torch")}
    report = {"versions": versions, "metrics": metrics, "answers": answers}
    (FOLDER / "lm_eval.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
