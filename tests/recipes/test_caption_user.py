"""`caption` and `prepare` as people meet them: lists that are half broken, and dry runs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lightmill
from lightmill.engine.run import RunResult
from lightmill.errors import ModelError, UsageError


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((48, 36)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def folder_of(path: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(jpeg(number))
    return path


def lines(run: RunResult, name: str) -> dict[str, dict[str, object]]:
    rows = map(json.loads, (run.out / name).read_text("utf-8").splitlines())
    return {row["key"]: row for row in rows}


def captions(run: RunResult) -> dict[str, str]:
    return {key: row["layers"][0]["text"] for key, row in lines(run, "captions.jsonl").items()}  # type: ignore[index]  # JSON


def test_a_broken_line_of_a_list_takes_no_other_with_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "a.jpg", "text": "a fox"}\n{"file_name": "b.jpg", "text": "cut o\n\n'
        '{"file_name": "c.jpg", "text": "a cat"}\n{"file_name\n'
    )
    run = lightmill.caption(folder, tmp_path / "out", template="{name}")
    assert captions(run) == {"a.jpg": "a fox", "b.jpg": "b", "c.jpg": "a cat"}
    for row in lines(run, "manifest.jsonl").values():
        (left_out,) = row["meta"]["existing_left_out"]  # type: ignore[index]  # JSON
        assert left_out.startswith("metadata.jsonl, line 2, is no JSON that can be read")


def test_what_could_not_be_read_is_said_of_the_same_pictures_whatever_the_threads(tmp_path: Path) -> None:
    """Of every picture below the list, not of the one that was first to look at it."""
    folder = folder_of(tmp_path / "in", *(f"{part}/{n:02}.jpg" for part in "ab" for n in range(12)))
    (folder / "a" / "captions.json").write_text("{")
    one = lightmill.caption(folder, tmp_path / "1", threads=1)
    four = lightmill.caption(folder, tmp_path / "4", threads=4)
    assert (one.out / "manifest.jsonl").read_bytes() == (four.out / "manifest.jsonl").read_bytes()
    noted = {key for key, row in lines(four, "manifest.jsonl").items() if "existing_left_out" in row["meta"]}  # type: ignore[operator]  # JSON
    assert noted == {f"a/{n:02}.jpg" for n in range(12)}


def test_a_dry_run_of_many_says_first_what_would_not_come_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", *(f"{n:02}.jpg" for n in range(30)))
    (folder / "27.jpg").write_bytes(b"hello")
    run = lightmill.prepare(folder, tmp_path / "out", dry_run=True)
    rows = [remark.split()[:2] for remark in run.remarks if ".jpg" in remark]
    assert rows == [["failed", "27.jpg"], *(["ok", f"{n:02}.jpg"] for n in range(19))]
    assert run.remarks[-1].strip() == "… and 10 more"


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.jpg")
    for wrong, error, said in (
        ({"template": "{nope}"}, UsageError, r"\{nope\} is no variable"),
        ({"model": str(tmp_path / "gone")}, ModelError, "there is no such folder"),
        ({"score_model": str(tmp_path / "gone"), "score_prompt": ("fox",)}, ModelError, "there is no such folder"),
    ):
        for dry_run in (True, False):
            with pytest.raises(error, match=said):
                lightmill.caption(folder, tmp_path / "out", dry_run=dry_run, **wrong)
    with pytest.raises(ModelError, match="there is no such folder"):
        lightmill.prepare(
            folder, tmp_path / "out", dry_run=True, score_model=str(tmp_path / "gone"), score_prompt=("fox",)
        )
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_too_small_takes_nobodys_place(tmp_path: Path) -> None:
    """--keep-top 2 --min-side 60 is the two best of those that are large enough."""
    rng = np.random.default_rng(5)
    for name, side in (("tiny", 40), ("a", 80), ("b", 80), ("c", 80)):
        strength = {"tiny": 120, "a": 90, "b": 60, "c": 20}[name]  # the tiny one is the sharpest
        noise = rng.integers(128 - strength, 128 + strength, (side, side, 3)).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "in" / f"{name}.png")
    lightmill.prepare(tmp_path / "in", tmp_path / "out", keep_top=2, min_side=60, threads=2)
    assert sorted(path.stem for path in (tmp_path / "out" / "images").iterdir()) == ["a", "b"]
