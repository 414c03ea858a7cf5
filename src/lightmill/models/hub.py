"""Finding a model: a folder, or what a hub id names, with its configuration and its weights on this disk.

Nothing is loaded here, so a model that cannot be had is found out before the first picture is touched. What is on the
disk is taken as it is; the network is used only for what is not there yet. Only configurations, vocabularies and
weights are fetched (safetensors; .bin where there is nothing else, which transformers reads without running code from
it); code that comes with a model is neither fetched nor run.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightmill.errors import MissingExtra, ModelError

_CONFIGS = "config.json", "model_index.json"  # of transformers, of diffusers
_SMALL_FILES = "*.json", "*.txt", "*.model", "*.jinja"  # configurations, vocabularies, sentencepiece, chat templates
_VARIANTS = "*.fp16.*", "*.bf16.*", "*non_ema*", "onnx/*", "openvino/*", "flax_model*"  # the same weights once more
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_WHOLE_BYTES = 1 << 20  # files up to here are hashed whole
_PIECES, _PIECE_BYTES = 16, 1 << 16  # of larger ones, this many pieces


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this disk, its files complete."""

    folder: Path
    name: str  # as it was asked for
    version: str  # the commit on the hub, or `blake2:` and a hash of the folder's files
    weight_bytes: int  # of the weights as stored
    config: dict[str, Any]  # config.json, or model_index.json

    @property
    def model_type(self) -> str:
        """What transformers calls the kind: `sam3`, `segformer`; empty for diffusers."""
        return str(self.config.get("model_type", ""))


def find_model(name: str) -> Found:
    """The model that `name` means: a folder in the layout of transformers or diffusers, or a hub id.

    A hub id is ORG/NAME or ORG/NAME@REVISION: a branch, a tag or a commit.

    A folder's version is a hash of its files' names, sizes and content; of files above 1 MiB (weights) 16 pieces of
    64 KiB, spread evenly from head to tail, are read, so a change between them that keeps the size is not seen.

    Raises MissingExtra without torch and transformers, and ModelError, with what to do, where the model cannot be had.
    """
    need_transformers()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _found(folder, name, version=_hash_of(folder))
    if folder.is_file():
        raise ModelError(f"{name} is a file; give the folder that holds the model's config.json and weights")
    matched = _HUB_ID.fullmatch(name)
    if matched is None or name.startswith((".", "/")):
        raise ModelError(f"no model {name}: there is no such folder, and a model of a hub is named ORG/NAME[@REVISION]")
    snapshot = _snapshot(name, matched["repo"], matched["revision"])
    return _found(snapshot, name, version=snapshot.name)


def need_transformers() -> None:
    """Raises MissingExtra where torch or transformers is not installed."""
    missing = [package for package in ("torch", "transformers") if find_spec(package) is None]
    if missing:
        raise MissingExtra(f"this model needs {' and '.join(missing)}; run: pip install 'lightmill[models]'")


def hub_error(name: str, error: Exception) -> ModelError:
    """What an error of huggingface_hub means for the user, and what to do."""
    from huggingface_hub import errors

    repo, _, revision = name.partition("@")
    page = f"https://huggingface.co/{repo}"
    absent = f"no model {repo}: there is no such folder, and the hub has no such model"
    download = f"hf download {repo}{f' --revision {revision}' if revision else ''}"
    sentences: dict[type[Exception], str] = {  # the first that fits: a gated model is also one not found
        errors.GatedRepoError: f"the model {repo} is gated: accept its licence at {page}, then run `hf auth login`",
        errors.RepositoryNotFoundError: f"{absent} (or it is private: run `hf auth login`)",
        errors.RevisionNotFoundError: f"the model {repo} has no revision {revision or 'main'}; see {page}/commits/main",
        errors.DisabledRepoError: f"the hub has disabled the model {repo}; see {page}",
        errors.HFValidationError: f"no model {name}: there is no such folder, and it is no hub id ORG/NAME[@REVISION]",
        errors.LocalEntryNotFoundError: f"the model {repo} is neither a folder nor on this disk, and the hub cannot be "
        f"reached (offline): run `{download}` once on a connected machine, or give a folder",
    }
    for kind, sentence in sentences.items():
        if isinstance(error, kind):
            return ModelError(sentence)
    lines = str(error).strip().splitlines() or [""]
    return ModelError(f"the model {repo} could not be downloaded: {type(error).__name__}: {lines[0]}; start again")


