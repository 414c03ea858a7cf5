"""Folds in a file: written whole or not at all, read back exactly, and only for the table that they were made of."""

import io
import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightmill.data.folds import PARTS, Fold
from lightmill.engine.outputs import Outputs
from lightmill.errors import InputError

if TYPE_CHECKING:
    import polars as pl

VERSION = 1
_IDENTITY = ("frame", "group", "kind", "label")  # texts that tell one table from another


def save_folds(path: Path, folds: Sequence[Fold], table: "pl.DataFrame", *, durable: bool = False) -> None:
    """A Parquet file with a row for each of the table and a column for each fold: the part that the row is in, or "".

    The rest is JSON under `lightmill` in its metadata, with a digest of the table that the folds are of. The file is
    whole or absent. Raises OutputError, OSError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"fold_{fold.number}": pa.array(_parts(fold, table.height)).dictionary_encode() for fold in folds}
    about = {
        "version": VERSION,
        "rows": table.height,
        "digest": _digest(table),
        "folds": [
            {
                "number": fold.number,
                "unknown_labels": fold.unknown_labels,
                "held_out_groups": fold.held_out_groups,
                "gap": fold.gap,
                "remarks": fold.remarks,
            }
            for fold in folds
        ],
    }
    made = pa.table(columns).replace_schema_metadata({"lightmill": json.dumps(about)})
    data = io.BytesIO()
    pq.write_table(made, data, compression="zstd")
    Outputs(path.parent, durable=durable).write(path.name, data.getvalue())


def load_folds(path: Path, table: "pl.DataFrame | None" = None) -> list[Fold]:
    """The folds of a file, exactly as they were saved.

    table: what they are to be used with. Raises InputError: no such file, no folds, or those of another table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        read = pq.read_table(path)
        about = json.loads((read.schema.metadata or {})[b"lightmill"])
        if about["version"] != VERSION:
            raise InputError(f"{path} has folds of version {about['version']}, not {VERSION}; make them again")
        folds = [_loaded(one, read[f"fold_{one['number']}"].to_pylist()) for one in about["folds"]]
    except FileNotFoundError as error:
        raise InputError(f"there are no folds {path}") from error
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} holds no folds, or is damaged; make them again") from error
    if table is not None and (about["rows"], about["digest"]) != (table.height, _digest(table)):
        raise InputError(f"the folds {path} are of another table, or of an older one; make them again")
    return folds


def _parts(fold: Fold, count: int) -> list[str]:
    parts = np.full(count, "", object)
    for name in PARTS:
        parts[getattr(fold, name)] = name
    return list(parts)


def _loaded(about: Mapping[str, Any], parts: list[str]) -> Fold:
    cells = np.array(parts, object)
    rows: dict[str, Any] = {name: np.flatnonzero(cells == name) for name in PARTS}
    return Fold(
        number=int(about["number"]),
        unknown_labels=tuple(about["unknown_labels"]),
        held_out_groups=tuple(about["held_out_groups"]),
        gap=about["gap"],
        remarks=tuple(about["remarks"]),
        **rows,
    )


def _digest(table: "pl.DataFrame") -> str:
    """32 hex digits of what makes a row this row: frame, group, kind, label and box."""
    digest = blake2b(digest_size=16)
    for name in _IDENTITY:
        if name in table.columns:
            digest.update(f"{name}\0".encode() + "\0".join(table[name].fill_null("").to_list()).encode())
    for name in ("x", "y", "w", "h"):
        if name in table.columns:
            digest.update(f"{name}\0".encode() + table[name].to_numpy().astype("<f8").tobytes())
    return digest.hexdigest()
