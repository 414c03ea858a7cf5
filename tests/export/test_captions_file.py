"""Captions come back as they were written, hostile lines are named, and no kill loses or halves an edit."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs
from lightmill.errors import InputError, OutputError, UsageError
from lightmill.export.captions_file import (
    FILE,
    HISTORY,
    Captioned,
    CaptionsFile,
    Layer,
    caption_lines,
    main_layer,
    main_text,
    read_captions,
    write_captions,
)


def picture(key: str, **texts: str) -> Captioned:
    layers = tuple(Layer(name, text, {"model": "m"}) for name, text in texts.items())
    return Captioned(key=key, image=f"images/{key}", width=64, height=48, layers=layers)


PICTURES = [
    picture("a.jpg", caption="a cat", tags="cat, grass"),
    picture("b.jpg", caption="a dog"),
    picture("c/é.jpg", existing="old"),
    picture("d.jpg"),
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_captions(Outputs(tmp_path), PICTURES)
    return tmp_path


def upper(one: Captioned) -> tuple[Layer, ...]:
    return tuple(replace(layer, text=layer.text.upper()) for layer in one.layers)


def only(key: str, text: str) -> Callable[[Captioned], Sequence[Layer]]:
    return lambda one: [replace(layer, text=text) for layer in one.layers] if one.key == key else one.layers


def texts(out: Path) -> dict[str, list[str]]:
    return {one.key: [layer.text for layer in one.layers] for one in read_captions(out / FILE)}


def test_a_line_is_what_the_contract_says() -> None:
    (line,) = caption_lines(PICTURES[:1])
    assert json.loads(line) == {
        "key": "a.jpg",
        "image": "images/a.jpg",
        "width": 64,
        "height": 48,
        "layers": [
            {"layer": "caption", "text": "a cat", "origin": {"model": "m"}},
            {"layer": "tags", "text": "cat, grass", "origin": {"model": "m"}},
        ],
    }


ODD = st.text('ab é🙂,"\\{\n\r\t\x00\x85\u2028\ufeff', max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD, inner, max_size=3),
    max_leaves=5,
)
LAYERS = st.builds(Layer, ODD.filter(bool), ODD, st.dictionaries(ODD, JSON, max_size=3))


@settings(max_examples=30)
@given(st.lists(st.tuples(ODD.filter(bool), st.lists(LAYERS, max_size=3)), unique_by=lambda pair: pair[0], max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[Layer]]]) -> None:
    out = tmp_path_factory.getbasetemp()
    pictures = [Captioned(key, "images/a.jpg", 1, 2, tuple(layers)) for key, layers in rows]
    write_captions(Outputs(out), pictures)
    assert list(read_captions(out / FILE)) == pictures
    assert len((out / FILE).read_text(encoding="utf-8").splitlines()) == len(pictures)  # a line stays a line


def test_half_a_surrogate_pair_does_not_stop_the_writing(tmp_path: Path) -> None:
    write_captions(Outputs(tmp_path), [picture("a.jpg", caption="cat \ud83d")])
    assert texts(tmp_path) == {"a.jpg": ["cat ?"]}


def test_blank_lines_a_mark_and_windows_line_ends_are_read(out: Path) -> None:
    data = (out / FILE).read_bytes()
    (out / FILE).write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n\r\n"))
    assert list(read_captions(out / FILE)) == PICTURES


GOOD = {"key": "x", "image": "images/x.jpg", "width": 1, "height": 1, "layers": []}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "no JSON that can be read"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "no JSON that can be read"),
        (b'{"key": NaN}', "NaN is no number"),
        (b'{"key": ' + b"9" * 5000 + b"}", "no JSON that can be read"),
        (json.dumps({**GOOD, "key": "\ud800"}).encode(), "not UTF-8 text"),
        (json.dumps({**GOOD, "key": ""}).encode(), "key must be text that is not empty"),
        (json.dumps({**GOOD, "key": 3}).encode(), "key must be text"),
        (json.dumps({**GOOD, "key": "a.jpg"}).encode(), "the key 'a.jpg' is there twice"),
        (json.dumps({**GOOD, "note": 1}).encode(), "the field 'note' is not known"),
        (json.dumps({**GOOD, "image": "../x.jpg"}).encode(), "must be a path inside OUT"),
        (json.dumps({**GOOD, "image": "/etc/passwd"}).encode(), "must be a path inside OUT"),
        (json.dumps({**GOOD, "image": "C:/x.jpg"}).encode(), "must be a path inside OUT"),
        (json.dumps({**GOOD, "image": "images\\..\\x.jpg"}).encode(), "must be a path inside OUT"),
        (json.dumps({**GOOD, "width": 0}).encode(), "width must be a whole number of pixels"),
        (json.dumps({**GOOD, "height": True}).encode(), "height must be a whole number of pixels"),
        (json.dumps({**GOOD, "width": 1.5}).encode(), "width must be a whole number of pixels"),
        (json.dumps({**GOOD, "layers": {}}).encode(), "layers must be a list of objects"),
        (json.dumps({**GOOD, "layers": ["a"]}).encode(), "layers must be a list of objects"),
        (json.dumps({**GOOD, "layers": [{"layer": "x"}]}).encode(), "text must be text"),
        (json.dumps({**GOOD, "layers": [{"layer": "", "text": ""}]}).encode(), "layer must be text"),
        (json.dumps({**GOOD, "layers": [{"layer": "x", "text": "", "origin": 1}]}).encode(), "origin must be"),
        (json.dumps({**GOOD, "layers": [{"layer": "x", "text": "", "by": 1}]}).encode(), "the field 'by' is not known"),
        (b"{}", "key must be text"),
        (b'"' + b"a" * (1 << 24), "longer than"),
    ],
)  # fmt: skip
def test_hostile_lines_are_named_by_number(out: Path, line: bytes, why: str) -> None:
    lines = (out / FILE).read_bytes().splitlines()
    (out / FILE).write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(InputError, match=rf"captions\.jsonl, line 3: .*{why}"):
        list(read_captions(out / FILE))


def test_reading_is_one_line_at_a_time(out: Path) -> None:
    with open(out / FILE, "ab") as file:
        file.write(b"broken\n")
    reading = read_captions(out / FILE)
    assert [next(reading).key for _ in PICTURES] == [one.key for one in PICTURES]  # none waits for the broken end
    with pytest.raises(InputError, match="line 5"):
        next(reading)


def test_the_main_text_is_that_of_the_first_layer_that_there_is() -> None:
    one = picture("a", tags="t", existing="x", caption="c")
    assert main_text(one) == "c"
    assert main_text(one, ["tags", "caption"]) == "t"
    assert main_text(replace(one, layers=(*one.layers, Layer("edited", "")))) == ""  # someone emptied it
    assert main_text(picture("a", rating="safe")) == ""
    assert main_layer(picture("a")) is None


def test_an_edit_is_undone_and_redone_to_the_byte(out: Path) -> None:
    states = [(out / FILE).read_bytes()]
    captions = CaptionsFile(out)
    for number, change in enumerate((upper, only("b.jpg", "A wolf"), only("a.jpg", "x")), 1):
        assert captions.edit(change, what=f"edit {number}") == number
        states.append((out / FILE).read_bytes())
    assert len(set(states)) == 4
    for number in (3, 2, 1):
        step = captions.undo()
        assert (step.number, step.skipped) == (number, 0)
        assert (out / FILE).read_bytes() == states[number - 1]
    with pytest.raises(UsageError, match="there is no edit to undo"):
        captions.undo()
    for number in (1, 2, 3):
        assert captions.redo().number == number
        assert (out / FILE).read_bytes() == states[number]
    with pytest.raises(UsageError, match="there is no undone edit to redo"):
        captions.redo()


def test_a_record_holds_only_what_changed(out: Path) -> None:
    captions = CaptionsFile(out)
    captions.edit(only("b.jpg", "a wolf"), what="wolf")
    (change,) = captions.changes(1)
    assert change.key == "b.jpg"
    assert [layer.text for layer in change.before] == ["a dog"]
    assert change.after == (Layer("caption", "a wolf", {"model": "m", "edit": 1}),)
    assert len((out / HISTORY / "0001.jsonl").read_bytes().splitlines()) == 2
    assert captions.edited() == {"b.jpg": change.after}


def test_history_says_what_stands(out: Path) -> None:
    captions = CaptionsFile(out)
    captions.edit(upper, what="upper")
    captions.edit(only("a.jpg", "x"), what="x")
    captions.undo()
    assert [(e.number, e.what, e.changed, e.stands) for e in captions.history()] == [
        (1, "upper", 3, True),
        (2, "x", 1, False),
    ]
    assert (captions.next_step(redo=False), captions.next_step(redo=True)) == (1, 2)
    assert set(captions.edited()) == {"a.jpg", "b.jpg", "c/é.jpg"}


def test_a_new_edit_forgets_what_was_undone(out: Path) -> None:
    captions = CaptionsFile(out)
    for text in "xyz":
        captions.edit(only("a.jpg", text), what=text)
    captions.undo(), captions.undo()
    assert captions.edit(only("b.jpg", "new"), what="new") == 2
    assert [(edit.number, edit.what) for edit in captions.history()] == [(1, "x"), (2, "new")]
    assert not (out / HISTORY / "0003.jsonl").exists()
    with pytest.raises(UsageError, match="no undone edit"):
        captions.redo()


def test_an_edit_that_changes_nothing_is_none(out: Path) -> None:
    captions, before = CaptionsFile(out), (out / FILE).stat().st_mtime_ns
    captions.edit(upper, what="upper")
    captions.undo()
    assert captions.edit(lambda one: one.layers, what="nothing") is None
    assert captions.next_step(redo=True) == 1  # what was undone can still be redone
    assert (out / FILE).stat().st_mtime_ns >= before
    assert sorted(path.name for path in (out / HISTORY).iterdir()) == ["0001.jsonl", "state.json"]


def test_undo_leaves_alone_what_has_changed_since(out: Path) -> None:
    captions = CaptionsFile(out)
    captions.edit(upper, what="upper")
    made_again = [picture("new.jpg", caption="new"), *(replace(one, layers=upper(one)) for one in PICTURES[:1])]
    stamped = [one for one in captions if one.key == "b.jpg"]
    write_captions(Outputs(out), [*made_again, *stamped])  # a run: c is gone, a was made anew, b was kept
    assert captions.undo() == (1, 1, 2)
    assert texts(out) == {"new.jpg": ["new"], "a.jpg": ["A CAT", "CAT, GRASS"], "b.jpg": ["a dog"]}


def test_no_edit_while_a_run_is_at_work(out: Path) -> None:
    before = (out / FILE).read_bytes()
    with RunLock(out / ".lightmill"), pytest.raises(OutputError, match="another run is already at work"):
        CaptionsFile(out).edit(upper, what="upper")
    assert (out / FILE).read_bytes() == before
    assert CaptionsFile(out).edit(upper, what="upper") == 1


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no captions\.jsonl; make captions first"):
        CaptionsFile(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_broken_line_stops_an_edit_before_anything_changes(out: Path) -> None:
    with open(out / FILE, "ab") as file:
        file.write(b"broken\n")
    before = (out / FILE).read_bytes()
    with pytest.raises(InputError, match="line 5"):
        CaptionsFile(out).edit(upper, what="upper")
    assert (out / FILE).read_bytes() == before
    assert CaptionsFile(out).history() == []


@pytest.mark.parametrize("damage", [b"{", b"", b"[]", b"{}", b'{"applied": "x", "last": 1}'])
def test_a_damaged_state_says_what_to_do(out: Path, damage: bytes) -> None:
    captions = CaptionsFile(out)
    captions.edit(upper, what="upper")
    (out / HISTORY / "state.json").write_bytes(damage)
    with pytest.raises(OutputError, match="is damaged; remove the folder"):
        captions.undo()


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_record_that_was_cut_changes_nothing(out: Path, kept: float) -> None:
    captions = CaptionsFile(out)
    captions.edit(upper, what="upper")
    record, before = out / HISTORY / "0001.jsonl", (out / FILE).read_bytes()
    record.write_bytes(record.read_bytes()[: int(kept * record.stat().st_size)])
    with pytest.raises(InputError, match=r"0001\.jsonl, line \d"):
        captions.undo()
    assert (out / FILE).read_bytes() == before


def test_what_a_kill_left_half_written_is_not_read(out: Path) -> None:
    (out / HISTORY).mkdir(parents=True)
    for name in ("new.jsonl", "next.jsonl", "0001.jsonl", "0002.jsonl"):
        (out / HISTORY / name).write_bytes(b'{"edit": 1, "wh')
    captions = CaptionsFile(out)
    assert captions.history() == []
    assert captions.edit(upper, what="upper") == 1
    assert [edit.what for edit in captions.history()] == ["upper"]
    assert captions.undo() == (1, 3, 0)
    assert list(captions) == PICTURES


KILLED = """
import os, shutil, sys
from pathlib import Path
from lightmill.export.captions_file import CaptionsFile
from dataclasses import replace