def _snapshot(name: str, repo: str, revision: str | None) -> Path:
    """The folder of a hub's model in the cache, complete; fetched where it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def get(*weights: str, on_disk: bool) -> Path:
        patterns = [*_SMALL_FILES, *weights]
        ignored = list(_VARIANTS)
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=on_disk
            )
        )

    for kind in ("*.safetensors", "*.bin"):
        try:
            folder = get(kind, on_disk=True)
        except (LocalEntryNotFoundError, HFValidationError):
            continue
        if _config_of(folder) and _weights_of(folder) and not _lost(folder):
            return folder
    try:
        folder = get("*.safetensors", on_disk=False)
        return folder if _weights_of(folder) else get("*.bin", on_disk=False)
    except Exception as error:  # every way in which a network fails; the message names it
        raise hub_error(name, error) from error


def _found(folder: Path, name: str, *, version: str) -> Found:
    path = _config_of(folder)
    if path is None:
        raise ModelError(f"{name} holds no model: it has neither config.json nor model_index.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{name}: {path.name} is not JSON ({error}); get the model once more") from None
    if not isinstance(config, dict):
        raise ModelError(f"{name}: {path.name} holds no settings; get the model once more")
    weights = _weights_of(folder)
    if not weights:
        raise ModelError(f"{name} has no weights: no .safetensors (and no .bin) lies beside its {path.name}")
    if lost := _lost(folder):
        raise ModelError(f"{name} is incomplete: {lost[0]} is missing ({len(lost)} in all); get the model once more")
    return Found(folder, name, version, sum(weight.stat().st_size for weight in weights), config)


def _config_of(folder: Path) -> Path | None:
    return next((folder / config for config in _CONFIGS if (folder / config).is_file()), None)


def _weights_of(folder: Path) -> list[Path]:
    """The files that hold the weights, each weight once: safetensors, .bin only where a folder has none of those."""
    found: list[Path] = []
    for part in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        for pattern in ("*.safetensors", "*.bin"):
            files = [path for path in sorted(part.glob(pattern)) if not _is_variant(path, folder)]
            if files:
                found += files
                break
    return found


def _is_variant(path: Path, folder: Path) -> bool:
    return any(path.relative_to(folder).match(variant) for variant in _VARIANTS)


def _lost(folder: Path) -> list[str]:
    """The parts of split weights that an index names and that are not there."""
    lost = []
    kinds = {path.suffix for path in _weights_of(folder)}
    for index in sorted({*folder.glob("*.index.json"), *folder.glob("*/*.index.json")}):
        if _is_variant(index, folder) or Path(index.name.removesuffix(".index.json")).suffix not in kinds:
            continue
        parts = json.loads(index.read_text("utf-8")).get("weight_map", {})
        lost += [part for part in sorted(set(parts.values())) if not (index.parent / part).is_file()]
    return lost


def _hash_of(folder: Path) -> str:
    """Tells two states of a folder apart by the files that matter to what a model answers."""
    total = blake2b(digest_size=16)
    for pattern in (*_SMALL_FILES, "*.safetensors", "*.bin"):
        for path in sorted({*folder.glob(pattern), *folder.glob(f"*/{pattern}")}):
            total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
            for piece in _pieces(path):
                total.update(piece)
    return f"blake2:{total.hexdigest()}"


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            yield file.read()
            return
        for number in range(_PIECES):
            file.seek(number * (size - _PIECE_BYTES) // (_PIECES - 1))
            yield file.read(_PIECE_BYTES)
