"""Random damage to every kind of file that is read: a valid value or one clear line, never anything else.

Where a file carries checksums (PNG, our weights and states, zipped ``.pth``, images listed in a manifest), damage that
is not refused must not have changed the value.
"""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
from damage import damaged, watchdog
from hypothesis import HealthCheck, given, seed, settings
from kinds import KINDS

from emma_core.chance import seeded
from emma_core.errors import EmmaError

EXAMPLES = 20
"""Damaged copies of each kind of file."""

MORE = 200
"""The same in the slow part."""

examined: Counter[str] = Counter()


def same(one: object, other: object) -> bool:
    """Compare what two readings gave, arrays bit by bit."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize(
    "examples", [EXAMPLES, pytest.param(MORE, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_one_line_or_does_no_harm(name, examples, tmp_path, capfd):
    place = tmp_path / "place"
    place.mkdir()
    with seeded(0, "faults"):
        kind = KINDS[name](place)
    kept = tmp_path / "kept"
    shutil.copytree(place, kept)
    content, whole = kind.path.read_bytes(), kind.read(kind.path)
    capfd.readouterr()

    @seed(2305)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damaged(content))
    def check(data: bytes) -> None:
        shutil.rmtree(place)
        shutil.copytree(kept, place)
        kind.path.write_bytes(data)
        examined[name] += 1
        try:
            with watchdog():
                found = kind.read(kind.path)
        except EmmaError as error:
            said = str(error)
            assert kind.path.name in said or kind.path.parent.name in said, f"names no file: {said}"
            assert len(" ".join(said.split())) < 600, said
            assert "\n" not in said, said
            assert "Traceback" not in said
        else:
            assert not kind.checked or same(found, whole), "a checksum could have told"

    check()
    assert examined[name] >= examples
    # libtiff, behind both decoders, tells on standard error what it stumbles over; nobody can hush it.
    assert capfd.readouterr().err == "" or name.startswith("TIFF"), "a library wrote past us"


def test_more_than_500_damaged_files_were_read():
    if set(examined) != set(KINDS):
        pytest.skip("not all kinds were run")
    assert sum(examined.values()) >= 500
