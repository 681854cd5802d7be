"""Which images the shipped weights were trained on, and which rows are by weights that were shipped before them.

What a fused row scores on pairs that its network was trained on says little of other images.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from emma_core.fusers import SHIPPED_WEIGHTS
from emma_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emma_core.pairs import PairSet

TRAINED_ON = SHIPPED_WEIGHTS.with_name("trained_on.json")
"""Their SHA-256, that of those which were shipped before, and the ids all were trained or validated on, by data set."""


def count_seen(pairs: PairSet, checkpoint_sha256: str | None) -> int:
    """Count the pairs that a checkpoint was trained on, as far as that is known: of shipped weights only."""
    record = _record()
    if checkpoint_sha256 not in {record["checkpoint_sha256"], *record["former_sha256"]}:
        return 0
    ids = set(record["pairs"].get(pairs.dataset, ()))
    return sum(pair.id in ids for pair in pairs.pairs)


def seen_note(row: str, source: Mapping[str, Any], pairs: PairSet) -> tuple[str, ...]:
    """Say in a note how many of the pairs that a row is scored on its network was trained on, if any.

    Args:
        row: its name.
        source: of its result, as :class:`emma_core.rows.InputRow` has it.
        pairs: that it is scored on.
    """
    seen = count_seen(pairs, source.get("checkpoint_sha256"))
    if not seen:
        return ()
    return (f"{row}: its weights were trained on {seen} of these {counted(len(pairs.pairs), 'pair')}.",)


def former_note(row: str, source: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in a note that the images of a row are by weights that are shipped no more, if they are."""
    checkpoint = source.get("checkpoint_sha256") or ""
    if checkpoint not in _record()["former_sha256"]:
        return ()
    return (f"{row}: by the weights that were shipped before ({checkpoint[:8]}), not by those that are shipped now.",)


@cache
def _record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(TRAINED_ON.read_text("utf-8"))
    return record