template, cases = map(Path, sys.argv[1:3])
def shout(one): return [replace(layer, text=layer.text + "!") for layer in one.layers]
DO = {"edit": lambda c: c.edit(shout, what="shout"), "undo": lambda c: c.undo(), "redo": lambda c: c.redo()}

def killed(out, do, at):
    # True where the process was killed before its event number `at`
    child = os.fork()
    if not child:
        met = 0
        def hook(event, arguments):
            nonlocal met
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.link") and str(out) in str(arguments[0]):
                met += 1
                if met > at:
                    os._exit(9)
        captions = CaptionsFile(out)
        sys.addaudithook(hook)
        DO[do](captions)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

for do in DO:
    at = 0
    while True:
        out = cases / f"{do}_{at:03d}"
        shutil.copytree(template, out)
        if not killed(out, do, at):
            break
        at += 1
"""


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs fork")
def test_a_kill_before_any_file_operation_leaves_it_done_or_not_begun(tmp_path: Path) -> None:
    template, cases = tmp_path / "template", tmp_path / "cases"
    template.mkdir(), cases.mkdir()
    write_captions(Outputs(template), PICTURES)
    captions = CaptionsFile(template)
    for text in "xyz":
        captions.edit(only("a.jpg", text), what=text)
    captions.undo()  # two stand, one may be redone
    subprocess.run([sys.executable, "-c", KILLED, str(template), str(cases)], check=True, timeout=60)
    before = texts(template)
    after = {
        "edit": {key: [f"{text}!" for text in found] for key, found in before.items()},
        "undo": {**before, "a.jpg": ["x", "x"]},
        "redo": {**before, "a.jpg": ["z", "z"]},
    }
    stands = {"edit": (3, 3), "undo": (1, 3), "redo": (3, 3)}
    ends: dict[str, list[bool]] = {do: [] for do in after}
    for case in sorted(cases.iterdir()):
        do = case.name.partition("_")[0]
        found, captions = texts(case), CaptionsFile(case)
        done = found == after[do]
        ends[do].append(done)
        assert done or found == before, case.name
        history = captions.history()
        shown = (sum(edit.stands for edit in history), len(history))
        assert shown == stands[do] if done else shown in ((2, 3), (2, 2)), case.name  # 2: what was undone is forgotten
        while captions.next_step(redo=False):
            assert captions.undo().skipped == 0, case.name
        assert list(captions) == PICTURES, case.name
        assert captions.edit(only("b.jpg", "end"), what="end"), case.name
    for found in ends.values():
        assert found == sorted(found)  # first not begun, then done
        assert len(found) > 5
        assert {False, True} == set(found)
