"""`caption` and `prepare` as people meet them: lists that are half broken, and dry runs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lightmill
from lightmill.engine.run import RunResult
from lightmill.errors import InputError, ModelError, UsageError


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


def test_captions_that_could_not_be_taken_along_are_told_at_the_end_and_in_the_report(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (folder / "a.txt").write_text("a fox")
    (folder / "b.txt").write_text("Error generating caption: CUDA out of memory")
    (folder / "d.json").write_text("{")
    (folder / "c.jpg").write_bytes(b"no picture")
    for _ in range(2):  # the same again by the same command, once
        run = lightmill.caption(folder, tmp_path / "out", template="{name}")
        (warning,) = run.warnings
        assert warning.startswith(
            "not all captions that are there could be taken along, for 2 pictures: b.jpg (b.txt: error"
        )
        assert warning in json.loads((run.out / "report.json").read_text())["warnings"]
    assert lightmill.caption(folder, tmp_path / "other", template="{name}", existing="ignore").warnings == ()


def test_a_dry_run_says_which_captions_are_there_and_what_would_become_of_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", *(f"{letter}.jpg" for letter in "abcdef"))
    (folder / "a.txt").write_text("a fox")
    (folder / "b.caption").write_text("a cat")
    (folder / "c.json").write_text(json.dumps({"caption": "a car", "tags": ["car", "red"]}))
    (folder / "a.json").write_text(json.dumps("two foxes"))
    (folder / "d.txt").write_text("  ")
    (folder / "e.json").write_text("{")
    (folder / "metadata.jsonl").write_text('{"file_name": "b.jpg", "text": "of the list"}\n')
    beside = "  captions that are there: for 3 of 6 pictures (.json 2, .txt 1, .caption 1, metadata.jsonl 1)"
    wanted = {
        "auto": "they would be used, and 3 pictures captioned",
        "use": "they would be used, and 3 pictures captioned",
        "layer": "they would be kept as a layer, and all pictures captioned",
        "ignore": "they would be left aside, and all pictures captioned",
    }
    for existing, what in wanted.items():
        remarks = lightmill.caption(folder, tmp_path / "out", dry_run=True, existing=existing).remarks
        assert [line for line in remarks if "captions that are there:" in line or "--existing" in line] == [
            beside,
            f"  --existing {existing}: {what}",
        ]
        assert any("taken along, for 1 picture: e.jpg (e.json is" in line for line in remarks) == (existing != "ignore")
    assert not (tmp_path / "out").exists()
    bare = folder_of(tmp_path / "bare", "a.jpg")
    assert not any("caption" in line for line in lightmill.caption(bare, tmp_path / "out", dry_run=True).remarks)


def test_a_dry_run_says_what_would_become_of_edits(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.jpg", "b.jpg")
    out = lightmill.caption(folder, tmp_path / "out", template="{name}").out
    (out / "images" / "a.txt").write_text("my own words")

    def said(policy: str) -> list[str]:
        run = lightmill.caption(folder, out, template="{name}", dry_run=True, captions=policy)
        return [line.strip() for line in run.remarks if "edited" in line or "--captions" in line]

    edited = "captions of 1 picture were edited in OUT since the last run"
    assert said("keep") == [edited, "--captions keep: they would stay"]
    assert said("append") == [edited, "--captions append: they would stay, with the new ones added to them"]
    assert said("overwrite") == [edited, "--captions overwrite: they would go"]
    assert (out / "images" / "a.txt").read_text() == "my own words"
    (out / "captions.jsonl").write_text("{broken")
    with pytest.raises(InputError):
        said("keep")
    assert said("overwrite")[1] == "--captions overwrite: they would go"


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
