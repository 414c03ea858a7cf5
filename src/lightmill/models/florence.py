"""Florence-2 (Xiao et al., 2024): its tasks, and what it answers as words."""

import re
from typing import Any

DEFAULT_TASK = "<MORE_DETAILED_CAPTION>"
_TASK = re.compile(r"<[A-Z][A-Z_]*>")


def task_in(prompt: str) -> str:
    """The task token that a prompt begins with; empty where it has none.

    >>> task_in("<REGION_TO_DESCRIPTION><loc_1><loc_2><loc_30><loc_40>")
    '<REGION_TO_DESCRIPTION>'
    """
    found = _TASK.match(prompt.strip())
    return found[0] if found else ""


def has_regions(processor: Any, task: str) -> bool:
    """Whether what a task answers is more than words: boxes, quads or polygons with labels."""
    return bool(processor.tasks_answer_post_processing_type.get(task, "pure_text") != "pure_text")


def labels_in(processor: Any, generated: str, *, task: str, size_hw: tuple[int, int]) -> str:
    """The labels of the regions that a task answered with, each once, in the order of the answer, joined with ", ".

    `generated`: the text with its special tokens still in it; taken apart by transformers' own post-processing.
    """
    height, width = size_hw
    answer = processor.post_process_generation(text=generated, task=task, image_size=(width, height))[task]
    labels = [*answer.get("labels", []), *answer.get("bboxes_labels", []), *answer.get("polygons_labels", [])]
    return ", ".join(dict.fromkeys(label.strip() for label in labels if label.strip()))
