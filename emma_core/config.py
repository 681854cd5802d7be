"""What a network is made of, and how a configuration becomes TOML or JSON and comes back.

Configurations are frozen dataclasses whose defaults are the paper's (arXiv:2305.11443), with the source beside
each. :func:`from_dict` and its relatives serve any such dataclass; an unknown key fails. Nothing here needs torch.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from emma_core.errors import UsageError
from emma_core.files import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound=DataclassInstance)
    Made = TypeVar("Made")

MAX_CHANNELS = 8192
"""Wider layers are a mistake, or a file made to exhaust memory."""


def _check_channels(channels: tuple[int, ...]) -> None:
    if not all(1 <= width <= MAX_CHANNELS for width in channels):
        raise UsageError(f"Channels must lie between 1 and {MAX_CHANNELS}, found {channels}")


@dataclass(frozen=True)
class UFuserConfig:
    """The fusion network.

    Attributes:
        channels: features at each of the four scales, finest first; multiples of ``heads``.
        heads: of the channel attention.
        global_branch: whether its blocks have Restormer blocks; off for the paper's Exp. IV.
        local_branch: whether they have residual blocks; off for Exp. V. With one branch off, the other is
            repeated until the number of parameters is that of the complete network.
    """

    stride: ClassVar[int] = 8
    """Both sides of an image must be multiples of this [pixels]: three times a scale is halved."""

    channels: tuple[int, int, int, int] = (16, 32, 64, 128)  # paper, 4.1
    heads: int = 8  # authors' checkpoints; the paper does not say
    global_branch: bool = True  # paper, 3.3.2
    local_branch: bool = True  # paper, 3.3.2

    def __post_init__(self) -> None:
        """Refuse widths that no network can have."""
        _check_channels(self.channels)
        if self.heads < 1 or any(width % self.heads for width in self.channels):
            raise UsageError(f"U-Fuser: channels {self.channels} must be multiples of heads ({self.heads})")
        if not (self.global_branch or self.local_branch):
            raise UsageError("U-Fuser: global_branch and local_branch are both off; keep one")


@dataclass(frozen=True)
class SensingConfig:
    """A pseudo-sensing network.

    Attributes:
        channels: features at each level of the U-Net, finest first; 2 to 8 levels.
    """

    # "Six-layer U-Nets" (paper, 4.1) of unnamed width. Our inference: doubling as in the authors' checkpoints, from
    # half their first width, which gives the six levels as many parameters (39 million) as their five have.
    channels: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)

    def __post_init__(self) -> None:
        """Refuse widths that no network can have."""
        _check_channels(self.channels)
        if not 2 <= len(self.channels) <= 8:
            raise UsageError(f"Sensing network: expected 2 to 8 levels, found channels {self.channels}")

    @property
    def stride(self) -> int:
        """Both sides of an image must be multiples of this [pixels]: every level but the first halves them."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class NetworkRecipe:
    """The networks of one description of EMMA."""

    ufuser: UFuserConfig = field(default_factory=UFuserConfig)
    sensing: SensingConfig = field(default_factory=SensingConfig)


NETWORK_RECIPES: dict[str, NetworkRecipe] = {
    "paper": NetworkRecipe(),  # arXiv:2305.11443 version 1, 4.1
    "released": NetworkRecipe(  # the authors' checkpoints of the CVPR 2024 version
        UFuserConfig(channels=(8, 16, 32, 32)), SensingConfig(channels=(64, 128, 256, 512, 1024))
    ),
}
"""The networks as the paper describes them (the default) and as its authors released them."""


