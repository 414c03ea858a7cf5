"""COCO: which pictures the JSON files of a folder speak of. What they say of them is for the labels to read."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightmill.data.listing import Listing, Stamp, note_folder, stamp_of
from lightmill.data.problems import Problem, said
from lightmill.data.rows import Rows
from lightmill.data.split_lists import official
from lightmill.engine.wording import count_of
from lightmill.errors import InputError
from lightmill.sources import files

_SHOWN = 5


def coco_jsons(listing: Listing) -> dict[str, Stamp]:
    """Relative path -> stamp of the JSON files in the root, in annotations/ and in split folders; by name alone.

    Where some begin with `instances`, only those: the others of COCO's own say other things of the same pictures.
    """
    folders = [""] + [name for name, is_folder in note_folder(listing, "") if is_folder and _may_hold(name)]
    paths = [
        f"{folder}/{name}" if folder else name
        for folder in folders
        for name, is_folder in note_folder(listing, folder)
        if not is_folder and files.suffix_of(name) == "json"
    ]
    instances = [path for path in paths if path.rpartition("/")[2].startswith("instances")]
    return {path: stamp_of(os.path.join(listing.root, path)) for path in instances or paths}


def _may_hold(folder: str) -> bool:
    return folder.lower() == "annotations" or bool(official(folder))


def read_coco(listing: Listing, jsons: Mapping[str, Stamp], images: Sequence[str]) -> tuple[Rows, list[str]]:
    """Rows of all pictures below the root. A mask is written `annotations/val.json#17`: the file, and the picture's id.

    A picture that no JSON lists has no mask; one that is listed without any annotation shows nothing but background.
    Raises InputError where a JSON cannot be read, or none is COCO's.
    """
    said_of: dict[str, list[tuple[str, str]]] = {}  # picture -> (mask, split)
    by_name: dict[str, list[str]] = {}
    for image in images:
        by_name.setdefault(image.rpartition("/")[2], []).append(image)
    lost, is_coco = [], False
    for path in jsons:
        about = _loaded(listing.root, path)
        if about is None:
            continue
        is_coco = True
        split = _split_of(path)
        for entry in about["images"]:
            name = str(entry["file_name"]).replace("\\", "/").removeprefix("./")
            image = _image_of(name, by_name, path, split)
            if image:
                said_of.setdefault(image, []).append((f"{path}#{entry['id']}", split))
            else:
                lost.append(name)
    if not is_coco:
        raise InputError(
            f"{files.shown(listing.root)}: {', '.join(jsons)} are not COCO's: they list no images and annotations"
        )
    rows = Rows()
    for image in images:
        _add(rows, image, said_of.get(image, []))
    some = ", ".join(lost[:_SHOWN]) + (", …" if len(lost) > _SHOWN else "")
    return rows, [
        f"{count_of(len(lost), 'picture')} of the JSON cannot be told or are not there: {some}"
    ] if lost else []


def _add(rows: Rows, image: str, found: Sequence[tuple[str, str]]) -> None:
    if not found:
        rows.add(image, "", problem=said(Problem.MISSING_MASK, "no JSON lists it"))
        return
    splits = sorted({split for _, split in found if split})
    if len(splits) > 1:
        problem = said(Problem.TWO_SPLITS, " and ".join(splits))
    else:
        problem = said(Problem.DUPLICATE, " and ".join(mask for mask, _ in found)) if len(found) > 1 else ""
    rows.add(image, found[0][0], split=splits[0] if splits else "", problem=problem)


def _loaded(root: str, path: str) -> Any:
    """What a JSON file holds; None where that is nothing of COCO's."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            about = json.load(file)
    except OSError as error:
        raise files.refused(path, error) from error
    except ValueError as error:
        raise InputError(f"{files.shown(path)} is no JSON: {error}") from error
    is_coco = isinstance(about, dict) and all(isinstance(about.get(name), list) for name in ("images", "annotations"))
    if is_coco and not all(isinstance(one, dict) and {"file_name", "id"} <= one.keys() for one in about["images"]):
        raise InputError(f"{files.shown(path)}: every one of its images needs file_name and id")
    return about if is_coco else None


def _split_of(path: str) -> str:
    """By its folder, or a part of its name: instances_train2017.json."""
    folder, _, name = path.rpartition("/")
    parts = re.split(r"[^a-zA-Z]+", name.rpartition(".")[0])
    return official(folder) or next((split for part in parts if (split := official(part))), "")


def _image_of(name: str, by_name: Mapping[str, Sequence[str]], path: str, split: str) -> str:
    """The picture whose path ends so; of several the one beside the JSON, or in a folder of its split. "": none."""
    found = [image for image in by_name.get(name.rpartition("/")[2], ()) if f"/{image}".endswith(f"/{name}")]
    if len(found) > 1:
        home = path.rpartition("/")[0]
        near = [image for image in found if home and image.startswith(f"{home}/")]
        same = [image for image in found if split and split in {official(part) for part in image.split("/")[:-1]}]
        found = near or same
    return found[0] if len(found) == 1 else ""
