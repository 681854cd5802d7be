"""The loop by itself: one weight, a loss that the test makes up, and every figure known beforehand."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from emma_core.engine import Engine
from emma_core.training import BEST, LAST, STATE, SavePolicy, Stage, TrainingError, Validation, train
from emma_core.training_config import CropConfig
from emma_core.training_log import LOG, logged_seconds, read_log
from emma_core.training_state import load_state


class _Odd(torch.nn.Module):
    """One weight; the loss is what the test says."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))


def odd_stage(loss_at, steps=300, gradient=1.0, validate=lambda: Validation({}, 1.0), **changes) -> Stage:
    module = _Odd()

    def step(batch, turn):
        value = torch.tensor(loss_at(turn))
        module.weight.grad = torch.tensor(gradient)
        return {"loss": value}

    def save(path, about):
        path.write_text(str(module.weight.item()))

    return Stage(
        title="odd",
        config=CropConfig(),
        seed=0,
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), 1e-3),
        steps=steps,
        rate=lambda _: 1e-3,
        batches=lambda _: iter(lambda: torch.zeros(1), None),
        step=step,
        validate=validate,
        validate_steps=10,
        save=save,
        **changes,
    )


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (odd_stage(lambda turn: math.nan if turn == 25 else 1.0), "stopped at step 26, the loss is nan"),
        (odd_stage(lambda turn: math.inf if turn == 25 else 1.0), "stopped at step 26, the loss is inf"),
        (odd_stage(lambda _: 1.0, gradient=math.nan), "stopped at step 1, the loss is 1.0, the norm .* nan"),
        (odd_stage(lambda turn: 1.0 if turn < 150 else 500.0), r"stopped at step 15\d, the loss rose from 1 to 1\d"),
    ],
    ids=["nan", "inf", "gradient", "diverging"],
)
def test_a_broken_loss_stops_in_one_line_and_keeps_the_last_good_state(stage, said, tmp_path):
    with pytest.raises(TrainingError, match=said) as caught:
        train(stage, tmp_path / "run", Engine("cpu"), quiet=True)
    assert "\n" not in str(caught.value)
    state = tmp_path / "run" / STATE
    assert ("nothing had been saved" if "step 1," in said else "what was saved before is kept") in str(caught.value)
    if "step 1," in said:
        assert not state.exists()
    else:
        kept = load_state(state)
        assert kept["progress"]["step"] in {20, 150}
        assert math.isfinite(kept["module"]["weight"])
        assert math.isfinite(float((tmp_path / "run" / BEST).read_text()))


def test_the_gradient_is_clipped_and_its_norm_told(tmp_path):
    stage = odd_stage(lambda _: 1.0, steps=1, gradient=5.0, clip=2.0)
    train(stage, tmp_path, Engine("cpu"), quiet=True)
    assert stage.module.weight.item() == pytest.approx(1 - 2 * 1e-3)
    assert read_log(tmp_path / LOG)[0]["norm"] == pytest.approx(5)


def test_losses_are_the_mean_over_the_batches_of_a_step_and_batches_are_numbered(tmp_path):
    stage = odd_stage(float, steps=3, accumulate=2)
    train(stage, tmp_path, Engine("cpu"), policy=SavePolicy(log_steps=1), quiet=True)
    assert [line["loss"] for line in read_log(tmp_path / LOG) if "loss" in line] == [0.5, 2.5, 4.5]


def test_what_a_step_draws_from_the_global_generator_depends_on_its_number_alone(tmp_path):
    drawn: list[float] = []

    def loss(turn):
        drawn.append(torch.rand(()).item())
        return 1.0

    for folder in ("one", "other"):
        train(odd_stage(loss, steps=4), tmp_path / folder, Engine("cpu"), quiet=True)
    assert drawn[:4] == drawn[4:]
    assert len(set(drawn)) == 4


def test_the_best_weights_are_kept_beside_the_last(tmp_path):
    scores = iter([2.0, 3.0, 1.0])
    stage = odd_stage(lambda _: 1.0, steps=30, validate=lambda: Validation({}, next(scores)))
    progress = train(stage, tmp_path, Engine("cpu"), quiet=True)
    assert (progress.best, progress.best_step) == (3.0, 20)
    assert float((tmp_path / BEST).read_text()) == pytest.approx(1 - 20 * 1e-3)
    assert float((tmp_path / LAST).read_text()) == pytest.approx(1 - 30 * 1e-3)


def test_a_run_goes_on_with_as_many_processes_as_it_was_begun_with_and_counts_its_time_on(tmp_path):
    engine, often = Engine("cpu"), SavePolicy(steps=10, log_steps=1)
    with pytest.raises(TrainingError):
        train(
            odd_stage(lambda turn: math.nan if turn == 25 else 1.0, steps=40),
            tmp_path,
            engine,
            policy=often,
            quiet=True,
        )
    lines = [
        {**line, "seconds": 1000 + line["step"]} if "seconds" in line else line for line in read_log(tmp_path / LOG)
    ]
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine.world = 2
    with pytest.raises(TrainingError, match="--num_processes 1, now 2"):
        train(odd_stage(lambda _: 1.0, steps=40), tmp_path, engine, policy=often, quiet=True)
    engine.world = 1
    assert train(odd_stage(lambda _: 1.0, steps=40), tmp_path, engine, policy=often, quiet=True).step == 40
    seconds = {line["step"]: line["seconds"] for line in read_log(tmp_path / LOG) if "seconds" in line}
    assert list(seconds) == list(range(1, 41))
    assert seconds[20] == 1020 < seconds[21] < seconds[40] < 1060
    assert logged_seconds(tmp_path / LOG) == seconds[40]
    engine.world = 2  # nothing is left that they could see other images in
    assert train(odd_stage(lambda _: 1.0, steps=40), tmp_path, engine, quiet=True).processes == 1


def test_the_last_validation_counts_as_well(tmp_path):
    def validate():
        time.sleep(0.1)
        return Validation({}, 1.0)

    train(odd_stage(lambda _: 1.0, steps=10, validate=validate), tmp_path, Engine("cpu"), quiet=True)
    step, validation = read_log(tmp_path / LOG)
    assert logged_seconds(tmp_path / LOG) == validation["seconds"] > step["seconds"] + 0.09
