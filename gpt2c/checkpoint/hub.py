"""Models from the Hugging Face Hub: only the needed files, through huggingface_hub and its cache.

``huggingface_hub`` (0.3x to 2.x) is imported only when a hub name is given. Its environment
variables apply: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError
from ..tokenizer.files import FILES
from .directory import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    WEIGHTS,
    advice,
    is_index,
    read_config,
    shards,
)
from .packed import SUFFIX

__all__ = ["fetch", "fetch_adapter", "fetch_tokenizer", "looks_like_name"]

# Besides config.json and the weights; each is fetched if the model has it.
_SMALL_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
# What sentence_transformers.py reads beside a model.
_OF_SENTENCES = (
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    *(f"sentence_{family}_config.json" for family in ("bert", "roberta", "distilbert", "xlm-roberta")),
)
# These are needed only without a tokenizer.json.
_OTHERS = tuple(file for file in FILES if file not in _SMALL_FILES)
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_WORD}(?:/{_WORD})?")


def looks_like_name(source: str) -> bool:
    """Whether a source that is not an existing path can be a hub name: "gpt2" or "owner/name"."""
    return (
        len(source) <= 96
        and _NAME.fullmatch(source) is not None
        and not source.endswith((SUFFIX, ".safetensors", ".json", ".txt", ".model", ".bin", ".gguf", ".git"))
        and ".." not in source
        and "--" not in source
    )


def fetch(
    name: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    check: Callable[[Path], object] = read_config,
) -> tuple[Path, list[str]]:
    """Download a model into the cache; return its directory there and notes for display.

    config.json comes first, and `check` raises unless its directory is that of a supported model; then come
    the model's small files, then its weights: model.safetensors, else pytorch_model.bin, or the shards of
    either and their index. Without a connection, the cached files are used.

    Raises
    ------
    CheckpointError
        The model, revision or file does not exist, access is refused, or the cache lacks a file and cannot
        get it.
    ConfigError
        The model is not a GPT-2, or not one that gpt2c supports. Nothing large was fetched.
    """
    repository = _Repository(name, revision, subfolder, cache_dir, token, local_files_only)
    there = repository.files()
    if repository.lists("config.json", there) < repository.lists(ADAPTER_CONFIG, there):
        return _fetch_adapter(repository, there)
    directory = repository.get("config.json", revision).parent
    check(directory)
    # All other files are from the commit of config.json, even if the branch moves meanwhile.
    commit = repository.commit(directory)
    notes = [f"from the Hub: {name} at commit {commit[:12]}"]
    if ADAPTER_CONFIG in there:  # the loader asks the user whether it applies, too
        repository.get(ADAPTER_CONFIG, commit)
    if repository.offline:
        there = set(os.listdir(directory))
        notes.append(f"the cached copy was used: {repository.offline}")

    for file in (*_small_files(there), *(file for file in _OF_SENTENCES if file in there)):
        repository.get(file, commit)
    weights = next((name for name in WEIGHTS if name in there), None)
    if weights is None and repository.offline:
        raise CheckpointError(repository.not_cached("the weights"))
    if weights is None:
        how = f"fetch it (`hf download {name} --local-dir DIRECTORY`) and give its path"
        raise CheckpointError(
            f"{name!r} has no {WEIGHTS[0]} at revision {revision or 'main'}: {advice(there, how)}. If its "
            "page shows a pull request that adds safetensors, revision='refs/pr/NUMBER' loads that"
        )
    path = repository.get(weights, commit)
    for file in shards(path) if is_index(weights) else ():
        repository.get(file, commit)
    return directory, notes


def fetch_adapter(
    name: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> tuple[Path, list[str]]:
    """Download a LoRA adapter, and its tokenizer if it has one, into the cache; as `fetch`.

    Raises
    ------
    CheckpointError
        The adapter does not exist, access is refused, or the cache lacks it and cannot get it.
    """
    repository = _Repository(name, None, None, cache_dir, token, local_files_only)
    return _fetch_adapter(repository, repository.files())


def _fetch_adapter(repository: _Repository, there: set[str]) -> tuple[Path, list[str]]:
    directory = repository.get(ADAPTER_CONFIG, repository.revision).parent
    commit = repository.commit(directory)
    notes = [f"from the Hub: adapter {repository.name} at commit {commit[:12]}"]
    if repository.offline:
        there = set(os.listdir(directory))
        notes.append(f"the cached copy was used: {repository.offline}")
    weights = next((file for file in ADAPTER_FILES if file in there), ADAPTER_FILES[0])
    for file in (weights, *_small_files(there)):
        repository.get(file, commit)
    return directory, notes


def fetch_tokenizer(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Download a tokenizer, and nothing else, into the cache; return its directory there.

    Raises
    ------
    CheckpointError
        The repository or revision does not exist or has no tokenizer files, access is refused, or the cache
        lacks them and cannot get them.
    """
    repository = _Repository(name, revision, None, cache_dir, token, local_files_only)
    there = repository.files()
    # config.json may name the tokenizer's class.
    wanted = [file for file in ("config.json", *_small_files(there)) if file in there]
    wanted = [file for file in wanted if file != "generation_config.json"]
    if repository.offline:
        first = next((file for file in FILES if repository.has(file)), "tokenizer.json")
        directory = repository.get(first, revision).parent
    elif not set(FILES) & there:
        raise CheckpointError(
            f"{name!r} has no tokenizer at revision {revision or 'main'}; it needs one of {', '.join(FILES)}"
        )
    else:
        directory = repository.get(wanted[0], revision).parent
    for file in wanted:
        repository.get(file, repository.commit(directory))
    return directory


