"""Where the work is done."""

from pathlib import Path

from lightmill.errors import UsageError


def chosen_device(wanted: str) -> str:
    """`cuda` where it is asked for or, for `auto`, there. Raises UsageError where it is asked for and not there."""
    if wanted == "cpu" or (wanted == "auto" and not Path("/proc/driver/nvidia/gpus").exists()):
        return "cpu"
    try:
        import torch
    except ImportError:
        if wanted == "auto":
            return "cpu"
        raise UsageError("--device cuda needs torch; run: pip install 'lightmill[models]'") from None
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "auto":
        return "cpu"
    raise UsageError("--device cuda: torch finds no CUDA device here; leave the option out, or give --device cpu")