def network_recipe(name: str) -> NetworkRecipe:
    """Look a recipe up by name.

    Raises:
        UsageError: no such recipe; the message lists those that are known.
    """
    if name not in NETWORK_RECIPES:
        raise UsageError(f"Unknown recipe {name!r}; known: {', '.join(NETWORK_RECIPES)}")
    return NETWORK_RECIPES[name]


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Turn a configuration into what JSON and TOML can hold: tuples become lists, nested ones dictionaries."""
    return {entry.name: _plain(getattr(config, entry.name)) for entry in fields(config)}


def from_dict(cls: type[Config], values: Mapping[str, Any], table: str = "") -> Config:
    """Make a configuration from plain values; what is not given keeps its default.

    Fields may be str, int, float, bool, a tuple of these, a choice (``Literal``), another configuration, or any
    of them or None. An int serves as a float; nothing else is converted.

    Args:
        cls: the dataclass.
        values: by the names of its fields.
        table: where they stand in a larger configuration, for messages: dotted, as in TOML.

    Returns:
        The configuration.

    Raises:
        UsageError: an unknown or missing key, or a value of the wrong type; the message names it.
    """
    place = f"{table}." if table else ""
    known = {entry.name: entry for entry in fields(cls) if entry.init}
    for key in values:
        if key not in known:
            raise UsageError(f"unknown key {place + key!r}; known: {', '.join(known)}")
    for name, entry in known.items():
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise UsageError(f"key {place + name!r} is missing")
    hints = get_type_hints(cls)
    return cls(**{key: _convert(hints[key], value, place + key) for key, value in values.items()})


def read_toml(path: Path, cls: type[Config]) -> Config:
    """Read a configuration from a TOML file.

    Raises:
        UsageError: the file cannot be read, is not TOML, or does not fit the dataclass.
    """
    return from_toml(path, lambda content: from_dict(cls, content))


def from_toml(path: Path, make: Callable[[dict[str, Any]], Made]) -> Made:
    """Make something of what a TOML file says.

    Args:
        path: of the file.
        make: from its content, as plain values.

    Raises:
        UsageError: the file cannot be read, is not TOML, or ``make`` refuses what it says; the message names the file.
    """
    try:
        return make(tomllib.loads(read_text(path, "utf-8-sig")))  # some editors begin a file with a mark
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8; save it as UTF-8, as TOML has to be") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not TOML ({error})") from None


def write_toml(path: Path, config: DataclassInstance) -> None:
    """Write a configuration as TOML, whole or not at all; None is left out."""
    from emma_core.images import write_atomic

    write_atomic(path, "\n".join(_toml_lines(to_dict(config), "")).lstrip("\n").encode() + b"\n")


def _plain(value: object) -> Any:  # noqa: ANN401 - whatever the fields hold
    if is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _convert(hint: Any, value: object, name: str) -> Any:  # noqa: ANN401 - a type, and a value of it
    """Check one value against the annotation of its field."""
    choices = get_args(hint)
    if get_origin(hint) in {Union, UnionType}:
        return None if value is None and NoneType in choices else _convert_any(hint, choices, value, name)
    if get_origin(hint) is Literal:
        if value in choices and type(value) in {type(choice) for choice in choices}:
            return value
    elif get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and (choices[-1] is ... or len(value) == len(choices)):
            hints = [choices[0]] * len(value) if choices[-1] is ... else choices
            return tuple(_convert(hint, item, name) for hint, item in zip(hints, value, strict=True))
    elif is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return from_dict(hint, value, name)
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise UsageError(f"{name}: expected {_spell(hint)}, found {value!r}")


def _convert_any(hint: object, choices: tuple[Any, ...], value: object, name: str) -> Any:  # noqa: ANN401 - likewise
    for choice in choices:
        try:
            return _convert(choice, value, name)
        except UsageError:
            continue
    raise UsageError(f"{name}: expected {_spell(hint)}, found {value!r}")


def _spell(hint: object) -> str:
    if is_dataclass(hint):
        return "a table"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _toml_lines(values: Mapping[str, Any], table: str) -> list[str]:
    """Write the plain values first: whatever follows a table's head belongs to that table."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and value is not None}
    lines = ["", f"[{table}]"] if table else []
    lines += [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _toml_lines(value, f"{table}.{key}" if table else key)
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one escape JSON lacks
    return str(value).lower() if isinstance(value, bool) else repr(value)
