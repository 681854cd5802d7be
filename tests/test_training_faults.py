"""What goes wrong in training: it stops in one line, and what was good is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from small_trainings import FUSER, SHORT, data_of, run_fuser, run_sensing

from emma_core.engine import Engine
from emma_core.errors import UsageError
from emma_core.sealed import metadata
from emma_core.train_runs import RunOptions, train_fuser
from emma_core.training import STATE
from emma_core.training_config import NOTHING
from emma_core.training_state import StateError, load_state, save_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_damaged_state_is_said(trainable, tmp_path):
    run_sensing(trainable, tmp_path / "run")
    whole = (tmp_path / "run" / STATE).read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        (tmp_path / "run" / STATE).write_bytes(damaged)
        with pytest.raises(StateError, match="not a training state"):
            run_sensing(trainable, tmp_path / "run")


def test_a_state_from_before_there_were_checksums_is_read_but_none_that_changed(tmp_path):
    path = tmp_path / "state"
    save_state(path, {"weight": torch.tensor([1.5, 2.5])})
    content = metadata("emma-tasks-training", path.read_bytes())
    changed = {"0": torch.tensor([1.5, 3.5])}
    path.write_bytes(safetensors.torch.save(changed, {"emma-tasks-training": json.dumps(content)}))
    with pytest.raises(StateError, match="checksum differs"):
        load_state(path)
    del content["checksum"]
    path.write_bytes(safetensors.torch.save(changed, {"emma-tasks-training": json.dumps(content)}))
    assert torch.equal(load_state(path)["weight"], changed["0"])


def test_a_state_of_another_network_is_refused(trainable, tmp_path):
    run_fuser(trainable, tmp_path / "run", replace(FUSER, schedule=replace(SHORT, steps=1)))
    run_sensing(trainable, tmp_path / "other")
    (tmp_path / "run" / STATE).write_bytes((tmp_path / "other" / STATE).read_bytes())
    with pytest.raises(StateError, match="does not fit the network"):
        run_fuser(trainable, tmp_path / "run", replace(FUSER, schedule=replace(SHORT, steps=1)))


def test_states_come_back_as_they_were(tmp_path):
    state = {"a": [1, 2.5, None, True, "x"], 3: {"t": torch.arange(6).view(2, 3), 0: torch.tensor(1.5)}}
    save_state(tmp_path / "state", state)
    back = load_state(tmp_path / "state")
    assert back["a"] == state["a"]
    assert torch.equal(back[3]["t"], state[3]["t"])
    assert back[3][0] == 1.5
    with pytest.raises(TypeError, match="cannot hold set"):
        save_state(tmp_path / "state", {"a": {1}})


def test_sensing_networks_are_asked_for_where_they_are_needed(trainable, tmp_path):
    options = RunOptions("test", tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"--sensing-ir FILE .* emma-tasks train sensing"):
        train_fuser(Engine("cpu"), FUSER, data_of(trainable), options)
    traditional = replace(FUSER, loss=replace(NOTHING, sources=1.0), schedule=replace(SHORT, steps=2))
    assert train_fuser(Engine("cpu"), traditional, data_of(trainable), options).step == 2
