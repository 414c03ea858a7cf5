"""Options of a recipe: read, refused, kept in the config, and given again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.cli import _app
from lightmill.errors import ChangedConfig, UsageError
from lightmill.recipes.base import Options, Recipe, is_run_only, is_several, option_name
from lightmill.recipes.caption import Caption
from lightmill.recipes.check import Check
from lightmill.recipes.crop import Crop
from lightmill.recipes.evaluate_segment import EvaluateSegment
from lightmill.recipes.identify import Identify
from lightmill.recipes.join360 import Join360
from lightmill.recipes.mask import Mask
from lightmill.recipes.prepare import Prepare
from lightmill.recipes.registry import RECIPES, SUMMARIES, recipe_class
from lightmill.recipes.relight import Relight
from lightmill.recipes.split360 import Split360
from lightmill.recipes.train_reid import TrainReid
from lightmill.recipes.train_segment import TrainSegment

NEVER_REPEATED = {"fresh", "progress", "trace"}  # by `lightmill retry`

# another value than the default for every option, one by one
OTHER: dict[str, Any] = {
    "naming": "index",
    "absolute_paths": True,
    "limit": 3,
    "threads": 2,
    "workers": 2,
    "ray": "auto",
    "memory": "1GB",
    "fresh": True,
    "durable": True,
    "max_failures": "5%",
    "max_pixels": 1000,
    "zip_limit": "count=5",
    "progress": "json",
    "trace": "trace.json",
    "rig": "cube6",
    "size": "640x480",
    "format": "webp",
    "quality": 80,
    "subsampling": "444",
    "interpolation": "cubic",
    "antialias": "off",
    "layout": "flat",
    "masks": "alpha",
    "mask_prompt": "tripod",
    "mask_model": "org/segmenter",
    "mask_on": "pano",
    "mask_score": 0.3,
    "mask_grow": 0.01,
    "mask_polarity": "keep-black",
    "mask_naming": "colmap",
    "export": "nerfstudio",
    "tile": "auto",
    "flips": True,
    "fps": 2,
    "start": 1,
    "end": 9,
    "width": 512,
    "kind": "mask",
    "model": "org/segmenter",
    "prompt": "tripod",
    "points": "0.1,0.2",
    "boxes": "0.1,0.2,0.3,0.4",
    "grid": 8,
    "score": 0.3,
    "instances": "each",
    "remove": True,
    "grow": 0.01,
    "feather": 0.01,
    "fill_holes": True,
    "min_area": 0.01,
    "soft": True,
    "cutout": True,
    "overlay": True,
    "panorama": "no",
}
OTHER_RELIGHT: dict[str, Any] = {
    "instances": "best",
    "export": "instructpix2pix",
    "score": True,
    "mask_prompt": "dog",
    "min_foreground": 0.2,
    "albedo": "builtin:msr",
    "normals": "org/normals",
    "degrade": "soft=1",
    "ambient": "0.1-0.2",
    "elevation": "30-60",
    "opacity": "0.5",
    "gloss": "0-0.1",
    "shininess": "5-6",
    "variants": 3,
    "seed": 9,
    "background": "original",
    "write": "output,input",
    "keep_top": 9,
    "by": "contrast",
    "replay": True,
}
OTHER_PREPARE: dict[str, Any] = {
    "format": "webp",
    "matte": "#0a0b0c",
    "keep_metadata": True,
    "reencode": "always",
    "verify": "decode",
    "resolution": 512,
    "bucket_step": 32,
    "bucket_min": 256,
    "bucket_max": 4096,
    "no_upscale": True,
    "crop": "salient",
    "min_side": 9,
    "max_aspect": 2,
    "drop_duplicates": "near",
    "score": True,
    "keep_top": 9,
    "by": "contrast",
    "dry_run": True,
    "fit": "bucket",
    "size": None,
}
OTHER_CAPTION: dict[str, Any] = OTHER_PREPARE | {
    "model": "org/captioner",
    "template": "{name}",
    "prompt": None,
    "tagger": "wd:org/tagger",
    "existing": "ignore",
    "trigger": "ohwx",
    "prefix": "a photo of",
    "suffix": ", film",
    "forbid": "blurry",
    "max_tokens": 99,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "repetition_penalty": 1.2,
    "dtype": "float16",
    "quantize": "4bit",
    "retries": 5,
    "script": "any",
    "seed": 9,
    "threshold": 0.5,
    "character_threshold": 0.5,
    "tag_categories": "general",
    "batch": 3,
    "concurrency": 3,
    "timeout": 3,
    "export": "kohya,zip",
    "captions": "append",
    "caption_suffix": ".caption",
    "text_order": "tags,caption",
    "repeats": 3,
    "concept": "cat",
    "concept_by_folder": True,
    "per_shard": 3,
}
OTHER_CROP: dict[str, Any] = {
    "images": "/there/frames",
    "path": "{frame:02d}.jpg",
    "label": "label_id",
    "group": "quarter,session",
    "view": "angle",
    "time": "frame",
    "clean": "off",
    "clean_limit": 3,
    "expand": 1.5,
    "store": "files",
    "size": "64x64",
    "background_per_frame": 2,
    "partial_per_box": 2,
    "share": "0.2,0.3",
    "seed": 9,
}
OTHER_IDENTIFY: dict[str, Any] = {
    "checkpoint": "org/embedder",
    "gallery": "/there/more.arrow",
    "images": "/there/frames",
    "path": "{frame:02d}.jpg",
    "label": "label_id",
    "group": "quarter,session",
    "view": "angle",
    "time": "frame",
    "crops": True,
    "unknown": "-1",
    "gallery_most": 3,
    "threshold": 0.5,
    "track": "off",
    "max_gap": 2,
    "appearance": 0.1,
    "points": 2,
    "nobodies": 3,
}
OTHER_NEGATIVES: dict[str, Any] = {
    "images": "/there/frames",
    "path": "{frame:02d}.jpg",
    "label": "label_id",
    "group": "quarter,session",
    "view": "angle",
    "time": "frame",
    "clean": "off",
    "clean_limit": 3,
    "frame_size": "1920x1080",
    "background_per_frame": 2,
    "partial_per_box": 2,
    "share": "0.2,0.3",
    "expand": 1.5,
    "seed": 9,
}
OTHER_TRAIN_REID: dict[str, Any] = {
    "backbone": "org/backbone",
    "embedding": 64,
    "pooling": "mean",
    "epochs": 3,
    "limit_train": 3,
    "rate": 0.01,
    "backbone_rate": 0.1,
    "decay": 0.1,
    "warmup": 0.2,
    "freeze_epochs": 1,
    "clip": 1,
    "ema": 0.9,
    "patience": 3,
    "amp": "off",
    "margin_deg": 20,
    "scale": 30,
    "triplet_weight": 1,
    "triplet_margin": 0.5,
    "outlier_weight": 2,
    "outlier_bound": 0.2,
    "consistency_weight": 1,
    "seed": 9,
    "tensorboard": False,
    "size": "64x128",
    "mirror": 0.5,
    "augment": 0.5,
    "identities": 8,
    "samples": 3,
    "negatives": 0,
    "within": "group",
    "views": "side,top",
    "folds": 3,
    "fold": 1,
    "unknown": 2,
    "hold": "quarter",
    "block": 5,
    "gap": 2,
    "target": "f1",
    "allow_leaks": True,
    "max_time": "10m",
    "readers": 0,
    "device": "cpu",
    "devices": 2,
}
OTHER_TRAIN_SEGMENT: dict[str, Any] = {
    "size": "tiny",
    "backbone": "org/backbone",
    "backbone_rate": 0.5,
    "dropout": 0.2,
    "epochs": 3,
    "accumulate": 2,
    "limit_train": 3,
    "rate": "auto",
    "decay": 0.1,
    "warmup": 0.2,
    "clip": 1,
    "ema": 0.9,
    "patience": 3,
    "amp": "off",
    "seed": 9,
    "tensorboard": False,
    "cross_entropy": 0.5,
    "dice": 0.5,
    "focal": 1,
    "lovasz": 1,
    "deep": 0,
    "distil": 0.5,
    "distil_features": 0,
    "temperature": 2,
    "class_weights": "off",
    "resolution": "640x480",
    "batch": "auto",
    "augment": 0.5,
    "classes": "sky,road",
    "ignore": "11,254",
    "binary": True,
    "boxes_as_masks": True,
    "group": "folder",
    "teacher": "org/segmenter",
    "teacher_prompt": "tripod",
    "teacher_points": "0.1,0.2",
    "labels": "teacher",
    "val_share": 0.1,
    "cache": "off",
    "max_bad": "5%",
    "max_time": "10m",
    "onnx": True,
    "readers": 0,
    "device": "cpu",
    "devices": 2,
}
OTHER_CHECK: dict[str, Any] = {
    "classes": "sky,road",
    "ignore": "11,254",
    "binary": True,
    "boxes_as_masks": True,
    "group": "folder",
}
OTHER_EVALUATE_SEGMENT: dict[str, Any] = {
    "checkpoint": "org/student",
    "split": "all",
    "ignore": "11,254",
    "binary": True,
    "boxes_as_masks": True,
    "group": "folder",
    "val_share": 0.1,
    "seed": 9,
    "device": "cpu",
}
OTHERS = {
    "relight": OTHER | OTHER_RELIGHT,
    "prepare": OTHER | OTHER_PREPARE,
    "caption": OTHER | OTHER_CAPTION,
    "crop": OTHER | OTHER_CROP,
    "negatives": OTHER | OTHER_NEGATIVES,
    "train reid": OTHER | OTHER_TRAIN_REID,
    "train segment": OTHER | OTHER_TRAIN_SEGMENT,
    "identify": OTHER | OTHER_IDENTIFY,
    "check": OTHER | OTHER_CHECK,
    "evaluate segment": OTHER | OTHER_EVALUATE_SEGMENT,
}
NEEDED: dict[str, dict[str, Any]] = {
    "split360": {"mask_prompt": "person"},
    "join360": {"rig": "ring8"},
    "mask": {"model": "org/other"},
    "relight": {},
    "prepare": {},
    "caption": {},
    "crop": {"store": "raw"},
    "negatives": {},
    "train reid": {},
    "train segment": {},
    "identify": {},
    "check": {},
    "evaluate segment": {},
}


def other_value(recipe: str, name: str) -> Any:
    """Another value than the default."""
    return OTHERS.get(recipe, OTHER).get(name)


COMMON = {
    "naming": st.sampled_from(["key", "stem", "index"]),
    "absolute_paths": st.booleans(),
    "limit": st.none() | st.integers(1, 10**9),
    "threads": st.integers(0, 999),
    "workers": st.integers(0, 99),
    "ray": st.none() | st.sampled_from(["auto", "10.0.0.1:6379"]),
    "memory": st.none() | st.sampled_from(["8GB", "512MiB", "1.5g", "123456"]),
    "fresh": st.booleans(),
    "durable": st.booleans(),
    "max_failures": st.none() | st.sampled_from(["0", "20", "5%", "2.5%", "100%", "0.1%"]),
    "max_pixels": st.integers(1, 10**12),
    "zip_limit": st.none() | st.sampled_from(["4GB", "count=5,ratio=3"]),
    "progress": st.sampled_from(["auto", "rich", "json", "none"]),
    "trace": st.none() | st.just("trace.json"),
}
FORMATS = st.sampled_from(["jpg", "png", "webp", "tiff"])
PROMPTS = st.lists(st.sampled_from(["person", "red bag", "tripod, camera"]), max_size=3)
SHARES = st.floats(0, 1)
SPLIT = COMMON | {
    "rig": st.sampled_from(["ring8", "cube6", "rigs/mine.yaml", "/there/rig.json"]),
    "size": st.builds("{}x{}".format, st.integers(1, 65500), st.integers(1, 65500)),
    "format": FORMATS,
    "quality": st.integers(1, 100),
    "subsampling": st.sampled_from(["420", "444"]),
    "interpolation": st.sampled_from(["linear", "cubic", "lanczos"]),
    "antialias": st.sampled_from(["auto", "off"]),
    "layout": st.just("by-camera"),
    "masks": st.none() | st.sampled_from(["alpha", "masks", "/there/masks"]),
    "mask_prompt": PROMPTS,
    "mask_model": st.just("org/segmenter"),
    "mask_on": st.sampled_from(["views", "pano"]),
    "mask_score": st.none() | st.floats(0, 1),
    "mask_grow": st.floats(-0.5, 0.5),
    "mask_polarity": st.sampled_from(["keep-white", "keep-black"]),
    "mask_naming": st.sampled_from(["stem", "colmap"]),
    "export": st.lists(st.sampled_from(["colmap", "nerfstudio", "realityscan"]), unique=True),
    "fps": st.floats(0.001, 1000),
    "start": st.none() | st.floats(0, 100),
    "end": st.none() | st.floats(100.5, 1e6),
    "pick": st.sampled_from(["first", "sharpest"]),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
}
JOIN = COMMON | {
    "rig": st.sampled_from(["full18", "rigs/mine.yaml", "/there/rig.json"]),
    "width": st.none() | st.integers(2, 65500),
    "kind": st.sampled_from(["image", "mask"]),
    "format": FORMATS,
    "quality": st.integers(1, 100),
}
MASK = COMMON | {
    "model": st.sampled_from(["builtin:salient", "org/segmenter", "facebook/sam3@abc"]),
    "prompt": PROMPTS,
    "points": st.lists(st.builds("{},{}".format, SHARES, SHARES) | st.tuples(SHARES, SHARES, st.integers(0, 1))),
    "boxes": st.lists(st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.5, 1), st.floats(0.5, 1))),
    "grid": st.none() | st.integers(1, 128),
    "score": st.none() | SHARES,
    "tile": st.sampled_from(["off", "auto", "2000", 640]),
    "flips": st.booleans(),
    "instances": st.sampled_from(["union", "largest", "best", "each"]),
    "remove": st.booleans(),
    "grow": st.floats(-0.5, 0.5),
    "feather": st.floats(0, 0.5),
    "fill_holes": st.booleans(),
    "min_area": st.floats(0, 0.99),
    "soft": st.booleans(),
    "cutout": st.booleans(),
    "overlay": st.booleans(),
    "mask_naming": st.sampled_from(["stem", "colmap"]),
    "panorama": st.sampled_from(["auto", "yes", "no"]),
    "fps": st.floats(0.001, 1000),
    "start": st.none() | st.floats(0, 100),
    "end": st.none() | st.floats(100.5, 1e6),
    "pick": st.sampled_from(["first", "sharpest"]),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
}
RANGES = st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)).map(lambda ends: f"{ends[0]:g}-{ends[1]:g}")
RELIGHT = COMMON | {
    "masks": st.none(),
    "mask_prompt": PROMPTS,
    "mask_model": st.sampled_from(["builtin:salient", "org/segmenter"]),
    "mask_score": st.none() | SHARES,
    "instances": st.sampled_from(["union", "largest", "best"]),
    "feather": st.floats(0, 0.5),
    "min_foreground": SHARES,
    "albedo": st.sampled_from(["builtin:retinex", "org/marigold"]),
    "normals": st.sampled_from(["builtin:inflate", "org/depth"]),
    "degrade": st.sampled_from(["soft", "soft=0.5,hard=0.5", "patterns=1,fence=0.25"]),
    "ambient": RANGES,
    "elevation": RANGES,
    "opacity": RANGES,
    "gloss": RANGES,
    "shininess": st.just("5-50"),
    "variants": st.integers(1, 100),
    "seed": st.integers(0, 2**40),
    "background": st.sampled_from(["gray", "original", "#0a0b0c"]),
    "write": st.just("output,input,mask"),
    "export": st.lists(st.just("instructpix2pix"), max_size=1),
    "score": st.booleans(),
    "score_model": st.none(),
    "score_prompt": st.just([]),
    "keep_top": st.none() | st.integers(1, 99),
    "by": st.sampled_from(["sharpness", "contrast"]),
    "fps": st.floats(0.001, 1000),
    "start": st.none() | st.floats(0, 100),
    "end": st.none() | st.floats(100.5, 1e6),
    "pick": st.sampled_from(["first", "sharpest"]),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
    "replay": st.booleans(),
}
PREPARE = COMMON | {
    "format": st.sampled_from(["jpg", "png", "webp"]),
    "quality": st.integers(1, 100),
    "subsampling": st.sampled_from(["420", "444"]),
    "effort": st.none(),
    "matte": st.sampled_from(["white", "black", "gray", "#0a0b0c"]),
    "keep_alpha": st.just(False),
    "keep_metadata": st.booleans(),
    "reencode": st.sampled_from(["auto", "always"]),
    "verify": st.sampled_from(["decode", "markers"]),
    "fit": st.sampled_from(["none", "bucket"]),
    "size": st.none(),
    "resolution": st.integers(512, 2048),
    "bucket_step": st.sampled_from([32, 64]),
    "bucket_min": st.sampled_from([256, 512]),
    "bucket_max": st.sampled_from([2048, 4096]),
    "no_upscale": st.booleans(),
    "crop": st.sampled_from(["center", "salient"]),
    "min_side": st.none() | st.integers(1, 4000),
    "max_aspect": st.none() | st.floats(1, 100),
    "drop_duplicates": st.none() | st.sampled_from(["exact", "near"]),
    "score": st.booleans(),
    "score_model": st.none(),
    "score_prompt": st.just([]),
    "keep_top": st.none() | st.integers(1, 99),
    "by": st.sampled_from(["sharpness", "contrast"]),
    "fps": st.floats(0.001, 1000),
    "start": st.none() | st.floats(0, 100),
    "end": st.none() | st.floats(100.5, 1e6),
    "pick": st.sampled_from(["first", "sharpest"]),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
    "dry_run": st.booleans(),
}
WORDS = st.sampled_from(["", "ohwx", "a photo of", "naïve, 日本"])
CAPTION = PREPARE | {
    "model": st.sampled_from(["org/captioner", "openai:http://127.0.0.1:1234/v1#any", "wd:org/tagger"]),
    "template": st.sampled_from(["{name}", "{trigger}, {folder}"]),
    "prompt": st.sampled_from(["", "Describe {name}."]),
    "tagger": st.none() | st.just("wd:org/tagger"),
    "existing": st.sampled_from(["auto", "layer", "use", "ignore"]),
    "trigger": WORDS,
    "prefix": WORDS,
    "suffix": WORDS,
    "forbid": st.lists(st.sampled_from(["blurry", "watermark, text"]), max_size=3),
    "max_tokens": st.integers(1, 4096),
    "temperature": st.floats(0, 10),
    "top_p": st.none() | st.floats(0.01, 1),
    "top_k": st.none() | st.integers(1, 999),
    "repetition_penalty": st.none() | st.floats(0.5, 2),
    "dtype": st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    "quantize": st.none() | st.sampled_from(["4bit", "8bit"]),
    "retries": st.integers(0, 20),
    "script": st.none() | st.sampled_from(["latin", "japanese", "any"]),
    "captions_per_image": st.just(1),
    "seed": st.integers(0, 2**40),
    "threshold": SHARES,
    "character_threshold": SHARES,
    "tag_categories": st.lists(st.sampled_from(["general", "character", "rating"]), unique=True, min_size=1),
    "batch": st.integers(1, 99),
    "concurrency": st.integers(1, 99),
    "timeout": st.floats(1, 999),
    "export": st.lists(st.sampled_from(["sidecar", "kohya", "zip"]), unique=True),
    "captions": st.sampled_from(["keep", "overwrite", "append"]),
    "caption_suffix": st.sampled_from([".txt", ".caption"]),
    "text_order": st.sampled_from(["tags", "tags,caption"]),
    "repeats": st.integers(1, 99),
    "concept": st.sampled_from(["cat", "two words"]),
    "concept_by_folder": st.booleans(),
    "per_shard": st.integers(1, 99999),
}
COLUMN = st.none() | st.sampled_from(["label_id", "größe", "a column"])
CROP = COMMON | {
    "images": st.none() | st.just("/there/frames"),
    "path": st.sampled_from(["{image_path}", "{quarter}/{frame:02d}.jpg"]),
    "label": COLUMN,
    "group": st.sampled_from(["quarter,session", "quarter", ["quarter", "session"], []]),
    "view": COLUMN,
    "time": COLUMN,
    "clean": st.sampled_from(["drop", "off"]),
    "clean_limit": st.floats(1, 100),
    "expand": st.floats(0.1, 10),
    "store": st.sampled_from(["jpeg", "raw", "files"]),
    "quality": st.integers(1, 100),
    "size": st.none(),
    "background_per_frame": st.integers(0, 1000),
    "partial_per_box": st.integers(0, 100),
    "share": st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)) | st.sampled_from(["0.1,0.25", "0.3, 0.3"]),
    "seed": st.integers(0, 2**40),
}
IDENTIFY = COMMON | {
    "checkpoint": st.sampled_from(["org/embedder", ["org/embedder", "org/other"]]),
    "gallery": st.sampled_from(["/there/crops.arrow", ["/there/crops.arrow", "/there/more"]]),
    "images": st.none() | st.just("/there/frames"),
    "path": st.sampled_from(["{image_path}", "{quarter}/{frame:02d}.jpg"]),
    "label": COLUMN,
    "group": st.sampled_from(["quarter,session", "quarter", ["quarter", "session"], []]),
    "view": COLUMN,
    "time": COLUMN,
    "crops": st.booleans(),
    "unknown": st.sampled_from(["", "-1"]),
    "device": st.sampled_from(["auto", "cpu"]),
    "gallery_most": st.integers(1, 999),
    "threshold": st.none() | st.floats(-1, 1),
    "track": st.sampled_from(["on", "off"]),
    "max_gap": st.floats(0.1, 100),
    "appearance": st.floats(0, 1),
    "points": st.integers(1, 9),
    "nobodies": st.integers(0, 9),
}
CHECK = COMMON | {
    "classes": st.lists(st.sampled_from(["sky", "road, car"]), max_size=3),
    "ignore": st.lists(st.integers(0, 255), max_size=3) | st.sampled_from(["", "11", "11, 254"]),
    "binary": st.booleans(),
    "boxes_as_masks": st.booleans(),
    "group": st.none() | st.sampled_from(["folder", r"(seq\d+)_", "dish"]),
}
EVALUATE_SEGMENT = COMMON | {
    "checkpoint": st.none() | st.just("org/student"),
    "split": st.sampled_from(["val", "test", "train", "all"]),
    "ignore": st.lists(st.integers(0, 255), max_size=3) | st.sampled_from(["", "11", "11, 254"]),
    "binary": st.booleans(),
    "boxes_as_masks": st.booleans(),
    "group": st.none() | st.sampled_from(["folder", r"(seq\d+)_", "dish"]),
    "val_share": st.floats(0.01, 0.99),
    "seed": st.integers(0, 999),
    "tile": st.sampled_from(["off", "auto", "2000", 640]),
    "flips": st.booleans(),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
}
VALUES: dict[type[Recipe], dict[str, Any]] = {
    Split360: SPLIT,
    Join360: JOIN,
    Mask: MASK,
    Relight: RELIGHT,
    Prepare: PREPARE,
    Caption: CAPTION,
    Crop: CROP,
    Identify: IDENTIFY,
    Check: CHECK,
    EvaluateSegment: EVALUATE_SEGMENT,
}
ASKED: dict[type[Recipe], str] = {
    Split360: "mask_model",
    Mask: "model",
    Caption: "model",
}  # without it some of the other options mean nothing


def given_options(recipe: type[Recipe]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a recipe's options, with values as the command line or a YAML file gives them."""
    always = (*recipe.positional, ASKED[recipe]) if recipe in ASKED else recipe.positional
    needed = {name: VALUES[recipe][name] for name in always}
    optional = {name: values for name, values in VALUES[recipe].items() if name not in needed}
    return st.fixed_dictionaries(needed, optional=optional).map(
        lambda options: options | ({"fps": 1.0} if options.get("pick") == "sharpest" and "fps" not in options else {})
    )


def absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Files and folders in full."""
    return options | {
        name: os.path.abspath(options[name])
        for name in ("rig", "masks")
        if "." in str(options.get(name)) or options.get("masks") == "masks" == options.get(name)
    }


def test_every_option_of_every_recipe_is_tried_here() -> None:
    for recipe, values in VALUES.items():
        assert recipe_class(recipe.name) is recipe
        assert set(recipe.model_fields) == set(values)
    assert set(TrainReid.model_fields) <= set(OTHERS["train reid"])
    assert set(TrainSegment.model_fields) <= set(OTHERS["train segment"])
    assert set(RECIPES) == set(SUMMARIES)


@pytest.mark.parametrize("recipe", list(VALUES))
@given(data=st.data())
def test_a_command_means_the_same_run_again(recipe: type[Recipe], data: st.DataObject) -> None:
    """The options that `retry` uses, through the journal's JSON and from another folder, give the same recipe."""
    options = data.draw(given_options(recipe))
    first = recipe.from_values(options)
    command: Any = json.loads(json.dumps(first.command(Path("in"))))
    assert command["recipe"] == recipe.name
    assert command["input"] == os.path.abspath("in")
    assert not NEVER_REPEATED & set(command["options"])
    again = recipe.from_values(command["options"])
    wanted = recipe.from_values(absolute({k: v for k, v in options.items() if k not in NEVER_REPEATED}))
    assert again == wanted
    assert again.config(Path("in")) == first.config(Path("in"))
    assert again.command(Path("in")) == first.command(Path("in"))


