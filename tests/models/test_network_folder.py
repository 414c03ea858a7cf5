"""A folder that is read while another process puts a new network there, as `mask` reads what is being trained."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from lightmill.errors import ModelError
from lightmill.models import network_folder
from lightmill.models.network_folder import load_network_of, read_settings, restore_folder, save_folder


class Numbered(BaseModel):
    number: int


def save(folder: Path, number: int) -> None:
    network = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(network.weight, number)
    save_folder(folder, network, Numbered(number=number))


def number_in(folder: Path) -> int:
    return read_settings(folder, Numbered, what="thing", made_by="x").number


def weight_in(folder: Path) -> int:
    return int(load_network_of(folder, lambda: torch.nn.Linear(2, 2), what="thing").weight[0, 0])


def slow_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in between two of them takes so long that others are sure to meet it."""
    rename = Path.rename

    def slowly(source: Path, target: Path) -> Path:
        if ".tmp" in source.name:
            time.sleep(0.005)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", slowly)


def watched(wrong: list[Exception], work: Callable[..., None], *given: Any) -> None:
    try:
        work(*given)
    except Exception as error:  # noqa: BLE001 (whatever it is, the test tells it)
        wrong.append(error)


def test_who_reads_and_who_writes_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One saves again and again, slowly, and others read: nobody fails, and what is read never gets older."""
    folder, over, wrong = tmp_path / "best", threading.Event(), list[Exception]()
    slow_renames(monkeypatch)
    save(folder, 0)

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            save(folder, number)

    def read(look: Callable[[Path], int]) -> None:
        met = 0
        while not over.is_set():
            found = look(folder)
            assert found >= met
            met = found

    jobs = (write,), (read, number_in), (read, weight_in)
    threads = [threading.Thread(target=watched, args=(wrong, *job)) for job in jobs]
    for thread in threads:
        thread.start()
    time.sleep(2)
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert number_in(folder) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_one_that_a_reader_put_back_is_replaced_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the instant between the two renames of who writes."""
    folder, rename, times = tmp_path / "best", Path.rename, list[Path]()
    save(folder, 1)

    def renamed(source: Path, target: Path) -> Path:
        if target == folder and ".tmp" in source.name:
            times.append(source)
            if len(times) < 3:
                restore_folder(folder)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", renamed)
    save(folder, 2)
    assert len(times) == 3
    assert (number_in(folder), weight_in(folder)) == (2, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_folder.time, "sleep", pytest.fail)
    with pytest.raises(ModelError, match=r"holds no thing: .*config\.json cannot be read \(No such file"):
        number_in(tmp_path / "nothing")
