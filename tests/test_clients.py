"""Programs that know nothing of gpt2c, as clients of its server and as hosts of its plugins.

``pytest -m plugins`` after ``pip install "gpt2c[lm-eval,server]" aiohttp tenacity langchain-openai llm``.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from helpers import command_line
from helpers.local_tasks import TASKS, evaluate, write_tasks
from helpers.served import served
from helpers.toys import bundled_tokenizer, random_gpt2

DOCS = Path(__file__).resolve().parent.parent / "docs"


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(bundled):
    with served(bundled) as server:
        yield f"http://127.0.0.1:{server.port}/v1"


# ---- what docs/serving.md shows


def without_names(value):
    """An answer without what differs from one to the next."""
    if isinstance(value, list):
        return [without_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: without_names(item) for key, item in value.items() if key not in ("id", "created")}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_lines_print_what_the_page_shows(address):
    page = read("serving.md")
    examples = re.findall(r"^\$ (curl .*)\n((?:[{ ].*\n)+)", page, re.MULTILINE)
    assert len(examples) == len(re.findall(r"^\$ curl .*http", page, re.MULTILINE)) == 6
    for command, shown in examples:
        words = shlex.split(command.replace("http://127.0.0.1:8000", address.removesuffix("/v1")))
        printed = subprocess.run(words, capture_output=True, check=True, timeout=60).stdout
        assert without_names(json.loads(printed)) == without_names(json.loads(shown))


@pytest.mark.parametrize("library", ["openai", pytest.param("langchain_openai", marks=pytest.mark.plugins)])
def test_python_lines_of_the_page_print_the_text_of_the_model(address, bundled, library):
    pytest.importorskip(library)
    blocks = re.findall(r"^```python\n(.*?)^```", read("serving.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3  # the third is a dialogue, for another model
    [code] = [block for block in blocks if f"from {library} " in block and ".chat." not in block]
    code = code.replace("http://127.0.0.1:8000/v1", address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    wanted = bundled.generate("Once upon a time", max_new_tokens=40, temperature=0.8, top_k=40, seed=1).text
    assert done.stdout.removesuffix("\n") == wanted, done.stderr


# ---- lm-evaluation-harness


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with the local tasks, and what the model in this process answers.

    lm-eval asks a server for a token behind each text, which its own window has no room for: 511 of 512.
    """
    pytest.importorskip("lm_eval")
    pytest.importorskip("aiohttp")
    pytest.importorskip("tenacity")
    import gpt2c.lm_eval  # noqa: F401

    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        write_tasks(folder)
        yield folder, evaluate(folder, "gpt2c", max_length=511, threads=1)


@pytest.mark.plugins
@pytest.mark.parametrize("options", [{}, {"num_concurrent": 8}], ids=str)
def test_local_completions_of_lm_eval_answer_as_the_model_in_this_process(tasks, address, options):
    folder, (metrics, answers) = tasks
    found = evaluate(
        folder,
        "local-completions",
        base_url=f"{address}/completions",
        pretrained="gpt2c",
        max_length=513,
        **options,
    )
    for task in TASKS:  # long contexts and documents, other scripts, special tokens
        assert found[1][task] == answers[task]
    assert found[0] == metrics


@pytest.mark.plugins
def test_the_command_of_the_docs_prints_the_table_of_the_docs(address, tmp_path):
    pytest.importorskip("lm_eval")
    pytest.importorskip("aiohttp")
    page = read("integrations.md")
    (tmp_path / "tasks").mkdir()
    for name, command in (("tales.yaml", "cat"), ("tales.jsonl", "head -2")):
        [text] = re.findall(rf"^\$ {command} tasks/{name}\n((?:[^$].*\n)+)", page, re.MULTILINE)
        (tmp_path / "tasks" / name).write_text(text)
    [line] = re.findall(r"^\$ lm-eval (run .*local-completions.*)", page, re.MULTILINE)
    [server] = re.findall(r"^\$ server=(.*)", page, re.MULTILINE)
    words = shlex.split(line.replace("$server", server.replace("http://127.0.0.1:8000/v1", address)))
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = re.findall(r"^\|.*acc.*\n", page, re.MULTILINE)
    assert len(table) == 2 and "".join(table) in done.stdout


@pytest.mark.plugins
def test_keys_of_lm_eval(bundled, monkeypatch):
    pytest.importorskip("aiohttp")
    pytest.importorskip("tenacity")
    models = pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.api.instance import Instance

    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key")
    with served(bundled, api_keys=("sk-a-key",)) as server:
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        lm = models.LocalCompletionsAPI(url, model="gpt2c", max_length=513, auth_token="sk-a-key")
        [(found, greedy)] = lm.loglikelihood([Instance("loglikelihood", {}, ("The king", " was dead"), 0)])
    [wanted] = bundled.score([("The king", " was dead")], bos=False)
    assert (found, greedy) == (wanted.logprob, wanted.is_greedy)


# ---- LangChain


