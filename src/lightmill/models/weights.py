"""Weights on a device: whether they fit, in which numbers, and loading them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightmill.engine.buffers import free_memory_bytes
from lightmill.errors import ModelError
from lightmill.models.hub import Found, find_model

if TYPE_CHECKING:
    import torch

_GIB = 1 << 30


def torch_dtype_for(device: str) -> "torch.dtype":
    """bfloat16 on a CUDA device that computes in it, else float16 there; float32 on the CPU."""
    import torch

    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def check_fits(found: Found, device: str, *, factor: float = 1.5) -> None:
    """Raises ModelError where `factor` times the stored weights do not fit into what is free on `device`.

    The factor is room for pictures and for what a model computes on its way. On a CUDA device, the host must hold the
    weights once as well, on their way there.
    """
    needed = round(found.weight_bytes * factor)
    if device.startswith("cuda"):
        _check_free(found, needed, free=_free_on(device), where=f"on {device}")
        needed = found.weight_bytes
    _check_free(found, needed, free=free_memory_bytes(), where="in this machine's memory")


def _free_on(device: str) -> int:
    import torch

    if not torch.cuda.is_available():
        raise ModelError(f"torch finds no CUDA device for {device}; give --device cpu")
    return int(torch.cuda.mem_get_info(device)[0])


def _check_free(found: Found, needed: int, *, free: int, where: str) -> None:
    if needed > free:
        raise ModelError(
            f"the model {found.name} needs about {needed / _GIB:.1f} GiB {where}, and {free / _GIB:.1f} GiB are free; "
            "end other programs or take a smaller model"
        )


def load_weights(model_class: Any, found: Found, device: str, *, channels_last: bool = False) -> Any:
    """An object of `model_class` (of transformers) with the weights of `found`, ready to be asked, on `device`.

    `channels_last`: lay out convolutions that way on a CUDA device. Raises ModelError where the weights are damaged, do
    not fit, or are of another kind of model, which would leave some of it random.
    """
    import torch

    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                found.folder,
                dtype=torch_dtype_for(device),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            _check_complete(found, info)
            model = model.to(device)
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(f"the model {found.name} does not fit on {device}; take a smaller model") from error
    except ModelError:
        raise
    except Exception as error:  # safetensors, pickle and transformers each have their own errors
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(f"the model {found.name} cannot be loaded: {type(error).__name__}: {lines[0]}") from error
    if channels_last and device.startswith("cuda"):
        model = model.to(memory_format=torch.channels_last)
    return model.eval()


def _check_complete(found: Found, info: dict[str, Any]) -> None:
    wrong = sorted(map(str, info["missing_keys"])) or sorted(map(str, info["mismatched_keys"]))
    if wrong:
        raise ModelError(
            f"the weights of {found.name} do not fill a model of type {found.model_type}: "
            f"{wrong[0]} is missing or of another shape ({len(wrong)} in all)"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no reports of transformers, whose findings we raise ourselves."""
    from transformers.utils import logging as reports

    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.CRITICAL)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()


class HubModel:
    """What the models of hubs and folders share: found once, loaded on a device, and picklable while not loaded."""

    on_device = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._found: Found | None = None
        self._device = ""
        self._model: Any = None

    @property
    def found(self) -> Found:
        """Where it lies on this disk. Raises as `find_model`."""
        if self._found is None or not self._found.folder.is_dir():  # pickled here, loaded on another machine
            self._found = find_model(self.name)
        return self._found

    @property
    def version(self) -> str:
        """The commit on the hub, or a hash of the folder. Raises as `find_model`."""
        return self.found.version

    def unload(self) -> None:
        """Gives the device's memory back."""
        self._model = None
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def _loaded(self) -> Any:
        if self._model is None:
            raise RuntimeError(f"the model {self.name} was called before it was loaded")
        return self._model
