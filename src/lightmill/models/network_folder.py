"""A network on the disk: a folder with `config.json` and `model.safetensors`, whole or not at all.

What is read from config.json is checked before anything is made of it, and the weights' names and shapes before they
are read, so a damaged or hostile folder ends in a ModelError that names the file.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from lightmill.engine.outputs import temporary_name, writing
from lightmill.errors import ModelError

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MOMENT_S = 0.02  # some hundred times what lies between two renames
_ATTEMPTS = 5
_MOST_BYTES = 16 << 20  # of a config.json: one with 100,000 names takes 3

Settings = TypeVar("Settings", bound=BaseModel)
Found = TypeVar("Found")
Network = TypeVar("Network", bound="torch.nn.Module")


def save_folder(folder: Path, network: "torch.nn.Module", settings: BaseModel) -> None:
    """Puts a network and its settings into `folder`, instead of what was there.

    Raises OutputError where nothing can be written any more; what was there stays.
    """
    from safetensors.torch import save

    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with writing(folder):
        _write_folder(folder, {WEIGHTS: save(weights, metadata={"format": "pt"}), CONFIG: as_json(settings)})


def save_settings(folder: Path, settings: BaseModel) -> None:
    """Replaces config.json alone, at once: for what is chosen after the training."""
    with writing(folder):
        growing = folder / temporary_name(CONFIG)
        growing.write_bytes(as_json(settings))
        os.replace(growing, folder / CONFIG)


def read_settings(folder: Path, kind: type[Settings], *, what: str, made_by: str) -> Settings:
    """What config.json says. Raises ModelError, naming it, where it is not that of a `what`, which `made_by` makes."""
    path = folder / CONFIG
    try:
        return kind.model_validate_json(_patiently(folder, lambda: _content(path, what=what)))
    except OSError as error:
        raise ModelError(f"{folder} holds no {what}: {path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        article = "an" if what[0] in "aeiou" else "a"
        raise ModelError(
            f"{path} is not that of {article} {what} ({place}: {first['msg']}); give a folder that `{made_by}` made"
        ) from None


def load_network_of(folder: Path, make: Callable[[], Network], *, what: str) -> Network:
    """The network that `make` makes of a folder's settings, with its weights, on the CPU, in eval mode.

    Raises ModelError, naming the file, where the settings make no network or the weights do not fill it.
    """
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            network = make()
    except ModelError as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from None
    _load_weights(network, folder, what=what)
    return network.eval()


def restore_folder(folder: Path) -> None:
    """Puts back what a process was replacing when it was killed between two renames."""
    aside = _aside(folder)
    if aside.is_dir() and not folder.exists():
        with suppress(OSError):  # another process has just put one there
            aside.rename(folder)


def as_json(settings: BaseModel) -> bytes:
    """As config.json holds them."""
    return (json.dumps(settings.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n").encode()


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    growing = folder.parent / temporary_name(folder.name)
    shutil.rmtree(growing, ignore_errors=True)
    growing.mkdir()
    try:
        for name, content in files.items():
            (growing / name).write_bytes(content)
        _replace_folder(growing, folder)
    except BaseException:
        shutil.rmtree(growing, ignore_errors=True)
        raise


def _replace_folder(growing: Path, folder: Path) -> None:
    """A folder that is not empty cannot be replaced at once: the old one steps aside for as long as one rename takes.

    Killed in between, the old one lies aside, whole; `restore_folder` puts it back.
    """
    aside = _aside(folder)
    restore_folder(folder)
    for further in reversed(range(_ATTEMPTS)):
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            folder.rename(aside)
        try:
            growing.rename(folder)
            break
        except OSError as error:  # who reads may have put the old one back in between
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not further:
                raise
    shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.before"


def _patiently(folder: Path, read: Callable[[], Found]) -> Found:
    """What `read` reads in a folder. While another process replaces it, it is away for as long as one rename takes."""
    for _ in range(_ATTEMPTS):
        with suppress(OSError, RuntimeError):
            return read()
        if not (folder.exists() or _aside(folder).exists()):
            break
        time.sleep(_MOMENT_S)
        restore_folder(folder)
    return read()


def _content(path: Path, *, what: str) -> bytes:
    if path.stat().st_size > _MOST_BYTES:
        raise ModelError(f"{path} has more than {_MOST_BYTES >> 20} MiB and is no {what}'s")
    return path.read_bytes()


def _load_weights(network: "torch.nn.Module", folder: Path, *, what: str) -> None:
    """Fills a network with a folder's weights. Raises ModelError, naming the file, where they are not just its own."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS

    def load() -> None:
        _check_shapes(path, network)
        network.load_state_dict(load_file(path))

    try:
        _patiently(folder, load)
    except (OSError, SafetensorError, RuntimeError) as error:  # the last for a file that goes while it is opened
        raise ModelError(f"{path} cannot be read ({error}); get the {what} once more") from None


def _check_shapes(path: Path, network: "torch.nn.Module") -> None:
    """Raises ModelError where a file has not just the weights of a network; only its head is read."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    wrong = sorted(key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key))
    if wrong:
        raise ModelError(
            f"{path} does not fill the network of its {CONFIG}: {wrong[0]} is {stored.get(wrong[0], 'missing')}, "
            f"wanted {wanted.get(wrong[0], 'none')} ({len(wrong)} in all)"
        )
