"""Train the dates model on what make_dates.py wrote.

`python train_dates.py DATA OUT` trains an encoder-decoder (BERT, GPT-2 with cross-attention), saves it to OUT
in float16 and prints how many of the held-out days it writes without a mistake, by form.
"""

import argparse
import collections
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from training import arguments, save, train
from transformers import (
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    GPT2Config,
    GPT2Tokenizer,
)

BATCH, WIDTH, LAYERS, HEADS = 128, 128, 2, 4
LONGEST = 40  # tokens of an input; train.tsv has up to 38
EOT = 0


def new_model(vocabulary):
    """Return the model with random values."""
    no_dropout = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    encoder = BertConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, max_position_embeddings=LONGEST, type_vocab_size=1, pad_token_id=EOT,
        **no_dropout,
    )  # fmt: skip
    decoder = GPT2Config(
        vocab_size=vocabulary, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=32, bos_token_id=EOT,
        eos_token_id=EOT, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, is_decoder=True,
        add_cross_attention=True,
    )  # fmt: skip
    ids = dict(decoder_start_token_id=EOT, bos_token_id=EOT, eos_token_id=EOT, pad_token_id=EOT)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids)
    model = EncoderDecoderModel(config)
    model.generation_config = GenerationConfig(max_length=12, **ids)  # the start, ten of a date, the end
    return model


def read(path, bpe):
    """Return the token ids of the two sides of a file, and the forms."""
    texts, digits, forms = zip(
        *(line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()), strict=True
    )
    sources = [np.array(e.ids, np.int16) for e in bpe.encode_batch(texts)]
    targets = np.array([[*e.ids, EOT] for e in bpe.encode_batch(digits)], np.int16)
    return sources, targets, forms


def collate(sources, targets):
    """Return a batch: the sources padded and their mask, the targets, which all have the same length."""
    lengths = np.array([len(s) for s in sources])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, EOT)
    ids[mask] = np.concatenate(sources)
    labels = torch.from_numpy(targets.astype(np.int64))
    return dict(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        # Left to itself, the model would take the start token for padding.
        decoder_attention_mask=torch.ones_like(labels),
        labels=labels,
    )


def batches(sources, targets, step):
    """Yield batches of sources of about one length, in an order that depends only on the step."""
    lengths = np.array([len(s) for s in sources])
    epoch_steps = len(sources) // BATCH
    while True:
        epoch, at = divmod(step, epoch_steps)
        rng = np.random.default_rng(epoch)
        order = np.argsort(lengths + rng.random(len(lengths)))[: epoch_steps * BATCH].reshape(-1, BATCH)
        for rows in rng.permutation(order)[at:]:
            yield collate([sources[i] for i in rows], targets[rows])
            step += 1


def loss(model, batch):
    """Return the loss on a batch."""
    return model(**batch).loss


@torch.no_grad()
def held_out_loss(model, batch):
    """Return the loss on one batch of the held-out days."""
    with torch.autocast("cpu", torch.bfloat16):
        return loss(model, batch).item()


def exact(model, sources, targets):
    """Return for each source whether greedy decoding writes its target."""
    right = np.zeros(len(sources), bool)
    for rows in np.array_split(np.argsort([len(s) for s in sources], kind="stable"), len(sources) // 500):
        batch = collate([sources[i] for i in rows], targets[rows])
        labels = batch.pop("labels")
        del batch["decoder_attention_mask"]
        ids = model.generate(**batch, do_sample=False)[:, 1:]
        if ids.shape == labels.shape:
            right[rows] = (ids == labels).all(-1).numpy()
    return right


def main():
    """Train, save and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = arguments(parser).parse_args()
    torch.manual_seed(0)
    files = dict(vocab_file=str(args.data / "vocab.json"), merges_file=str(args.data / "merges.txt"))
    bpe = ByteLevelBPETokenizer(files["vocab_file"], files["merges_file"])
    sources, targets, _ = read(args.data / "train.tsv", bpe)
    unseen, answers, forms = read(args.data / "heldout.tsv", bpe)
    model = new_model(bpe.get_vocab_size())
    print(f"{model.num_parameters():,} parameters")
    sample = collate(unseen[:1000], answers[:1000])
    train(
        model,
        loss,
        lambda step: batches(sources, targets, step),
        lambda model: held_out_loss(model, sample),
        args.out,
        args,
    )
    save(model, GPT2Tokenizer(**files, pad_token="<|endoftext|>", model_max_length=LONGEST), args.out)
    right = exact(model, unseen, answers)
    print(f"all: {right.mean():.2%} of {len(right)}")
    groups = collections.defaultdict(list)
    for ok, form in zip(right, forms, strict=True):
        for part in form.split("; "):
            groups[part].append(ok)
    for part, oks in sorted(groups.items()):
        print(f"{part}: {np.mean(oks):.2%} of {len(oks)}")


if __name__ == "__main__":
    main()
