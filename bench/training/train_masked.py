"""Train the masked model on the books of the bundled GPT-2 and with its vocabulary, to which [MASK] is added.

`python train_masked.py CORPUS GPT2 OUT` takes layers of the bundled GPT-2 over into a BERT, whose tokens see
both sides, and puts a layer below them in which a mask takes over the token before it: that is what GPT-2
predicts the next token from. Then it trains the model on the 98 % of each book with which that GPT-2 was
trained, and saves it to OUT.
"""

import argparse
import itertools
import re
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import TemplateProcessing
from training import arguments, save, train
from transformers import BertConfig, BertForMaskedLM, GPT2LMHeadModel, PreTrainedTokenizerFast

LAYERS = (0, 1, 2, 5)  # those of GPT-2 that are taken over
TOKENS = 4096  # of a batch
LONGEST = 512
CHARS = 3.7  # of a token, about
RATE = 0.2  # of the tokens are hidden
EOT, MASK = 0, 4096
SENTENCE = re.compile(r"(?<=[.!?\"'\u201d])\s+(?=[A-Z\"'\u201c\u2018])|\n+")


@torch.no_grad()
def deviations(gpt2, ids):
    """Return the mean standard deviation of what enters each LayerNorm of a GPT-2, two of each layer."""
    found = []
    hooks = [
        norm.register_forward_pre_hook(lambda _, x: found.append(x[0][:, 1:].std(-1, unbiased=False).mean()))
        for block in gpt2.transformer.h
        for norm in (block.ln_1, block.ln_2)
    ]
    gpt2(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(found).view(-1, 2)


@torch.no_grad()
def new_model(gpt2, ids):
    """Return a BERT that begins as a GPT-2 without its causal mask.

    A BERT normalizes sums, GPT-2 what enters a sublayer. With the affine part of a LayerNorm folded into the
    matrix behind it, and what a sublayer adds divided by the mean standard deviation of what it is added to,
    both compute the same but for how far a token's deviation is from that mean.
    """
    c, n = gpt2.config, gpt2.config.n_embd
    config = BertConfig(
        vocab_size=MASK + 1, hidden_size=n, num_hidden_layers=1 + len(LAYERS), num_attention_heads=c.n_head,
        intermediate_size=4 * n, max_position_embeddings=LONGEST, type_vocab_size=1, pad_token_id=EOT,
        hidden_act="gelu_new", layer_norm_eps=1e-5, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    body, spread = gpt2.transformer, deviations(gpt2, ids)
    tokens = body.wte.weight - body.wte.weight.mean(-1, keepdim=True)
    words = model.bert.embeddings.word_embeddings.weight
    words[:MASK], words[MASK] = tokens, tokens.mean(0)
    model.bert.embeddings.position_embeddings.weight.copy_(body.wpe.weight)
    model.bert.embeddings.token_type_embeddings.weight.zero_()

    def folded(norm, conv):  # Conv1D's weights are [in, out]
        return (norm.weight[:, None] * conv.weight).T, conv.bias + norm.bias @ conv.weight

    def set_to(linear, weight, bias):
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)

    for layer, i in zip(model.bert.encoder.layer[1:], LAYERS, strict=True):
        block = body.h[i]
        weight, bias = folded(block.ln_1, block.attn.c_attn)
        inputs = layer.attention.self
        for j, linear in enumerate((inputs.query, inputs.key, inputs.value)):
            set_to(linear, weight[j * n : (j + 1) * n], bias[j * n : (j + 1) * n])
        conv = block.attn.c_proj
        set_to(layer.attention.output.dense, conv.weight.T / spread[i, 0], conv.bias / spread[i, 0])
        set_to(layer.intermediate.dense, *folded(block.ln_2, block.mlp.c_fc))
        conv = block.mlp.c_proj
        set_to(layer.output.dense, conv.weight.T / spread[i, 1], conv.bias / spread[i, 1])
    transform = model.cls.predictions.transform
    set_to(transform.dense, torch.eye(n), torch.zeros(n))
    transform.LayerNorm.weight.copy_(body.ln_f.weight)
    transform.LayerNorm.bias.copy_(body.ln_f.bias)
    return model


def begin_copying(model, steps=600):
    """Make layer 0 look from a mask to the token before it, from another token to itself.

    Values are copies, times 4: LayerNorm makes the same of five times a token as of the token, and of a mask
    and four times another token about that token. Queries, keys and the positions' vectors are learned.
    """
    layer, n = model.bert.encoder.layer[0], model.config.hidden_size
    inputs, bert = layer.attention.self, model.bert
    with torch.no_grad():
        inputs.value.weight.copy_(torch.eye(n))
        layer.attention.output.dense.weight.copy_(4 * torch.eye(n))
        for linear in (layer.output.dense, inputs.value, layer.attention.output.dense):
            linear.bias.zero_()
        layer.output.dense.weight.zero_()
    learned = [
        bert.embeddings.position_embeddings.weight,
        *inputs.query.parameters(),
        *inputs.key.parameters(),
    ]
    opt = torch.optim.AdamW(learned, lr=2e-3, weight_decay=0.0)
    heads, g = model.config.num_attention_heads, torch.Generator().manual_seed(0)
    for step in range(steps):
        opt.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        length = int(torch.randint(16, 256 if step % 8 else LONGEST, (), generator=g))
        ids = torch.randint(1, MASK, (4096 // length, length), generator=g)
        ids[:, 0] = EOT
        hidden = (torch.rand(ids.shape, generator=g) < 0.3) & (ids != EOT)
        ids[hidden] = MASK
        x = bert.embeddings(ids)
        q, k = (f(x).view(*x.shape[:2], heads, -1).transpose(1, 2) for f in (inputs.query, inputs.key))
        scores = q @ k.transpose(2, 3) / (n // heads) ** 0.5
        places = (torch.arange(length) - hidden.long())[:, None].expand(-1, heads, -1)
        value = torch.nn.functional.cross_entropy(scores.flatten(0, 2), places.flatten())
        opt.zero_grad()
        value.backward()
        opt.step()
        if step % 100 == 99:
            print(f"copying, step {step + 1}: {value.item():.4f}", flush=True)


def books(corpus):
    """Return of each book its sentences: the first 98 %, and the rest."""
    kept, unseen = [], []
    for path in sorted(corpus.glob("*.txt")):
        text = path.read_text(encoding="utf-8").strip()
        cut = int(len(text) * 0.98)
        for part, into in ((text[:cut], kept), (text[cut:], unseen)):
            starts = [0, *(m.end() for m in SENTENCE.finditer(part)), len(part)]
            into.append([part[a:b] for a, b in itertools.pairwise(starts) if b > a])
    return kept, unseen


def rows(sentences, bpe, rng):
    """Return the token ids of texts of whole sentences, of many lengths, that together are all of these."""
    texts = []
    for book in sentences:
        text, limit = "", 0
        for sentence in book:
            if text and len(text) + len(sentence) > limit:
                texts.append(text.strip())
                text = ""
            if not text:
                limit = CHARS * LONGEST * rng.beta(1, 5)  # most are short
            text += sentence
        texts.append(text.strip())
    return [np.array([EOT, *e.ids[: LONGEST - 2], EOT]) for e in bpe.encode_batch(texts)]


def collate(texts, rng):
    """Return a batch: padded ids with masks; which are not padding; which are hidden; their own ids."""
    lengths = np.array([len(t) for t in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, EOT)
    ids[mask] = np.concatenate(texts)
    hidden = (rng.random(ids.shape) < RATE) & (ids != EOT)
    labels = ids[hidden]
    chance = rng.random(
        len(labels)
    )  # 80 % become [MASK], 10 % another token, 10 % stay (Devlin et al., 2018)
    others = rng.integers(1, MASK, len(labels))
    ids[hidden] = np.where(chance < 0.8, MASK, np.where(chance < 0.9, others, labels))
    return tuple(map(torch.from_numpy, (ids, mask, hidden, labels)))


def batches(sentences, bpe, step):
    """Yield batches of texts of similar length, cut anew in each epoch; they depend on the step alone."""
    epoch = at = 0
    while True:
        rng = np.random.default_rng(epoch)
        texts = rows(sentences, bpe, rng)
        lengths = np.array([len(t) for t in texts])
        order = np.argsort(lengths * (1 + 0.1 * rng.random(len(lengths))))
        groups = np.split(order, np.flatnonzero(np.diff(np.cumsum(lengths[order]) // TOKENS)) + 1)
        for i in rng.permutation(len(groups)):
            if at >= step:
                yield collate([texts[j] for j in groups[i]], np.random.default_rng([epoch, i]))
            at += 1
        epoch += 1


def loss(model, batch):
    """Return the mean loss of the hidden tokens, nats."""
    ids, mask, hidden, labels = batch
    states = model.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state[hidden]
    return torch.nn.functional.cross_entropy(model.cls(states).float(), labels)


@torch.no_grad()
def held_out_loss(model, sample):
    """Return the loss on the batches held out."""
    return sum(loss(model, b).item() * len(b[-1]) for b in sample) / sum(len(b[-1]) for b in sample)


def tokenizer_of(bpe):
    """Return GPT-2's tokenizer with [MASK], which takes the space before it, and an end around texts."""
    end = "<|endoftext|>"
    inner = Tokenizer.from_str(bpe.to_str())
    inner.post_processor = TemplateProcessing(
        single=f"{end} $A {end}", pair=f"{end} $A {end} $B {end}", special_tokens=[(end, EOT)]
    )
    mask = AddedToken("[MASK]", lstrip=True, normalized=False, special=True)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token"), end)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, mask_token=mask, model_max_length=LONGEST, padding_side="right", **names
    )


def main():
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("gpt2", type=Path)
    parser.add_argument("out", type=Path)
    arguments(parser).set_defaults(muon=0.01)
    args = parser.parse_args()
    torch.manual_seed(0)
    files = dict(vocab_file=str(args.gpt2 / "vocab.json"), merges_file=str(args.gpt2 / "merges.txt"))
    bpe = ByteLevelBPETokenizer(files["vocab_file"], files["merges_file"])
    kept, unseen = books(args.corpus)
    gpt2 = GPT2LMHeadModel.from_pretrained(args.gpt2, dtype=torch.float32).eval()
    text = "".join(itertools.chain(*kept[:8]))[:40000]
    model = new_model(gpt2, torch.tensor(bpe.encode(text).ids[: 8 * LONGEST]).view(8, -1))
    begin_copying(model)
    model.bert.compile(dynamic=True)
    print(f"{model.num_parameters():,} parameters")
    stream = batches(unseen, bpe, 0)
    sample = [next(stream) for _ in range(4)]
    train(
        model,
        loss,
        lambda step: batches(kept, bpe, step),
        lambda model: held_out_loss(model, sample),
        args.out,
        args,
    )
    save(model, tokenizer_of(bpe), args.out)


if __name__ == "__main__":
    main()
