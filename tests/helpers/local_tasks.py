"""Tasks for lm-evaluation-harness that need no network: YAML and JSON lines, from the sample text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gpt2c.checkpoint import BUNDLED

TEXT = (BUNDLED / "sample.txt").read_text(encoding="utf-8")
SENTENCES = [" ".join(s.split()) for s in re.split(r"(?<=[.!?])\s+", TEXT) if len(s.split()) > 8][:16]


def choices() -> list[dict[str, Any]]:
    """The right second half of a sentence among four; contexts: empty, ending in spaces, too long."""
    begins = [s[: len(s) // 2].rpartition(" ")[0] for s in SENTENCES]
    endings = [s[len(begin) + 1 :] for begin, s in zip(begins, SENTENCES, strict=True)]
    contexts = ["", begins[1] + "  ", *begins[2:-2], TEXT[:1990] + begins[-2], TEXT[:6000] + begins[-1]]
    rows = []
    for i, context in enumerate(contexts):
        four = [endings[(i + step) % len(endings)] for step in (0, 3, 7, 11)]
        turn = i % 4  # where the right one stands
        rows.append({"context": context, "choices": four[4 - turn :] + four[: 4 - turn], "answer": turn})
    # Answers of one token, which lm-eval's hf takes from one pass; the model's own choice; other
    # scripts and a special token.
    rows += [{"context": s, "choices": ["A", "B", "C"], "answer": 1} for s in SENTENCES[:4]]
    rows.append(
        {"context": "Once upon a time", "choices": ["there was a man", "a pig had wings"], "answer": 0}
    )
    rows.append({"context": "Жил-был 老王 🙂", "choices": ["царь", "王", "<|endoftext|>"], "answer": 0})
    return rows


def documents() -> list[dict[str, Any]]:
    """Whole texts: one of four times the model's positions, one of a single token, one in other scripts."""
    return [{"text": text} for text in (TEXT, TEXT[:3000], *SENTENCES[:6], "The", "Жил-был 老王 🙂")]


def prompts() -> list[dict[str, Any]]:
    """Beginnings to continue: short ones, some with white space at the end, one that is too long."""
    begins = ["Once upon a time", "The king", "The old woman said: ", "\n", TEXT[:-40]]
    begins += [s[: 2 * len(s) // 3].rpartition(" ")[0] for s in SENTENCES[:6]]
    return [{"context": begin, "answer": "."} for begin in begins]


TASKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "gpt2c_choice": (
        choices(),
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
        },
    ),
    "gpt2c_rolling": (
        documents(),
        {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
    ),
    "gpt2c_generate": (
        prompts(),
        {
            "output_type": "generate_until",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n\n", "."], "max_gen_toks": 24, "do_sample": False},
        },
    ),
}


def write_tasks(folder: Path) -> None:
    """Write the tasks into a folder, for lm-eval's ``include_path``."""
    for name, (rows, settings) in TASKS.items():
        write_task(folder, name, rows, settings)


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Write a task and its documents."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "metadata": {"version": 1},
        **settings,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(values))  # JSON is YAML


def evaluate(folder: Path, model: Any, **model_args: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all tasks in a folder of `write_tasks`: metrics by task, answers by task and document."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        batch_size=4,
    )
    metrics = {
        task: {key: value for key, value in of.items() if isinstance(value, float)}
        for task, of in found["results"].items()
    }
    answers = {
        task: [[response for (response,) in sample["resps"]] for sample in samples]
        for task, samples in found["samples"].items()
    }
    return metrics, answers
