"""Decomposers and normal estimators by the names that `--albedo` and `--normals` give them."""

from typing import TYPE_CHECKING, Any

from lightmill.errors import UsageError

if TYPE_CHECKING:
    from lightmill.models.kinds import Decomposer, NormalEstimator


def open_decomposer(name: str, *, seed: int = 0) -> "Decomposer":
    """`builtin:NAME`, or the folder or hub id of a Marigold model of intrinsic images; nothing is loaded.

    `seed`: of models that draw. Raises UsageError for another name, and what finding the model raises.
    """
    from lightmill.models.decomposers import BUILTIN

    made: Decomposer = (
        _builtin("--albedo", name, BUILTIN)
        if name.startswith("builtin:")
        else _of_kind("--albedo", name, {"marigold-intrinsics"}, seed=seed)
    )
    return made


def open_normals(name: str, *, seed: int = 0) -> "NormalEstimator":
    """`builtin:NAME`, or the folder or hub id of a Depth-Anything or a Marigold normals model; likewise."""
    from lightmill.models.normals import BUILTIN

    made: NormalEstimator = (
        _builtin("--normals", name, BUILTIN)
        if name.startswith("builtin:")
        else _of_kind("--normals", name, {"depth-anything", "marigold-normals"}, seed=seed)
    )
    return made


def _builtin(option: str, name: str, known: "dict[str, type[Any]]") -> Any:
    if name not in known:
        raise UsageError(f"{option} {name}: there is none of that name; there is {', '.join(known)}")
    return known[name]()


def _of_kind(option: str, name: str, wanted: set[str], *, seed: int) -> Any:
    from lightmill.models.depth import kind_of, open_depth
    from lightmill.models.hub import find_model
    from lightmill.models.marigold import open_marigold

    kind = kind_of(find_model(name))
    if kind not in wanted:
        met = f"a model of the kind {kind}" if kind else "of a kind that nothing here reads"
        raise UsageError(f"{option} {name}: it is {met}, and this option takes {' or '.join(sorted(wanted))}")
    return open_depth(name) if kind == "depth-anything" else open_marigold(name, seed=seed)
