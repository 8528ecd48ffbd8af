"""The folders of the tokenizer matrix: small tokenizers of every kind that GPT-2 checkpoints come with."""

import matrix_bytes
import matrix_pieces
import matrix_words
from matrix_parts import GPT2, stored

KINDS = (
    matrix_bytes.byte_level_json,
    matrix_bytes.byte_level_around,
    matrix_bytes.byte_level_settings,
    matrix_bytes.byte_level_classes,
    matrix_bytes.byte_level_steps,
    matrix_bytes.byte_level_files,
    matrix_bytes.byte_level_files_with_settings,
    matrix_bytes.added_tokens,
    matrix_bytes.added_tokens_elsewhere,
    matrix_words.word_piece_files,
    matrix_words.word_piece_json,
    matrix_words.character_bpe,
    matrix_words.word_level,
    matrix_pieces.metaspace,
    matrix_pieces.llama,
    matrix_pieces.unigram,
    matrix_pieces.sentence_piece_files,
    matrix_pieces.gpt_sw3,
)


def folders() -> dict[str, dict]:
    """Name -> {"runs_on": library, "files": {name: text or {"base64": …}}} of all that are made by hand."""
    made: dict[str, dict] = {}
    for kind in KINDS:
        for name, (runs_on, files) in kind().items():
            files.setdefault("config.json", GPT2)
            texts = {file: stored(value) for file, value in files.items() if value is not None}
            made[name] = {"runs_on": runs_on, "files": texts}
    return made


OLD, NEW = "4.57.6", "5.24.0"
_MERGES = "4.57.6 drops the first and the last piece of merges.txt, whatever they are; 5.24 a #version line"
_REBUILT = "5.24 builds the pipeline of this class anew and loses steps of tokenizer.json"
_BACKEND = "4.57.6 does not know TokenizersBackend, which 5.24 writes; it is PreTrainedTokenizerFast"
_SPACE = "4.57.6 sets add_prefix_space of a ByteLevel step that stands alone to that of the settings"
_T5 = "4.57.6 strips and marks runs of spaces by normalisers, and takes the model's id for unknowns"
_OTHER = "5.24 adds steps and special tokens of this class; 4.57.6 runs tokenizer.json"
_APART = "4.57.6 decodes an added token with a space on either side, 5.24 as a piece of the model"
_SPIECE = "the two make other steps, special tokens or ids around a text of this SentencePiece model"

DIFFERENCES = {
    "added-additional-saved-by-5": (NEW, _BACKEND),
    "added-extra-list": (NEW, "4.57.6 fails on a list of extra_special_tokens"),
    "added-normalized-lowercase": (
        "tokenizers",
        "tokenizers 0.23 decodes an added token as its normalised text, 0.22 as it is written",
    ),
    "byte-template-around-saved-by-5": (NEW, _BACKEND),
    "class-backend": (NEW, _BACKEND),
    "class-bart": (OLD, _OTHER),
    "class-llama": (OLD, "4.57.6 puts bos before every text for LlamaTokenizer"),
    "class-neox": (OLD, _OTHER),
    "class-qwen": (OLD, _OTHER),
    "class-roberta": (OLD, _OTHER),
    "class-roberta-named": (OLD, _OTHER),
    "class-unknown": (NEW, "4.57.6 refuses a class that it does not know; 5.24 runs tokenizer.json"),
    "files-no-last-newline": (OLD, _MERGES),
    "files-no-version": (OLD, _MERGES),
    "llama-saved-by-5": (NEW, _BACKEND),
    "metaspace-legacy-false-alone": (
        "metaspace-legacy-false",
        "only tokenizers 0.13.3, which wrote such files, reads it: as one with prepend_scheme never",
    ),
    "settings-gpt2-normalizer": (OLD, _REBUILT),
    "settings-none-normalizer": (OLD, _REBUILT),
    "settings-prefix-space-false": (OLD, _SPACE),
    "settings-prefix-space-only-there": (OLD, _SPACE),
    "settings-prefix-space-silent": (OLD, _SPACE),
    "spiece-albert": (OLD, _SPIECE),
    "spiece-llama": (OLD, _SPIECE),
    "spiece-reformer": (OLD, _SPIECE),
    "spiece-sw3-additional": (OLD, _APART),
    "spiece-sw3-additional-saved-by-4": (OLD, _APART),
    "spiece-sw3-additional-saved-by-5": (
        "spiece-sw3-additional",
        f"4.57.6 fails on a list of extra_special_tokens; {_APART}",
    ),
    "spiece-sw3-flags": (OLD, _APART),
    "spiece-sw3-legacy": (OLD, _APART),
    "spiece-t5": (OLD, _T5),
    "spiece-t5-class-in-config": (OLD, _T5),
    "spiece-t5-extra": (OLD, _T5),
    "spiece-t5-named": (OLD, _T5),
    "spiece-t5-rinna": (OLD, _T5),
    "unigram-albert-class": (OLD, _OTHER),
    "unigram-camembert-class": (OLD, _OTHER),
    "unigram-end-saved-by-5": (NEW, _BACKEND),
    "unigram-llama-class": (OLD, "4.57.6 puts bos before every text for LlamaTokenizer; 5.24 loses steps"),
    "unigram-reformer-class": (OLD, _REBUILT),
    "unigram-t5-class": (OLD, "5.24 takes 2 for the id of unknowns"),
    "unigram-xlmroberta-class": (OLD, _OTHER),
    "unigram-xlnet-class": (OLD, _OTHER),
    "vocab-txt-odd-lines": (OLD, "5.24 strips the ends of the lines of vocab.txt"),
    "word-piece-bert-cls-only": (OLD, "5.24 puts [CLS] and [SEP] around a text, whatever the file says"),
    "word-piece-bert-no-cleanup": (OLD, "5.24 cleans up spaces when it decodes, whatever the file says"),
    "word-piece-no-class": (OLD, _REBUILT),
}
"""Folders that the two load differently -> what gpt2c does: the older one (models were trained with it),
unless only the newer one loads them; "tokenizers": as the library that is installed; or the folder whose
record is right. And why."""
