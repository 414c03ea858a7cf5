"""Where pictures come from: folders, tables, ZIP files and videos, as items with stable keys."""

from pathlib import Path

from lightmill.engine.items import Source
from lightmill.errors import InputError
from lightmill.sources import files
from lightmill.sources.folder import FolderSource, PictureSource
from lightmill.sources.options import Pick, Sharpness, SourceOptions
from lightmill.sources.table import Table, TableSource, TextTable
from lightmill.sources.table_out import RESULT_COLUMNS, Result, iterate_back, rows_back, write_back
from lightmill.sources.zips import ZipLimit, ZipSource

__all__ = [
    "RESULT_COLUMNS",
    "FolderSource",
    "Pick",
    "PictureSource",
    "Result",
    "Sharpness",
    "SourceOptions",
    "Table",
    "TableSource",
    "TextTable",
    "ZipLimit",
    "ZipSource",
    "iterate_back",
    "open_source",
    "rows_back",
    "write_back",
]


def open_source(path: Path, options: SourceOptions | None = None) -> Source:
    """The source for an INPUT, chosen by what it is: a folder, a picture, a table, a ZIP file or a video.

    Raises InputError: it is missing, cannot be read, is of no known kind, or holds nothing to work on.
    """
    options = options or SourceOptions()
    try:
        is_folder = path.stat() and path.is_dir()
    except FileNotFoundError as error:
        raise InputError(f"there is no {files.shown(path)}{_broken(path)}") from error
    except OSError as error:
        raise files.refused(path, error) from error
    except ValueError as error:
        raise InputError(f"{path!s:.200} is no path") from error
    if is_folder:
        return FolderSource(path, exclude=options.exclude)
    if not path.is_file():
        raise InputError(f"{files.shown(path)} is neither a folder nor an ordinary file")
    return _open_file(path, options)


def _open_file(path: Path, options: SourceOptions) -> Source:
    suffix = files.suffix_of(path.name)
    if suffix in files.PICTURE_SUFFIXES | files.TABLE_SUFFIXES:
        _refuse_folder_of_pictures(path, options.exclude)
    if suffix in files.PICTURE_SUFFIXES:
        return PictureSource(path)
    if suffix in files.TABLE_SUFFIXES:
        return TableSource(path)
    if suffix == "zip":
        return ZipSource(path, limit=options.zip_limit)
    if suffix in files.VIDEO_SUFFIXES:
        from lightmill.sources.video import VideoSource  # brings numpy and FFmpeg

        return VideoSource(path, options)
    raise InputError(_unknown(path, suffix))


def _refuse_folder_of_pictures(path: Path, out: Path | None) -> None:
    """Outputs beside the pictures might take their names. Raises InputError."""
    if out is not None and out.resolve() == path.resolve().parent:
        raise InputError(
            f"OUT is the folder of {files.shown(path)}, where pictures lie that outputs could overwrite; "
            "give OUT a folder of its own"
        )


def _unknown(path: Path, suffix: str) -> str:
    name = files.shown(path)
    if suffix in files.UNSTITCHED_SUFFIXES:
        return f"{name} holds the single lenses of a 360° camera; stitch it into an .mp4 with the maker's program first"
    if suffix in files.FOREIGN_SUFFIXES:
        return f"{name} is a picture of a kind that cannot be read; convert it to PNG, TIFF or JPEG first"
    videos = ", ".join(f".{suffix}" for suffix in sorted(files.VIDEO_SUFFIXES))
    return (
        f"{name} is of no known kind; INPUT is a folder, a picture ({files.picture_suffixes()}), "
        f"a table (.csv, .tsv, .parquet), a .zip or a video ({videos})"
    )


def _broken(path: Path) -> str:
    return ": it is a broken link" if path.is_symlink() else ""