def _small_files(there: set[str]) -> list[str]:
    """The needed ones of the small files that exist."""
    others = () if "tokenizer.json" in there else _OTHERS
    return [file for file in (*_SMALL_FILES, *others) if file in there]


class _Repository:
    """One model on the Hub: the arguments that all requests share, and messages for their failures."""

    def __init__(
        self,
        name: str,
        revision: str | None,
        subfolder: str | None,
        cache_dir: str | os.PathLike[str] | None,
        token: str | bool | None,
        local_files_only: bool,
    ) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError as error:
            raise CheckpointError(
                f"no file or directory is named {name!r}; to look for it on the Hub, gpt2c needs the package "
                f"huggingface_hub, which cannot be imported ({error}): pip install huggingface_hub"
            ) from error
        self.library, self.errors = huggingface_hub, errors
        self.name, self.revision, self.token = name, revision, token
        self.cache = None if cache_dir is None else os.fspath(cache_dir)
        self.folder = PurePosixPath(subfolder or "").parts
        # Why only the cache is used.
        self.offline = "local_files_only (--offline) is set" if local_files_only else ""
        self.asked = local_files_only  # whether the caller requested that
        self.problem: Exception | None = None  # the Hub's error when listing the files

    def files(self) -> set[str]:
        """The names of the files in the model's folder. Empty, with ``offline`` set, if not available."""
        if self.offline:
            return set()
        try:
            api = self.library.HfApi(token=self.token, library_name="gpt2c")
            siblings = api.model_info(self.name, revision=self.revision, timeout=30).siblings or []
        except Exception as error:  # including those of the HTTP library, which differs between versions
            self.problem = error
            if isinstance(error, self.errors.OfflineModeIsEnabled):
                self.offline, self.asked = "HF_HUB_OFFLINE is set", True
            elif isinstance(error, self.errors.HfHubHTTPError):
                self.offline = f"the Hub answered: {_first_line(error)}"
            else:
                self.offline = f"the Hub cannot be reached ({type(error).__name__}: {_first_line(error)})"
            return set()
        n, known = len(self.folder), set(_OF_SENTENCES)
        parts = [PurePosixPath(sibling.rfilename).parts for sibling in siblings]
        names = {"/".join(path[n:]) for path in parts if path[:n] == self.folder}
        return {name for name in names if "/" not in name or name in known}

    def commit(self, directory: Path) -> str:
        """The commit in a directory of the cache."""
        return directory.parents[len(self.folder) - 1].name if self.folder else directory.name

    def lists(self, file: str, there: set[str]) -> bool:
        """Whether a file exists or, if only the cache is used, is in the cache."""
        return self.has(file) if self.offline else file in there

    def has(self, file: str) -> bool:
        """Whether the cache has a file."""
        path = "/".join((*self.folder, file))
        found = self.library.try_to_load_from_cache(
            self.name, path, revision=self.revision, cache_dir=self.cache
        )
        return isinstance(found, str)

    def get(self, file: str, revision: str | None) -> Path:
        """The path of a file in the cache; downloads it if necessary."""
        try:
            path = self.library.hf_hub_download(
                self.name,
                file,
                subfolder="/".join(self.folder) or None,
                revision=revision,
                cache_dir=self.cache,
                token=self.token,
                local_files_only=bool(self.offline),
                library_name="gpt2c",
            )
        except Exception as error:
            raise CheckpointError(self.explain(self.problem or error, file)) from error
        return Path(path)

    def explain(self, error: Exception, file: str) -> str:
        """The error message for a file that cannot be fetched."""
        errors, name = self.errors, self.name
        if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError
            return (
                f"access to {name!r} is restricted: ask for it on the model's page on the Hub, then {_LOG_IN}"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"there is neither a file or directory {name!r} here nor a model of that name on the Hub: "
                f"check the spelling (most names are OWNER/NAME). If the model is private, {_LOG_IN}"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{name!r} has no revision {self.revision!r}: give a branch, tag or commit of its page"
        if self.offline:
            missing = self.not_cached("/".join((*self.folder, file)))
            if file == "config.json":  # nothing of the model is cached: perhaps a directory was meant
                where = "in the Hub's cache" if self.asked else "on the Hub"
                return f"no file or directory here is named {name!r}, so gpt2c looked {where}: {missing}"
            return missing
        lost = isinstance(
            error, errors.LocalEntryNotFoundError
        )  # a kind of EntryNotFoundError: no connection
        if isinstance(error, errors.EntryNotFoundError) and not lost:
            where = f" in its subfolder {'/'.join(self.folder)!r}" if self.folder else ""
            return f"{name!r} has no {file}{where}: it does not hold a model as transformers saves it"
        what = f"{type(error).__name__}: {_first_line(error)}"
        return f"{file} of {name!r} could not be fetched from the Hub: {what}"

    def not_cached(self, what: str) -> str:
        """The error for a file that needs a connection; users who want none are not advised to use one."""
        begin = "Fetch" if self.asked else "Run this once with a connection; or fetch"
        return (
            f"{what} of {self.name!r}: not in the Hub's cache on this machine, and {self.offline}. {begin} "
            f"the model on another machine (`hf download {self.name} --local-dir DIRECTORY`), copy the "
            "directory here and give its path"
        )


_LOG_IN = "log in (`hf auth login`), set HF_TOKEN, or pass token="


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines() or ["no details"]
    return text[0] if len(text[0]) <= 200 else text[0][:197] + "..."