@pytest.mark.parametrize("recipe", list(VALUES))
@given(data=st.data())
def test_a_config_holds_all_that_decides_what_comes_out(recipe: type[Recipe], data: st.DataObject) -> None:
    """It survives JSON, gives the same recipe but for how it is run, and does not depend on how values were written."""
    first = recipe.from_values(data.draw(given_options(recipe)))
    config: Any = json.loads(json.dumps(first.config(Path("in"))))
    assert config == first.config(Path("in"))
    again = recipe.from_values({name: value for name, value in config.items() if name != "input"})
    assert again.config(Path("in")) == config
    decides = {name for name, field in recipe.model_fields.items() if not is_run_only(field)}
    assert set(config) == decides | {"input"}


@pytest.mark.parametrize(
    ("recipe", "name"), [(r, n) for r in RECIPES for n in recipe_class(r).model_fields if other_value(r, n) is not None]
)
def test_run_only_options_change_no_config_and_all_others_do(recipe: str, name: str) -> None:
    kind = recipe_class(recipe)
    plain = kind.from_values(NEEDED[recipe])
    other = kind.from_values(NEEDED[recipe] | {name: other_value(recipe, name)})
    assert getattr(plain, name) != getattr(other, name)
    assert (plain.config(Path("in")) == other.config(Path("in"))) == is_run_only(kind.model_fields[name])
    again = kind.from_values(json.loads(json.dumps(other.model_dump(mode="json"))))
    assert again == other


