"""Options that name places in a picture, as shares of its width and height."""

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field


def _numbers(value: Any) -> Any:
    """`0.5,0.4` or a list as numbers."""
    return tuple(value.split(",")) if isinstance(value, str) else value


def _with_label(value: Any) -> Any:
    """A point of two numbers lies on the thing."""
    numbers = _numbers(value)
    return (*numbers, 1) if isinstance(numbers, list | tuple) and len(numbers) == 2 else numbers


Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Point: TypeAlias = Annotated[tuple[Share, Share, Annotated[int, Field(ge=0, le=1)]], BeforeValidator(_with_label)]
Box: TypeAlias = Annotated[tuple[Share, Share, Share, Share], BeforeValidator(_numbers)]
