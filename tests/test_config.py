"""Configurations: they survive dictionaries and TOML, and what is wrong in one is named."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emma_core.config import (
    NetworkRecipe,
    SensingConfig,
    UFuserConfig,
    from_dict,
    network_recipe,
    read_toml,
    to_dict,
    write_toml,
)
from emma_core.errors import UsageError

configurations = st.one_of(
    st.builds(
        UFuserConfig,
        channels=st.tuples(*[st.integers(1, 16).map(lambda width: 8 * width)] * 4),
        heads=st.sampled_from([1, 2, 4, 8]),
        global_branch=st.booleans(),
        local_branch=st.just(value=True),
    ),
    st.builds(SensingConfig, channels=st.lists(st.integers(1, 512), min_size=2, max_size=8).map(tuple)),
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-4
    names: tuple[str, ...] = ("a", "b")
    empty: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    title: str
    steps: int = 3
    mode: Literal["fast", "exact"] = "fast"
    seed: int | None = None
    on: bool = True
    inner: Inner = field(default_factory=Inner)
    last: float | str = 2.5


anything = st.builds(
    Outer,
    title=texts,
    steps=st.integers(-(2**63), 2**63 - 1),
    mode=st.sampled_from(["fast", "exact"]),
    seed=st.none() | st.integers(0, 9),
    on=st.booleans(),
    inner=st.builds(Inner, rate=st.floats(allow_nan=False), names=st.lists(texts, max_size=3).map(tuple)),
    last=st.floats(allow_nan=False) | texts,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(config=configurations | anything)
def test_configurations_survive_dictionaries_and_toml(tmp_path, config):
    assert from_dict(type(config), to_dict(config)) == config
    write_toml(tmp_path / "config.toml", config)
    assert read_toml(tmp_path / "config.toml", type(config)) == config


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (UFuserConfig, {"chanels": [8] * 4}, "unknown key 'chanels'; known: channels, heads, global_branch, local"),
        (UFuserConfig, {"channels": [8, 8, 8]}, "channels: expected"),
        (UFuserConfig, {"channels": [8, 8, 8, "8"]}, "expected int, found '8'"),
        (UFuserConfig, {"channels": 8}, "channels: "),
        (UFuserConfig, {"heads": True}, "heads: expected int, found True"),
        (UFuserConfig, {"heads": 8.0}, "expected int, found 8.0"),
        (UFuserConfig, {"heads": 5}, "multiples of heads"),
        (UFuserConfig, {"heads": 0}, "multiples of heads"),
        (UFuserConfig, {"channels": [0] * 4}, "between 1 and"),
        (UFuserConfig, {"local_branch": 1}, "expected bool, found 1"),
        (UFuserConfig, {"local_branch": False, "global_branch": False}, "keep one"),
        (SensingConfig, {"channels": [8]}, "2 to 8 levels"),
        (SensingConfig, {"channels": [8] * 9}, "2 to 8 levels"),
        (SensingConfig, {"channels": [8, 10**9]}, "between 1 and"),
        (NetworkRecipe, {"sensing": {"width": 1}}, "unknown key 'sensing.width'; known: channels"),
        (NetworkRecipe, {"sensing": 3}, "sensing: expected a table, found 3"),
        (Outer, {}, "key 'title' is missing"),
        (Outer, {"title": "a", "mode": "slow"}, "'fast', 'exact'"),
        (Outer, {"title": "a", "seed": "1"}, "seed: expected int | None"),
        (Outer, {"title": "a", "inner": {"rate": "fast"}}, "inner.rate: expected float"),
    ],
)
def test_wrong_configurations_are_named(cls, values, message):
    with pytest.raises(UsageError, match=message.replace("|", r"\|")):
        from_dict(cls, values)


def test_a_whole_number_serves_as_a_float():
    assert from_dict(Inner, {"rate": 1}) == Inner(rate=1.0)


@pytest.mark.parametrize(
    ("content", "message"), [(b"heads = ", "not TOML"), (b"head = 8", "unknown key 'head'"), (b"\xff", "not UTF-8")]
)
def test_wrong_toml_names_the_file(tmp_path, content, message):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"config\.toml: .*{message}"):
        read_toml(tmp_path / "config.toml", UFuserConfig)
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path / "absent.toml", UFuserConfig)


def test_unknown_recipe_lists_the_known():
    with pytest.raises(UsageError, match="'papers'; known: paper, released"):
        network_recipe("papers")


def test_configurations_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        UFuserConfig().heads = 4


def test_a_mark_at_the_beginning_is_no_part_of_toml_and_another_encoding_is_told(tmp_path):
    """As editors on Windows write them."""
    path = tmp_path / "inner.toml"
    path.write_text("rate = 2.0", "utf-8-sig")
    assert read_toml(path, Inner).rate == 2.0
    path.write_text("rate = 2.0", "utf-16")
    with pytest.raises(UsageError, match=r"inner\.toml: not UTF-8; save it as UTF-8"):
        read_toml(path, Inner)
