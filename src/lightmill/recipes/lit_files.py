"""The files of a relit portrait, and the metadata that makes every one of them again."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import blake2b
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.encode import ImageFormat, encode, encode_mask
from lightmill.engine.items import Json, Notes
from lightmill.export.instructpix2pix import instruction
from lightmill.models.kinds import Model
from lightmill.ops.lights import Light
from lightmill.ops.radiance import Lit
from lightmill.ops.srgb import to_levels
from lightmill.recipes.lighting import GRAY, Portrait, cut_out

Output: TypeAlias = Literal["output", "degraded_fg", "input", "albedo", "foreground", "background", "mask"]
OUTPUTS: tuple[Output, ...] = get_args(Output)  # the first two of every light, the rest of the picture
OF_A_LIGHT = OUTPUTS[:2]

Files = dict[str, bytes]


def shared_files(image: NDArray[np.uint8], portrait: Portrait, wanted: frozenset[str]) -> Files:
    """PNG files by their label. Cut-outs are RGBA; the albedo is gray where there is no foreground."""
    mask = portrait.mask
    makers: dict[str, Callable[[], bytes]] = {
        "input": lambda: _png(image),
        "albedo": lambda: _png(_on_gray(to_levels(portrait.albedo), mask)),
        "foreground": lambda: _png(cut_out(image, mask)),
        "background": lambda: _png(cut_out(image, 255 - mask)),
        "mask": lambda: encode_mask(mask),
    }
    return {label: make() for label, make in makers.items() if label in wanted}


def light_files(lit: Lit, portrait: Portrait, wanted: frozenset[str]) -> Files:
    """Likewise of one light: the composite, and the lit foreground."""
    makers: dict[str, Callable[[], bytes]] = {
        "output": lambda: _png(lit.composite),
        "degraded_fg": lambda: _png(cut_out(lit.foreground, portrait.mask)),
    }
    return {label: make() for label, make in makers.items() if label in wanted}


def _png(pixels: NDArray[np.uint8]) -> bytes:
    return encode(pixels, format=ImageFormat.PNG)


def _on_gray(pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shown = pixels.copy()
    shown[mask == 0] = GRAY
    return shown


def described(model: Model) -> dict[str, Json]:
    """A model as metadata names it."""
    return {"model": model.name, "version": model.version}


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


class Metadata:
    """Writes `<name>_metadata.json`: every parameter, model and version, and a hash of every file."""

    def __init__(self, base: Mapping[str, Json]) -> None:
        self._base = base  # what all pictures of a run share

    def __call__(
        self,
        key: str,
        ref: Any,
        notes: Notes,
        image: NDArray[np.uint8],
        portrait: Portrait,
        lights: list[Light],
        lit: Lit,
        shared: Files,
        light_pngs: Files,
        variant: int,
    ) -> bytes:
        light = lights[variant]
        made = {**light_pngs, **shared}
        words = instruction(light)
        told = notes.meta.setdefault("lights", [])
        assert isinstance(told, list)
        told.append({"kind": str(light.kind), "clipped": round(lit.clipped_share, 6), "instruction": words})
        content = {
            **self._base,
            "picture": {
                "key": key,
                "path": getattr(ref, "path", None),
                "size": [image.shape[1], image.shape[0]],
                "pixels_blake2b": digest(np.ascontiguousarray(image).tobytes()),
            },
            "foreground": notes.meta.get("foreground"),
            "albedo_scale": portrait.scale,
            "light": light.to_json(),
            "clipped_share": lit.clipped_share,
            "instruction": words,
            "files_blake2b": {label: digest(data) for label, data in made.items()},
        }
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def light_label(label: str, variant: str) -> str:
    """As the manifest and the file names have it: `output`, or `v03_output` where there are several lights."""
    return f"{variant}_{label}" if variant else label


def told_labels(wanted: Collection[str], variants: Iterable[str]) -> list[str]:
    """What the table says the path of: the composite of every light, or the first of the others that is written.

    Never the photograph itself. A label that no picture has stands for nothing.
    """
    told = next((label for label in OUTPUTS if label in wanted and label != "input"), "output")
    return [light_label(told, variant) for variant in variants] if told in OF_A_LIGHT else [told]


def all_files(shared: Files, lit_files: Mapping[str, Files], metadatas: Mapping[str, bytes]) -> tuple[Files, Files]:
    """PNG files and JSON files of a picture by their labels, what was lit first."""
    pngs = {light_label(label, variant): png for variant, files in lit_files.items() for label, png in files.items()}
    return pngs | shared, {light_label("metadata", variant): text for variant, text in metadatas.items()}
