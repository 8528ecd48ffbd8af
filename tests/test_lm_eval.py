"""gpt2c in lm-evaluation-harness, against lm-eval's own "hf": recorded in data/golden/lm_eval.json, and live.

``pytest -m plugins`` after ``pip install "gpt2c[lm-eval]"``; live ``pytest -m oracle``, which also needs
``"lm_eval[hf]"``.

What is asked of gpt2c is 1e-4 of hf's log-probabilities. hf adds those of a window in float32: nine roundings
of 2**-24 (512 tokens, by halves) come on top, which counts where the sums are hundreds.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data.golden import recipe
from data.golden.make_lm_eval_folders import answers, answers_of_hf
from helpers.local_tasks import TASKS, TEXT, evaluate, prompts, write_tasks
from helpers.small_tokenizers import write_folder
from helpers.toys import recite

from gpt2c import ContextLengthError

ROOT = Path(__file__).resolve().parent.parent
GROUP = "lm_eval.models"
BOUND = 1e-4
HF_SUM = 9 * 2.0**-24
RECORDED = json.loads((recipe.FOLDER / "lm_eval.json").read_text("utf-8"))
OF_FOLDERS = json.loads((recipe.FOLDER / "lm_eval_folders.json").read_text("utf-8"))["found"]


def entry_point() -> EntryPoint:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    assert list(declared) == ["gpt2c"]
    return EntryPoint("gpt2c", declared["gpt2c"], GROUP)


def in_new_process(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_without_lm_eval_the_error_says_what_to_install():
    code = "import sys; sys.modules['lm_eval'] = None; import gpt2c; import gpt2c.lm_eval"
    assert 'pip install "gpt2c[lm-eval]"' in in_new_process(code).stderr


def test_the_package_itself_imports_neither_lm_eval_nor_ray():
    code = "import sys, gpt2c; gpt2c.GPT2, gpt2c.Score; print({'lm_eval', 'ray', 'torch'} & set(sys.modules))"
    assert in_new_process(code).stdout == "set()\n"


# -------------------------------------------------------------------------------- with lm-eval


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with the local tasks."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        write_tasks(folder)
        yield folder


@pytest.fixture(scope="module")
def ours(tasks):
    import gpt2c.lm_eval  # noqa: F401

    return evaluate(tasks, "gpt2c")


@pytest.fixture
def lm():
    pytest.importorskip("lm_eval")
    from gpt2c.lm_eval import GPT2LM

    return GPT2LM(threads=1)


def instances(kind: str, *arguments: tuple):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def check_equal(ours, theirs):
    (our_metrics, our_answers), (their_metrics, their_answers) = ours, theirs
    for task in TASKS:
        assert our_metrics[task] == pytest.approx(their_metrics[task], rel=0, abs=BOUND)
    assert our_answers["gpt2c_generate"] == their_answers["gpt2c_generate"]
    for one, other in zip(our_answers["gpt2c_choice"], their_answers["gpt2c_choice"], strict=True):
        assert [greedy for _, greedy in one] == [greedy for _, greedy in other]
        for (a, _), (b, _) in zip(one, other, strict=True):
            assert abs(a - b) <= BOUND + abs(b) * HF_SUM
    for (a,), (b,) in zip(our_answers["gpt2c_rolling"], their_answers["gpt2c_rolling"], strict=True):
        assert abs(a - b) <= BOUND + abs(b) * HF_SUM


@pytest.mark.plugins
def test_equals_the_recorded_answers_of_hf(ours):
    check_equal(ours, (RECORDED["metrics"], RECORDED["answers"]))


@pytest.mark.plugins
def test_the_tasks_ask_for_what_matters(tasks, lm):
    """Long contexts, documents longer than the context, greedy and other continuations, texts that stop."""
    answers = RECORDED["answers"]
    assert {greedy for choices in answers["gpt2c_choice"] for _, greedy in choices} == {True, False}
    assert len(lm.tok_encode(TEXT)) > 3 * lm.max_length
    assert any(len(lm.tok_encode(row["context"])) > lm.max_length for row in TASKS["gpt2c_choice"][0])
    sizes = [len(lm.tok_encode(text)) for (text,) in answers["gpt2c_generate"]]
    assert min(sizes) < 20 and len(prompts()) == len(sizes)


@pytest.mark.oracle
def test_live_equals_hf(tasks, ours):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from data.golden import make_lm_eval

    theirs = make_lm_eval.answers_of_hf(tasks)
    check_equal(ours, theirs)
    check_equal(theirs, (RECORDED["metrics"], RECORDED["answers"]))


@pytest.mark.plugins
def test_found_by_its_entry_point(tasks):
    """As lm-eval's plugins are: a name and an entry point, loaded when the name is asked for."""
    from lm_eval.api.model import LM
    from lm_eval.api.registry import Registry

    registry = Registry("model", base_cls=LM)
    registry.register("gpt2c", target=entry_point())
    from gpt2c.lm_eval import GPT2LM

    assert registry.get("gpt2c") is GPT2LM