def test_what_is_run_only() -> None:
    run_only = {name for name, field in Recipe.model_fields.items() if is_run_only(field)}
    assert run_only >= {
        "limit",
        "threads",
        "workers",
        "ray",
        "memory",
        "fresh",
        "durable",
        "max_failures",
        "progress",
        "trace",
    }
    assert not run_only & {"naming", "absolute_paths"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fromat": "png"}, "there is no option --fromat; did you mean --format?"),
        ({"mask_polarty": "x"}, "there is no option --mask-polarty; did you mean --mask-polarity?"),
        ({"zzz": 1}, "there is no option --zzz"),
        ({"size": "640"}, "--size '640': a size is written WIDTHxHEIGHT, as in 1920x1080, got '640'"),
        ({"size": "0x9"}, "--size '0x9': a size is from 1x1 to 65500x65500, got 0x9"),
        ({"quality": 0}, "--quality 0: input should be greater than or equal to 1"),
        ({"quality": "101"}, "--quality '101': input should be less than or equal to 100"),
        ({"quality": "high"}, "--quality 'high': input should be a valid integer"),
        ({"format": "gif"}, "--format 'gif': input should be 'jpg', 'png', 'webp' or 'tiff'"),
        ({"export": "colmap,blender"}, "--export .*: input should be 'colmap', 'nerfstudio' or 'realityscan'"),
        ({"limit": 0}, "--limit 0: input should be greater than or equal to 1"),
        ({"threads": -1}, "--threads -1: input should be greater than or equal to 0"),
        ({"memory": "much"}, "--memory 'much': an amount of memory is written as in 800MB or 4GiB, got 'much'"),
        ({"memory": "0"}, "--memory '0': input should be greater than 0"),
        ({"max_failures": "half"}, "--max-failures 'half': a number of failures is written as in 20 or 5%, got 'half'"),
        ({"max_pixels": 0}, "--max-pixels 0: input should be greater than or equal to 1"),
        ({"fps": "-1"}, "--fps '-1': input should be greater than 0"),
        ({"quality": 0, "limit": 0}, "--limit 0: .*; --quality 0: "),
    ],
)
def test_refusals_name_the_option_what_it_got_and_what_it_takes(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Split360.from_values(options)


@pytest.mark.parametrize("name", ["fps", "start", "end"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "inf"])
def test_numbers_are_finite(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"--{name} .*: input should be a finite number"):
        Split360.from_values({name: value})


def test_zip_limit_is_checked_before_anything_is_written(
    write_waves: Callable[..., Any], split: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    with pytest.raises(UsageError, match="--zip-limit"):
        split(tmp_path / "a.png", zip_limit="colour=3")
    assert not (tmp_path / "out").exists()


def test_texts_with_commas_and_lists_are_one() -> None:
    texts = Split360.from_values({"export": "colmap,realityscan"})
    assert texts == Split360.from_values({"export": ["colmap", "realityscan"]})
    assert texts.export == ("colmap", "realityscan")
    assert texts == Split360.from_values({"export": ["colmap, ", "realityscan"]})
    assert Split360.from_values({"export": ""}).export == ()


@pytest.mark.parametrize("recipe", RECIPES)
def test_options_with_several_values_take_commas_and_repetition_on_the_command_line(recipe: str) -> None:
    """Both spellings are one config, so the same run goes on."""
    fields = recipe_class(recipe).model_fields
    for name in (name for name, field in fields.items() if is_several(field)):
        if name in ("points", "boxes", "teacher_points"):  # the commas are within a value
            continue
        kind = get_args(fields[name].annotation)[0]
        choices: Any = get_args(kind) or ((11, 254) if kind is int else ("person", "red bag"))
        values = tuple(choices[:3])
        wanted = [str(value) for value in values]
        spellings = (
            [option_name(name), ", ".join(wanted)],
            [word for choice in wanted for word in (option_name(name), choice)],
            [
                option_name(name),
                ",".join(wanted[:2]),
                *(word for choice in wanted[2:] for word in (option_name(name), choice)),
            ],
        )
        more = [option_name(needed) + "=x" for needed in MORE.get(name, ())]
        places = ["in", *("ring8" for _ in recipe_class(recipe).positional), "out"]
        read: list[Any] = [understood(recipe, [*places, *words, *more]) for words in spellings]
        assert [getattr(one, name) for one in read] == [values] * 3
        assert read[0].config(Path("in")) == read[1].config(Path("in")) == read[2].config(Path("in"))
        if isinstance(read[0], Recipe):
            assert read[0].command(Path("in")) == read[1].command(Path("in")) == read[2].command(Path("in"))


MORE = {"mask_prompt": ["mask_model"], "prompt": ["model"], "score_prompt": ["score_model"]}


def understood(recipe: str, words: list[str]) -> Options:
    """The options as the command line reads them."""
    name = recipe.split()
    _, bound, _ = _app(name[0]).parse_args([*name, *words], exit_on_error=False, print_error=False)
    values = {field: value for field, value in bound.kwargs.items() if value is not None}
    return recipe_class(recipe).from_values(
        values | dict(zip(recipe_class(recipe).positional, bound.args[1:], strict=False))
    )


def test_presets_are_no_files_and_files_are_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cube6").mkdir()
    in_config = [
        Split360.from_values({"rig": rig, "masks": masks}).config(Path("in"))
        for rig, masks in (("cube6", "alpha"), ("cube6.yaml", "masks"))
    ]
    assert (in_config[0]["rig"], in_config[0]["masks"]) == ("cube6", "alpha")
    assert (in_config[1]["rig"], in_config[1]["masks"]) == (str(tmp_path / "cube6.yaml"), str(tmp_path / "masks"))


def test_names_of_options() -> None:
    assert option_name("mask_polarity") == "--mask-polarity"
    with pytest.raises(UsageError, match=r"there is no recipe 'spilt360'; did you mean 'split360'\?"):
        recipe_class("spilt360")
    with pytest.raises(UsageError, match="there is no recipe 'zzz'; there are split360, join360, mask, relight"):
        recipe_class("zzz")


# --- one OUT, one config ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"quality": 80}, "quality was 95, now 80"),
        ({"format": "png"}, "format was jpg, now png"),
        ({"masks": "alpha"}, "masks was not given, now alpha"),
        ({"size": "32x24"}, "size was 64x48, now 32x24"),
        ({"naming": "index"}, "naming was key, now index"),
        ({"rig": "cube6"}, "rig"),
    ],
)
def test_another_config_in_one_out_is_refused_and_nothing_is_touched(
    changed: dict[str, Any], says: str, split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    made = split(tmp_path / "a.png", rig="horizon4")
    before = made.contents
    with pytest.raises(ChangedConfig, match=f"out holds a run with other options: .*{says}.* start anew with --fresh"):
        split(tmp_path / "a.png", **{"rig": "horizon4"} | changed)
    assert made.contents == before
    assert split(tmp_path / "a.png", **{"rig": "horizon4", "fresh": True} | changed).result.ok == 1


def test_the_content_of_a_rig_file_is_part_of_the_config(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    write_waves(tmp_path / "a.png")
    rig = tmp_path / "rig.yaml"
    rig.write_text("rings: [{count: 4}]\n")
    split(tmp_path / "a.png", rig=str(rig))
    rig.write_text("# the same, said otherwise\nrings:\n- {count: 4, hfov: 90}\n")
    assert split(tmp_path / "a.png", rig=str(rig)).result.ok == 1
    rig.write_text("rings: [{count: 4, hfov: 91}]\n")
    with pytest.raises(ChangedConfig, match="the content of rig has changed"):
        split(tmp_path / "a.png", rig=str(rig))


def test_how_to_run_may_change_from_run_to_run(
    split: Callable[..., Any], write_waves: Callable[..., Any], tmp_path: Path
) -> None:
    for number in range(3):
        write_waves(tmp_path / "in" / f"{number}.png", seed=number)
    split(tmp_path / "in", rig="horizon4", limit=1)
    how = {"threads": 1, "durable": True, "memory": "1GB", "max_failures": "3", "trace": tmp_path / "trace.json"}
    parts = split(tmp_path / "in", rig="horizon4", **how)
    assert parts.result.ok == 3
    whole = split(tmp_path / "in", "whole", rig="horizon4")
    assert parts.contents == whole.contents
