"""What scripts/benchmark_training.py says of its figures."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from conftest import REPOSITORY

_spec = importlib.util.spec_from_file_location("benchmark_training", REPOSITORY / "scripts" / "benchmark_training.py")
benchmark_training = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark_training)


@pytest.mark.parametrize(
    ("value", "target", "higher", "said"),
    [
        (2.1, 2.0, True, "2.10 (target 2)"),
        (1.66, 2.0, True, "1.66 (target 2, missed)"),
        (0.3, 0.7, False, "0.30 (target 0.7)"),
        (0.8, 0.7, False, "0.80 (target 0.7, missed)"),
    ],
)
def test_a_missed_target_is_called_so(value, target, higher, said):
    assert benchmark_training.verdict(value, target, higher_is_better=higher) == said


def test_forward_and_backward_passes_are_counted_apart(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(benchmark_training.time, "process_time", lambda: 2.0 ** next(now))
    watch, module = benchmark_training.Watch(), torch.nn.Linear(2, 2)
    watch.follow(module, "forward", "backward")
    module(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert watch.seconds == {"forward": 1.0, "backward": 4.0}