@pytest.mark.plugins
def test_command_line(tasks, tmp_path):
    asked = ["--model", "gpt2c", "--model_args", "dtype=int8,threads=1", "--tasks", "gpt2c_choice"]
    where = ["--limit", "4", "--include_path", tasks, "--output_path", tmp_path]
    command = [sys.executable, "-m", "gpt2c.lm_eval", "run", *asked, *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "|gpt2c_choice|" in done.stdout
    (report,) = tmp_path.rglob("results_*.json")
    config = json.loads(report.read_text())["config"]
    assert config["model"] == "gpt2c" and config["model_dtype"] == "int8"
    assert config["model_numerics"].startswith("int8-native-")


@pytest.mark.plugins
def test_answers_do_not_depend_on_order_or_company(lm):
    pairs = [(c, e) for c in ("", "The king", "The king had", TEXT) for e in (" had", " was very", " a")]
    together = lm.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    shuffled = np.random.default_rng(0).permutation(len(pairs)).tolist()
    again = lm.loglikelihood(instances("loglikelihood", *(pairs[i] for i in shuffled)), disable_tqdm=True)
    alone = [lm.loglikelihood(instances("loglikelihood", pair), disable_tqdm=True)[0] for pair in pairs]
    assert together == alone
    assert again == [together[i] for i in shuffled]


@pytest.mark.plugins
def test_shorter_windows(lm):
    """max_length cuts as lm-eval's own functions say: computed here token by token from logits."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    from gpt2c.lm_eval import GPT2LM

    short = GPT2LM(threads=1, max_length=20)
    document, ids = TEXT[:400], lm.tok_encode(TEXT[:400])

    def exact(context, continuation):
        rows = [*context, *continuation][-21:][:-1]
        logits = lm.model.forward(rows).astype(np.float64)[-len(continuation) :]
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logs[np.arange(len(continuation)), continuation].sum()

    windows = map(make_disjoint_window, get_rolling_token_windows(ids, lm.prefix_token_id, 20, 1))
    (rolling,) = short.loglikelihood_rolling(instances("loglikelihood_rolling", (document,)))
    assert math.isclose(rolling, sum(exact(*window) for window in windows), rel_tol=1e-6)
    ((found, _),) = short.loglikelihood(instances("loglikelihood", (document, " the king")))
    assert math.isclose(found, exact(ids, lm.tok_encode(" the king")), rel_tol=1e-6)
    with pytest.raises(ContextLengthError, match="the window is 20"):
        short.loglikelihood(instances("loglikelihood", ("A", document)))


@pytest.mark.plugins
def test_an_empty_document_is_certain(lm):
    assert lm.loglikelihood_rolling(instances("loglikelihood_rolling", ("",), ("The",), ("",)))[::2] == [0, 0]


@pytest.mark.plugins
def test_every_answer_goes_to_the_cache(lm):
    seen = []
    lm.set_cache_hook(SimpleNamespace(add_partial=lambda *entry: seen.append(entry)))
    pairs = [("a", " b"), ("c", " d"), ("a", " e")]
    answers = lm.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    assert sorted(seen) == sorted(("loglikelihood", pair, a) for pair, a in zip(pairs, answers, strict=True))
    seen.clear()
    asked = ("The", {"until": ["."], "max_gen_toks": 3})
    (text,) = lm.generate_until(instances("generate_until", asked), disable_tqdm=True)
    (total,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", ("The",)), disable_tqdm=True)
    assert seen == [("generate_until", asked, text), ("loglikelihood_rolling", ("The",), total)]


@pytest.mark.plugins
def test_sampling(lm):
    asked = {"do_sample": True, "temperature": 1.2, "top_p": 0.9, "max_gen_toks": 8, "until": ["\n"]}
    plain = {"do_sample": True, "max_gen_toks": 8}
    requests = instances("generate_until", *[("Once", asked)] * 3, ("The", asked), ("Once", plain))
    texts = lm.generate_until(requests, disable_tqdm=True)
    settings = {"max_new_tokens": 8, "seed": 1234}
    expected = lm.model.generate(
        "Once", temperature=1.2, top_p=0.9, stop="\n", num_return_sequences=3, **settings
    )
    assert texts[:3] == [one.text for one in expected] and len({*texts[:3]}) == 3
    assert texts[4] == lm.model.generate("Once", temperature=1, **settings).text
    assert texts == lm.generate_until(requests, disable_tqdm=True)


@pytest.mark.plugins
def test_generate_without_a_context(lm):
    (text,) = lm.generate_until(instances("generate_until", ("", {"max_gen_toks": 8})), disable_tqdm=True)
    assert text == lm.model.generate("", max_new_tokens=8).text


@pytest.mark.plugins
def test_an_end_of_text_in_letters_ends_it(lm):
    lm.model = recite("one. <|endoftext|> two")
    lm.max_length = lm.model.config.n_ctx
    asked = {"until": [], "max_gen_toks": 20}
    assert lm.generate_until(instances("generate_until", ("\n", asked)), disable_tqdm=True) == ["one. "]


@pytest.mark.plugins
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"typical_p": 0.3, "num_beams": 1},
            "have typical_p, which gpt2c does not know; allowed: until, max",
        ),
        ({"max_gen_toks": 512}, "512 new tokens, but the model sees 512"),
        ({"temperature": -1, "do_sample": True}, "temperature"),
    ],
)
def test_refused_requests(lm, asked, message):
    with pytest.raises(ValueError, match=message):
        lm.generate_until(instances("generate_until", ("Once", asked)), disable_tqdm=True)


@pytest.mark.plugins
def test_refused_arguments(lm):
    from gpt2c.lm_eval import GPT2LM

    with pytest.raises(ValueError, match="max_length"):
        GPT2LM(max_length=513)
    with pytest.raises(TypeError, match="parallelize"):
        GPT2LM(parallelize=True)


@pytest.mark.plugins
def test_other_tokenizer(lm, tmp_path):
    """A folder with the same tokens, of which a special one has another name and stands before a text."""
    from gpt2c.checkpoint import BUNDLED
    from gpt2c.lm_eval import GPT2LM

    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        text = (BUNDLED / name).read_text("utf-8").replace("<|endoftext|>", "<|end|>")
        (tmp_path / name).write_text(
            text.replace('{\n  "tok', '{\n  "add_bos_token": true,\n  "tok'), "utf-8"
        )
    other = GPT2LM(threads=1, tokenizer=str(tmp_path))
    ids = lm.tok_encode("The king")
    assert other.tok_encode("The king") == other.tok_encode("<|end|>The king") == [0, *ids]
    assert other.tok_encode("The king", add_special_tokens=False) == ids
    assert other.tok_encode("<|endoftext|>") != [0, *lm.tok_encode("<|endoftext|>")]


@pytest.mark.plugins
def test_what_stands_after_every_text_is_not_taken_off_its_beginning(lm, tmp_path):
    """A tokenizer that ends every text with a token, so that no text at all has one, too."""
    pytest.importorskip("tokenizers")
    from gpt2c.checkpoint import BUNDLED
    from gpt2c.lm_eval import GPT2LM

    vocabulary = json.loads((BUNDLED / "vocab.json").read_text("utf-8"))
    lines = (BUNDLED / "merges.txt").read_text("utf-8").splitlines()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": "<|endoftext|>", "type_id": 0}
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "added_tokens": [],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": end}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {end["id"]: {"id": end["id"], "ids": [0], "tokens": [end["id"]]}},
        },
        "model": {"type": "BPE", "vocab": vocabulary, "merges": lines[lines[0].startswith("#") :]},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    other = GPT2LM(threads=1, tokenizer=str(tmp_path))
    ids = lm.tok_encode("The king")
    assert other.tok_encode("") == [0] and other.tok_encode("The king") == [*ids, 0]
    assert other.tok_encode("The king", add_special_tokens=False) == ids


# -------------------------------------------------------------------------------- around a text


def case_name(case: dict) -> str:
    return "-".join([case["folder"], *(f"{name}={value}" for name, value in case["arguments"].items())])


def check_folder(ours: dict, theirs: dict) -> None:
    for name, expected in theirs.items():
        if name == "loglikelihood":
            assert [greedy for _, greedy in ours[name]] == [greedy for _, greedy in expected]
            pairs = [(a, b) for (a, _), (b, _) in zip(ours[name], expected, strict=True)]
        elif name == "loglikelihood_rolling":
            pairs = list(zip(ours[name], expected, strict=True))
        else:
            assert ours[name] == expected, name
            continue
        for a, b in pairs:
            assert abs(a - b) <= BOUND + abs(b) * HF_SUM


@pytest.mark.plugins
@pytest.mark.parametrize("case", OF_FOLDERS, ids=case_name)
def test_folders_equal_the_recorded_answers_of_hf(case, tmp_path):
    """Also where "hf" splits ``[CLS] a [SEP]`` off ``[CLS] a b [SEP]``: results are to be comparable."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("tokenizers")
    from gpt2c.lm_eval import GPT2LM

    folder = write_folder(tmp_path, case["folder"])
    check_folder(answers(GPT2LM(str(folder), threads=1, **case["arguments"])), case["answers"])


@pytest.mark.plugins
def test_a_tokenizer_that_names_neither_beginning_nor_end(lm, tmp_path):
    """lm-eval's "hf" fails there; here a text begins with what the tokenizer puts before it."""
    pytest.importorskip("tokenizers")
    from gpt2c.lm_eval import GPT2LM

    folder = write_folder(tmp_path, "bert")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 50256, "eos_token_id": 50256}))
    other = GPT2LM(str(folder), threads=1)
    assert (other.prefix_token_id, other.eot_token_id) == (2, 2)
    asked = ("the king", {"until": ["."], "max_gen_toks": 4})
    (text,) = other.generate_until(instances("generate_until", asked), disable_tqdm=True)
    prompt = [2, *other.tok_encode("the king", add_special_tokens=False), 3]  # as of other tokenizers
    made = other.model.generate(prompt, max_new_tokens=4).token_ids
    assert text == other.model.tokenizer.decode(made) != ""


@pytest.mark.oracle
@pytest.mark.parametrize("case", OF_FOLDERS, ids=case_name)
def test_live_folders_equal_hf(case, tmp_path):
    pytest.importorskip("torch")
    check_folder(answers_of_hf(write_folder(tmp_path, case["folder"]), case["arguments"]), case["answers"])


@pytest.mark.plugins
def test_refused_arguments_of_the_beginning(lm):
    from gpt2c.lm_eval import GPT2LM

    with pytest.raises(ValueError, match=r"prefix_token_id .* 4095, the model's token ids"):
        GPT2LM(threads=1, prefix_token_id=4096)
    with pytest.raises(TypeError, match="add_bos_token must be True or False, not 'yes'"):
        GPT2LM(threads=1, add_bos_token="yes")
