"""The command line as a user meets it: in processes of its own."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time

import pytest
from helpers.command_line import GREEDY, TIMEOUT, command, environment, run

import gpt2c
from gpt2c import GPT2, any_model, cli
from gpt2c.checkpoint import BUNDLED

# ---- generate


def test_generate_prints_prompt_and_continuation_and_nothing_else(bundled):
    done = run("generate", "Once upon a time", *GREEDY)
    assert done.returncode == 0 and done.stderr == ""
    text = bundled.generate("Once upon a time", max_new_tokens=8).text
    assert done.stdout == f"Once upon a time{text}\n"
    assert run("generate", "Once upon a time", *GREEDY, "--no-prompt").stdout == f"{text}\n"


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["Once upon a time"], b""),
        ([], b"Once upon a time\n"),
        ([], b"Once upon a time"),
        (["-"], b"Once upon a time\r\n"),
    ],
)
def test_the_prompt_comes_from_the_argument_or_stdin(arguments, stdin):
    assert run("generate", *arguments, *GREEDY, stdin=stdin).stdout.startswith("Once upon a time there was")


def test_only_one_line_break_is_taken_off_stdin():
    found = run("generate", *GREEDY, "--json", stdin=b"A\n\n").stdout
    assert json.loads(found)["prompt"] == "A\n"


def test_an_empty_stdin_is_the_beginning_of_a_text(bundled):
    text = bundled.generate("", max_new_tokens=8).text
    assert run("generate", *GREEDY, stdin=b"").stdout == f"{text}\n"


def test_every_option_arrives(bundled):
    done = run(
        "generate",
        "The king",
        "-n",
        20,
        "--min-new-tokens",
        2,
        "--temperature",
        1.1,
        "--top-k",
        50,
        "--top-p",
        0.9,
        "--min-p",
        0.01,
        "--repetition-penalty",
        1.2,
        "--seed",
        5,
        "--stop",
        "xyzzy",
        "--stop",
        ".",
        "--logit-bias",
        "308=-inf",
        "--logit-bias",
        "259=0.5",
        "--json",
    )
    expected = bundled.generate(
        "The king",
        max_new_tokens=20,
        min_new_tokens=2,
        temperature=1.1,
        top_k=50,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.2,
        seed=5,
        stop=["xyzzy", "."],
        logit_bias={308: -math.inf, 259: 0.5},
    )
    found = json.loads(done.stdout)
    assert found["generations"][0]["token_ids"] == expected.token_ids
    assert found["generations"][0]["finish_reason"] == expected.finish_reason
    assert (found["seed"], found["prompt"], found["numerics"]) == (5, "The king", bundled.numerics)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (
            "--typical-p 0.6 --top-n-sigma 2 --xtc-probability 0.5 --xtc-threshold 0.05",
            {"typical_p": 0.6, "top_n_sigma": 2.0, "xtc_probability": 0.5, "xtc_threshold": 0.05}
            | {"top_k": 40, "top_p": 0.95},
        ),
        (
            "--mirostat 2 --mirostat-tau 3 --mirostat-eta 0.2",
            {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.2, "top_k": 0, "top_p": 1.0},
        ),
        (
            "--temperature 0 --dry-multiplier 2 --dry-base 1.5 --dry-allowed-length 1 --dry-penalty-last-n 9 "
            "--dry-sequence-breaker . --dry-sequence-breaker ;",
            {"temperature": 0, "dry_multiplier": 2.0, "dry_base": 1.5, "dry_allowed_length": 1}
            | {"dry_penalty_last_n": 9, "dry_sequence_breakers": [".", ";"]},
        ),
        (
            '--temperature 0 --exponential-decay-length-penalty 3,1.5 --watermarking-config {"bias":4}',
            {"temperature": 0, "exponential_decay_length_penalty": (3, 1.5)}
            | {"watermarking_config": {"bias": 4}},
        ),
        ("--penalty-alpha 0.6", {"temperature": 0, "penalty_alpha": 0.6, "top_k": 4}),
        (
            "--num-beams 4 --num-beam-groups 2 --diversity-penalty 0.7",
            {"temperature": 0, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
        ),
        (
            "--guidance-scale 1.5 --negative-prompt Winter",
            {"guidance_scale": 1.5, "negative_prompt": "Winter", "top_k": 40, "top_p": 0.95},
        ),
    ],
    ids=["filters", "mirostat", "dry", "end and mark", "contrastive", "groups", "guidance"],
)
def test_filters_and_penalties_of_other_programs_arrive(bundled, arguments, options):
    done = run("generate", "The king had", "-n", 30, "--seed", 5, "--json", *arguments.split())
    options = {"temperature": 0.8, "max_new_tokens": 30, "seed": 5} | options
    expected = bundled.generate("The king had", **options)
    found = json.loads(done.stdout)["generations"][0]
    assert found["token_ids"] == expected.token_ids and found["finish_reason"] == expected.finish_reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watermarking-config", "[1]"], "--watermarking-config: invalid JSON object value: '[1]'"),
        (["--watermarking-config", "{"], "--watermarking-config: invalid JSON object value: '{'"),
        (["--exponential-decay-length-penalty", "3"], "penalty: invalid N,FACTOR value: '3'"),
        (["--num-beams", "2", "--typical-p", "0.5"], "typical_p is for sampling: give a temperature above 0"),
    ],
)
def test_what_is_wrong_with_them_is_told(arguments, message):
    done = run("generate", "x", *arguments)
    assert done.returncode and message in done.stderr and "Traceback" not in done.stderr


def test_the_command_line_samples_and_tells_its_seed(bundled):
    done = run("generate", "The king", "--stats", "-n", "20")
    seed = int(re.search(r"seed (\d+)", done.stderr)[1])
    assert run("generate", "The king", "--seed", seed, "-n", "20").stdout == done.stdout
    expected = bundled.generate(
        "The king", max_new_tokens=20, temperature=0.8, top_k=40, top_p=0.95, seed=seed
    )
    assert done.stdout == f"The king{expected.text}\n"
    assert re.fullmatch(
        r"load [\d.]+ s · prompt 2 tokens · first token after \d+ ms · 20 new tokens in [\d.]+ s "
        r"\([\d.]+ tokens/s\) · seed \d+ · ended by length\n",
        done.stderr,
    )


def test_stats_of_one_greedy_token():
    done = run("generate", "The king", "--stats", "--temperature", "0", "-n", "1")
    assert "1 new token" in done.stderr and "greedy" in done.stderr and "nan" not in done.stderr


def test_several_continuations_are_told_apart(bundled):
    done = run("generate", "The king", "-n", "5", "--seed", "3", "--num-return-sequences", "2", "--stats")
    options = {"max_new_tokens": 5, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 3}
    one, two = bundled.generate("The king", num_return_sequences=2, **options)
    assert done.stdout == f"--- 1 of 2 ---\nThe king{one.text}\n--- 2 of 2 ---\nThe king{two.text}\n"
    assert "10 new tokens" in done.stderr


def test_text_comes_as_it_is_made():
    process = subprocess.Popen(
        command("generate", "The king", "-n", "500", "--min-new-tokens", "500", "--seed", "1"),
        stdout=subprocess.PIPE,
        env=environment(),
    )
    seen, times = b"", []
    while data := os.read(process.stdout.fileno(), 4096):
        seen += data
        times.append(time.monotonic())
        if seen == b"The king":
            times.clear()  # the clock starts with the last piece that is prompt only
            times.append(time.monotonic())
    prompt, first, last = times[0], times[1], times[-1]
    assert last - first > first - prompt  # most of the time passes between the first piece and the last
    assert process.wait(TIMEOUT) == 0
    process.stdout.close()


def test_generate_searches_and_tells_what_it_weighed(bundled):
    expected = bundled.generate(
        "The king had", max_new_tokens=3, num_beams=3, num_return_sequences=2, trace=True
    )
    arguments = (
        "generate",
        "The king had",
        "-n",
        "3",
        "--num-beams",
        "3",
        "--num-return-sequences",
        "2",
        "--trace",
    )
    done = run(*arguments)
    assert done.returncode == 0
    for result in expected:
        assert f"The king had{result.text}\n" in done.stdout
    assert done.stderr.strip() == str(expected[0].trace), "once, for both"
    done = run(*arguments, "--json")
    assert done.stderr == ""
    found = json.loads(done.stdout)["generations"]
    assert [result["score"] for result in found] == [result.score for result in expected]
    assert found[0]["trace"] == expected[0].trace.to_dict()
    one = run("generate", "The king had", "-n", "3", "--num-beams", "3")
    assert one.stdout == f"The king had{expected[0].text}\n" and one.stderr == ""


@pytest.mark.parametrize(
    ("options", "same"),
    [
        (("--bad-word", "so", "--bad-word", "given"), {"bad_words": ["so", "given"]}),
        (
            ("--suppress-token", "13", "--no-repeat-ngram-size", "2"),
            {"suppress_tokens": [13], "no_repeat_ngram_size": 2},
        ),
        (
            ("--presence-penalty", "1.5", "--frequency-penalty", "0.5"),
            {"presence_penalty": 1.5, "frequency_penalty": 0.5},
        ),
        (
            ("--num-beams", "3", "--length-penalty", "0", "--early-stopping", "never"),
            {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
        ),
        (("--overflow", "slide", "--hop", "100"), {"overflow": "slide", "hop": 100}),
        (("--deadline", "600"), {"deadline": 600}),
    ],
    ids=str,
)
def test_options_of_generate_are_those_of_the_api(bundled, options, same):
    done = run("generate", "The king had", "-n", "12", "--temperature", "0", *options)
    assert done.stdout == f"The king had{bundled.generate('The king had', max_new_tokens=12, **same).text}\n"


def test_generate_goes_on_inside_a_word(bundled):
    expected = bundled.generate("The king and the qu", max_new_tokens=8, heal=True)
    assert expected.text.startswith("een ")
    done = run("generate", "The king and the qu", *GREEDY, "--heal")
    assert (done.stdout, done.stderr) == (f"The king and the qu{expected.text}\n", "")


@pytest.mark.parametrize("draft", ["prompt", BUNDLED])
def test_a_draft_changes_no_text(bundled, draft):
    text = "one two three one two three one two"
    done = run("generate", text, *GREEDY, "--draft", draft)
    assert done.stdout == f"{text}{bundled.generate(text, max_new_tokens=8).text}\n"


def test_a_deadline_ends_a_text_as_it_is(bundled):
    done = run("generate", "The king", *GREEDY, "--deadline", "1e-9", "--json")
    [found] = json.loads(done.stdout)["generations"]
    assert done.returncode == 0 and done.stderr == ""
    assert (found["text"], found["token_ids"], found["finish_reason"]) == ("", [], "deadline")
    done = run("generate", "The king", *GREEDY, "--deadline", "1e-9", "--stats")
    assert done.returncode == 0 and done.stdout == "The king\n"
    assert "0 new tokens" in done.stderr and done.stderr.endswith(" · ended by deadline\n")
    assert "first token" not in done.stderr


def test_a_draft_and_a_word_for_files(bundled, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "The king and the qu"}\n')
    arguments = ("generate", "a.jsonl", "-o", "out", *GREEDY, "--heal", "--draft", "prompt", "-q")
    assert run(*arguments, cwd=tmp_path).returncode == 0
    [row] = map(json.loads, (tmp_path / "out" / "a.jsonl").read_text().splitlines())
    expected = bundled.generate("The king and the qu", max_new_tokens=8, heal=True)
    assert row["gpt2c_continuation"] == expected.text
    done = run("generate", "a.jsonl", "-o", "other", *GREEDY, "--deadline", "9", cwd=tmp_path)
    assert done.returncode == 1 and "--deadline is for a single text" in done.stderr


# ---- suggest, score, info


def test_suggest(bundled):
    best = bundled.suggest("Once upon a", k=3)
    done = run("suggest", "Once upon a", "-k", "3")
    assert done.stdout.splitlines() == [f"{s.probability:7.2%}  {json.dumps(s.text)}" for s in best]
    assert run("suggest", "-k", "3", stdin=b"Once upon a\n").stdout == done.stdout
    found = json.loads(run("suggest", "Once upon a", "-k", "3", "--json").stdout)
    assert found["text"] == "Once upon a"
    assert [s["token_id"] for s in found["suggestions"]] == [s.token_id for s in best]
    assert bytes.fromhex(found["suggestions"][0]["bytes"]) == b" time"


def test_score(bundled, tmp_path):
    text = "Once upon a time, a fée"
    score = bundled.score(text)
    done = run("score", text)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["logprob", "rank", "entropy", "token"]
    assert len(lines) == len(score) + 3
    assert lines[2].split() == [
        f"{score.logprobs[1]:.4f}",
        str(score.ranks[1]),
        f"{score.entropies[1]:.4f}",
        '"',
        'upon"',
    ]
    assert (
        f"perplexity {score.perplexity:.2f}" in lines[-1]
        and f"{score.bits_per_byte:.4f} per byte" in lines[-1]
    )
    (tmp_path / "text").write_text(text + "\n", encoding="utf-8")
    assert run("score", "-f", tmp_path / "text").stdout == done.stdout
    assert run("score", stdin=text.encode() + b"\n").stdout == done.stdout
    found = json.loads(run("score", text, "--json", "--no-bos").stdout)
    rest = bundled.score(text, bos=False)
    assert found["perplexity"] == pytest.approx(rest.perplexity) and found["tokens"] == len(rest)
    n_bytes, n_chars = len(text.encode()) - 4, len(text) - 4  # without "Once"
    assert found["bits_per_byte"] * n_bytes == pytest.approx(found["bits"])
    assert found["bits_per_char"] * n_chars == pytest.approx(found["bits"]) and n_chars < n_bytes
    assert [row["token_id"] for row in found["per_token"]] == rest.token_ids
    assert found["per_token"] == json.loads(json.dumps(rest.rows()))
    first = found["per_token"][0]
    assert (first["text"], first["start"], first["end"]) == (" upon", 4, 9)


@pytest.mark.parametrize("arguments", [[], [BUNDLED], ["-m", BUNDLED]])
def test_info(bundled, arguments):
    done = run("info", *arguments)
    assert done.returncode == 0 and done.stderr == ""
    for part in (
        "5,918,720 parameters",
        "scale_attn_by_inverse_layer_idx",
        "honoured",
        "ignored: for training only",
        "4,096",
        "<|endoftext|>",
        "76 tensors of F16",
        "cache full context",
        "6.0 MiB",
        "instruction set",
        bundled.weights.isa,
        "threads",
        bundled.numerics,
    ):
        assert part in done.stdout, part
    found = json.loads(run("info", *arguments, "--json").stdout)
    assert found["memory"] == bundled.memory_plan() and found["parameters"] == 5_918_720
    assert {"key": "n_layer", "value": 6, "status": "honoured", "note": ""} in found["config"]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_every_command_takes_a_dtype(dtype):
    model = GPT2.from_pretrained(dtype=dtype, threads=1)
    text = model.generate("Once upon a time", max_new_tokens=8).text
    assert (
        run("generate", "Once upon a time", *GREEDY, "--dtype", dtype).stdout == f"Once upon a time{text}\n"
    )
    found = json.loads(run("suggest", "Once upon a", "-k", 2, "--json", "--dtype", dtype).stdout)
    assert [s["probability"] for s in found["suggestions"]] == [
        s.probability for s in model.suggest("Once upon a", k=2)
    ]
    found = json.loads(run("score", "Once upon a time", "--json", "--dtype", dtype).stdout)
    assert found["logprob"] == model.score("Once upon a time").logprob
    found = json.loads(run("info", "--json", "--dtype", dtype).stdout)
    assert found["numerics"] == model.numerics and found["memory"] == model.memory_plan()


def test_info_shows_sampling_defaults_that_are_not_applied(tmp_path):
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
        shutil.copy(BUNDLED / name, tmp_path)
    (tmp_path / "generation_config.json").write_text(
        '{"temperature": 0.123, "do_sample": true, "eos_token_id": [0, 5], "_from_model_config": true, '
        '"transformers_version": "4.57.6"}'
    )
    out = run("info", tmp_path).stdout
    assert "not applied" in out and "0.123" in out
    assert "_from_model_config" not in out and "transformers_version" not in out
    assert "Head of" not in out


# ---- the command itself


def test_help_version_and_no_command():
    assert run("--version").stdout == f"gpt2c {gpt2c.__version__}\n"
    done = run()
    assert done.returncode == 2 and done.stdout == "" and "usage: gpt2c" in done.stderr
    help = run("--help")
    assert help.returncode == 0
    commands = ("generate", "suggest", "score", "classify", "embed", "fill")
    for name in (*commands, "explain", "info", "convert", "export", "serve", "bench"):
        assert f"    {name} " in help.stdout
        of_command = run(name, "--help").stdout
        assert of_command.startswith(f"usage: gpt2c {name}")
        assert max(map(len, of_command.splitlines())) <= 80


def test_the_ends_of_a_text_can_be_named(bundled):
    expected = bundled.generate("The king", max_new_tokens=20, eos_token_id=[14, 12])
    assert expected.finish_reason == "eos"
    ends = ("--eos-token-id", "14", "--eos-token-id", "12")
    done = run("generate", "The king", "-n", "20", "--temperature", "0", *ends)
    assert done.stdout == f"The king{expected.text}\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["write"],
            2,
            "unknown command 'write'; the commands are generate, suggest, score, fill, embed, classify,",
        ),
        (["generat", "x"], 2, "unknown command 'generat'; did you mean generate? the commands are "),
        (["-m", "gtp2"], 2, "unknown command 'gtp2'"),
        (
            ["generate", "Once", "upon"],
            1,
            "the file Once does not exist: several arguments, or one with -o DIR, are names",
        ),
        (
            ["generate", "--temprature", "1"],
            2,
            "gpt2c generate: error: unrecognized arguments: --temprature; did you mean --temperature?",
        ),
        (["generate", "x", "--max-length", "9"], 2, "--max-length 9; --max-new-tokens counts only new"),
        (
            ["generate", "x", "--do_sample"],
            2,
            "arguments: --do_sample; --temperature 0 is greedy",
        ),
        (["generate", "x", "--do-sample"], 2, "temperature above 0 samples, as the default does (0.8)"),
        (["generate", "x", "--num_beam_groups", "2"], 2, "; did you mean --num-beam-groups?"),
        (["generate", "x", "--negative-prompt-ids", "2"], 2, "; --negative-prompt takes a text"),
        (["explain", "x", "--device", "cpu"], 2, "; gpt2c runs on CPUs only"),
        (["suggest", "x", "--load-in-8bit"], 2, "--load-in-8bit; --dtype int8 stores weights in 8 bits"),
        (["info", "--device-map", "auto"], 2, "gpt2c runs on CPUs only; --threads sets the number of cores"),
        (["score", "x", "--torch-dtype", "int8"], 2, "; --dtype takes float32, bfloat16, int8 or int4"),
        (["score", "x", "--model_name", "gpt2"], 2, "; -m takes the model's name or path"),
        (["convert", "x", "y", "-m", "gpt2"], 2, "; the model is the first argument"),
        (["score", "x", "--local_files_only"], 2, "; --offline never downloads"),
        (["score", "x", "--seed", "1"], 2, "gpt2c score: error: unrecognized arguments: --seed 1$"),
        (["score", "a.csv", "--column", "t"], 2, "; --text-field names the field or column of the text"),
        (["generate", "a.csv", "--fields", "t"], 2, "; --text-field names the field or column of the text"),
        (
            ["score", "a.csv", "-o", "x", "--overwrite"],
            2,
            "command resumes, and complete outputs are kept: remove one to compute it again",
        ),
        (
            ["generate", "a.csv", "-o", "x", "--resume"],
            2,
            "; the same command resumes, and complete outputs are kept: remove",
        ),
        (["generate", "-f", "a.txt"], 2, "; a file is read from stdin: gpt2c generate - < FILE"),
        (["suggest", "-f", "a.txt"], 2, "; a file is read from stdin: gpt2c suggest - < FILE"),
        (["explain", "x", "--file", "a.txt"], 2, "; a file is read from stdin: gpt2c explain - < FILE"),
        (
            ["generate", "x", "--top", "1"],
            2,
            "unrecognized arguments: --top 1; did you mean --top-k or --top-p or --top-n-sigma?",
        ),
        (["generate", "-dash"], 2, "-dash; put a text that starts with - last, after --"),
        (["generate", "x", "-k", "3"], 2, "gpt2c generate: error: unrecognized arguments: -k 3$"),
        (["info", "/nowhere", "x"], 2, "gpt2c info: error: unrecognized arguments: x$"),
        (["generate", "-n", "many"], 2, "argument -n/--max-new-tokens: invalid int value: 'many'"),
        (["generate", "--logit-bias", "3"], 2, "argument --logit-bias: invalid ID=BIAS value: '3'"),
        (["generate", "--backend", "cuda"], 2, "invalid choice: 'cuda'"),
        (["info", "--dtype", "int2"], 2, "argument --dtype: invalid choice: 'int2'"),
        (["score", "x", "--dtype", "int8", "--backend", "blas"], 1, "dtype 'int8' needs backend 'native'"),
        (["generate", "x", "-n", "0"], 1, "max_new_tokens must be at least 1, not 0"),
        (
            ["generate", "x", "--temperature", "nan"],
            1,
            "temperature must be 0 (greedy) or above, and finite, not nan",
        ),
        (["generate", "x", "--top-p", "2", "-m", "/nowhere"], 1, "not 2"),  # before anything is loaded
        (["generate", "x", "--top-p", "0"], 1, "top_p must be above 0"),
        (["generate", "x", "--deadline", "0", "-m", "/nowhere"], 1, "seconds above 0"),
        (["generate", "x", "--heal", "--num-beams", "2"], 1, "heal goes with num_beams=1 only"),
        (["generate", "x", "--draft", "prompt", "--num-beams", "2"], 1, "draft goes with num_beams=1 only"),
        (["generate", "x", "--draft", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["generate", "x", "--token-healing"], 2, "--token-healing; --heal continues inside the last word"),
        (["generate", "x", "--max-time", "9"], 2, "--deadline ends texts after a number of seconds"),
        (["generate", "x", "--assistant-model", "y"], 2, "--draft takes a smaller model with the same"),
        (["generate", "x", "--top-k", "-1"], 1, "top_k must be at least 0"),
        (["generate", "x", "--seed", "-1"], 1, "seed must be from 0"),
        (["generate", "x", "--stop", ""], 1, "stop must not hold an empty string"),
        (["generate", "x", "--logit-bias", "5000=1"], 1, "logit_bias names token 5000"),
        (["generate", "x", "-t", "0"], 1, "threads must be from 1 to 1024, not 0"),
        (["generate", "x", "-n", "600"], 1, "at most 512 new tokens fit after it"),
        (["generate", "x", "-m", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (
            ["generate", "x", "-o", "/nowhere/at/all"],
            1,
            "/nowhere/at/all: cannot be written: No such file or directory",
        ),
        (["generate", "x", "-o", ""], 1, "-o takes the name of a file, not an empty one"),
        (
            ["generate", "x", "-m", __file__],
            1,
            "test_cli.py is not a file of weights: it is neither safetensors nor written by torch.save,",
        ),
        (
            ["generate", "x", "-o", "/"],
            1,
            "the file x does not exist: several arguments, or one with -o DIR, are names",
        ),
        (["suggest", "x", "-k", "0"], 1, "-k must be at least 1, not 0"),
        (["score", ""], 1, "the text is empty: there is nothing to score"),
        (["score", "x", "-f", "y"], 1, "give a text or a file (-f), not both"),
        (["score", "-f", "/nowhere/at/all"], 1, "/nowhere/at/all: No such file or directory"),
        (["info", "/nowhere", "-m", "/nowhere"], 1, "give the model once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_explained(arguments, status, message):
    done = run(*arguments)
    assert done.returncode == status
    assert message in " ".join(done.stderr.split()) + "$"
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(("gpt2c: error: ", f"gpt2c {arguments[0]}: error: "))
    assert done.stdout == ""


def test_input_that_is_no_utf8_is_refused():
    done = run("generate", stdin=b"caf\xe9")
    assert done.returncode == 1
    assert "stdin is not UTF-8 text: byte 3 is 0xe9; convert it first, for example with iconv" in done.stderr
    done = run("generate", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert (
        done.returncode == 1
        and "the text on the command line is not UTF-8 text: byte 3 is 0xe9" in done.stderr
    )


def test_score_of_a_long_text(bundled, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("The king went into the wood. " * 150)
    done = run("score", "-f", str(path))
    assert done.returncode == 1
    assert "give a stride, or split the text" in done.stderr
    found = json.loads(run("score", "-f", str(path), "--stride", "100", "--json").stdout)
    score = bundled.score(path.read_text(), stride=100)
    assert found["logprob"] == score.logprob and found["tokens"] > 512
    assert [token["context"] for token in found["per_token"]] == score.contexts.tolist()


def test_score_with_a_tokenizer_that_changes_the_text(monkeypatch, capsys):
    class Lower:
        def encode(self, text):
            return list(text.lower().encode())

        def decode(self, ids):
            return bytes(ids).decode("utf-8", "replace")

    load = any_model.from_pretrained

    def with_lower(*arguments, **settings):
        return load(*arguments, **settings | {"tokenizer": Lower()})

    monkeypatch.setattr(any_model, "from_pretrained", with_lower)
    assert cli.main(["score", "AB", "--no-bos"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" bits")  # bytes are not known, so no rate
    assert cli.main(["score", "AB", "--json"]) == 0
    assert [row["start"] for row in json.loads(capsys.readouterr().out)["per_token"]] == [None, None]