@pytest.mark.plugins
class TestLangChain:
    def client(self, address, **options):
        langchain = pytest.importorskip("langchain_openai")
        return langchain.OpenAI(
            base_url=address, api_key="none", model="gpt2c", max_tokens=8, seed=3, temperature=0.7, **options
        )

    def wanted(self, model, prompts, **options):
        return model.generate(prompts, max_new_tokens=8, seed=3, temperature=0.7, **options)

    def test_invoke_and_stream(self, bundled, address):
        text = self.wanted(bundled, "Once upon a time").text
        client = self.client(address)
        assert client.invoke("Once upon a time") == text
        pieces = [*client.stream("Once upon a time")]
        assert "".join(pieces) == text and len(pieces) == 8

    def test_several_prompts_and_options(self, bundled, address):
        prompts = ["Once", "The king"]
        found = self.client(address, n=2, extra_body={"top_k": 5}).generate(prompts)
        texts = [one.text for group in found.generations for one in group]
        outs = self.wanted(bundled, prompts, num_return_sequences=2, top_k=5)
        assert texts == [out.text for out in outs]
        assert found.llm_output["token_usage"]["completion_tokens"] == 32


# ---- llm


@pytest.fixture
def llm(tmp_path):
    """Runs llm in a process, where gpt2c is installed as pyproject.toml declares it."""
    pytest.importorskip("llm")
    declared = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["entry-points"]["llm"]
    installed = tmp_path / "installed" / "gpt2c-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: gpt2c\nVersion: 0\n")
    lines = [f"{name} = {where}\n" for name, where in declared.items()]
    (installed / "entry_points.txt").write_text("".join(["[llm]\n", *lines]))
    paths = [DOCS.parent, installed.parent, *sys.path]
    settings = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "LLM_USER_PATH": str(tmp_path / "llm")}

    def run(*arguments, text=""):
        command = [sys.executable, "-m", "llm", *arguments]
        environment = os.environ | settings | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, input=text, env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    return run


@pytest.mark.plugins
class TestLLM:
    def test_options_are_those_of_generate(self, llm, bundled):
        options = {"temperature": 0.9, "top_k": 30, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.3}
        options |= {"seed": 4, "stop": "."}
        words = [word for name, value in options.items() for word in ("-o", name, str(value))]
        wanted = bundled.generate("The old woman said", max_new_tokens=50, **options)
        assert wanted.finish_reason == "stop"
        for more in ([], ["--no-stream"]):
            done = llm("-m", "gpt2c", "-o", "max_tokens", "50", *words, *more, text="The old woman said")
            assert done.stdout == wanted.text + "\n", done.stderr
        logged = json.loads(llm("logs", "-n", "1", "--json").stdout)[0]
        assert logged["response_json"] == {"seed": 4, "finish_reason": "stop"}
        assert logged["input_tokens"] == len(wanted.prompt_token_ids)
        assert logged["output_tokens"] == len(wanted.token_ids)

    def test_defaults_are_those_of_the_command_line(self, llm):
        done = llm("-m", "gpt2c", "Once upon a time", "-o", "seed", "2")
        wanted = command_line.run("generate", "Once upon a time", "--seed", "2").stdout
        assert "Once upon a time" + done.stdout == wanted

    def test_another_model_may_be_the_default(self, llm, tmp_path):
        model, _ = random_gpt2(n_vocab=4096, tokenizer=bundled_tokenizer(), eos_token_ids=(0,))
        model.save(tmp_path / "model.gpt2c")
        llm("models", "options", "set", "gpt2c", "model", "model.gpt2c")
        done = llm("-m", "gpt2c", "Once", "-o", "temperature", "0", "-o", "max_tokens", "5")
        assert done.stdout == model.generate("Once", max_new_tokens=5).text + "\n", done.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["-s", "You are a king"], "takes no system prompt"),
            (["-o", "temperature", "-1"], "greater than or equal to 0"),
            (["-o", "model", "/nowhere"], "no file or directory is named '/nowhere'"),
            (["-o", "topk", "3"], "topk"),
            (["-c"], "does not support conversations"),
        ],
    )
    def test_refusals(self, llm, arguments, message):
        if "-c" in arguments:
            llm("-m", "gpt2c", "Once", "-o", "max_tokens", "1")
        done = llm("-m", "gpt2c", "Once", *arguments)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr

    def test_lines_of_the_docs_print_what_they_show(self, llm):
        page = read("integrations.md")
        lines = re.findall(r"^\$ llm (.*)\n((?:[^$`].*\n)+)", page, re.MULTILINE)
        assert len(lines) == 2
        for words, shown in lines:
            assert llm(*shlex.split(words)).stdout == shown

    def test_llm_starts_without_what_computes(self):
        pytest.importorskip("llm")
        code = "import sys, llm; before = {*sys.modules}; import gpt2c.integrations.llm"
        code += "; print({'numpy', 'tiktoken', 'gpt2c.model'} & ({*sys.modules} - before))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "set()\n", done.stderr
