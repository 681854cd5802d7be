"""Training recipes: the published ones value by value, and how they are changed and written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_trainings import FUSER, SHORT

from emma_core.config import from_dict, read_toml, to_dict, write_toml
from emma_core.errors import UsageError
from emma_core.training_config import NOTHING, RECIPES, override, training_recipe

# Every value stands here a second time, so that none changes by a slip: arXiv:2305.11443 and the authors' code.
RANDOM_CROPS = {
    "size": 128,
    "placing": "random",
    "stride": 200,
    "min_contrast": 0.1,
    "flips": False,
    "exposure": 0.0,
    "gamma": 0.0,
}
GRID_CROPS = RANDOM_CROPS | {"placing": "grid"}
SCHEDULE = {
    "epochs": 100,
    "steps": None,
    "batch": 8,
    "accumulate": 1,
    "learning_rate": 1e-4,
    "decay_epochs": 20,
    "decay": 0.5,
    "clip": None,
    "precision": "fp32",
    "validate_epochs": 5,
}
LOSS = {
    "distance": "l1",
    "infrared": 1.0,
    "visible": 1.0,
    "equivariance": 10.0,
    "sources": 0.0,
    "maximum": 0.0,
    "slopes": 0.0,
    "gain": 1.0,
    "teacher": 0.0,
    "detach_target": False,
}
PAPER = {
    "title": "arXiv:2305.11443 version 1",
    "sensing": {
        "network": {"channels": [32, 64, 128, 256, 512, 1024]},
        "distance": "l1",
        "classical": ["laplacian", "guided", "two-scale"],
        "crops": RANDOM_CROPS,
        "schedule": SCHEDULE | {"epochs": 40, "batch": 64, "decay_epochs": 10},
    },
    "fuser": {
        "network": {"channels": [16, 32, 64, 128], "heads": 8, "global_branch": True, "local_branch": True},
        "loss": LOSS,
        "transforms": {"identity": False, "shifts": 1, "rotations": 1, "angles": [], "reflections": 1},
        "copies_at_once": 2,
        "crops": RANDOM_CROPS,
        "schedule": SCHEDULE,
        "warm_start": False,
        "warm_start_loss": LOSS | {"infrared": 0.0, "visible": 0.0, "equivariance": 0.0, "maximum": 1.0, "slopes": 1.0},
        "warm_start_schedule": SCHEDULE | {"epochs": 20},
    },
}
RELEASED = {
    "title": "the authors' code of the CVPR 2024 version",
    "sensing": PAPER["sensing"]
    | {"network": {"channels": [64, 128, 256, 512, 1024]}, "distance": "mse", "crops": GRID_CROPS},
    "fuser": PAPER["fuser"]
    | {
        "network": {"channels": [8, 16, 32, 32], "heads": 8, "global_branch": True, "local_branch": True},
        "loss": LOSS | {"distance": "l1+gradient", "equivariance": 0.1},
        "transforms": {
            "identity": True,
            "shifts": 3,
            "rotations": 3,
            "angles": [10.0, 130.0, 250.0],
            "reflections": 3,
        },
        "crops": GRID_CROPS,
        "schedule": SCHEDULE | {"epochs": 120, "batch": 4},
    },
}


@pytest.mark.parametrize(("name", "values"), [("paper", PAPER), ("Released", RELEASED)])
def test_recipes_are_those_of_the_protocol(name, values):
    assert to_dict(training_recipe(name)) == values


def test_ablations_are_those_of_table_2():
    fusers = {number: training_recipe(f"ablation-{number}").fuser for number in ("I", "II", "III", "IV", "V")}
    full = training_recipe("paper").fuser
    assert replace(fusers["I"], loss=full.loss) == full
    assert fusers["I"].loss == replace(full.loss, equivariance=0.0)
    assert fusers["II"].loss == replace(full.loss, infrared=0.0, visible=0.0, sources=1.0)
    assert fusers["III"].loss == replace(NOTHING, sources=1.0)
    assert not fusers["III"].loss.senses
    assert not fusers["IV"].network.global_branch
    assert not fusers["V"].network.local_branch


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_survive_toml(name, tmp_path):
    recipe = RECIPES[name]
    for training in (recipe.sensing, recipe.fuser):
        write_toml(tmp_path / "a.toml", training)
        assert read_toml(tmp_path / "a.toml", type(training)) == training
        assert from_dict(type(training), to_dict(training)) == training


def test_values_are_overridden_one_by_one():
    changed = override(FUSER, {"loss": {"equivariance": 7}, "schedule": {"steps": 5}})
    assert changed.loss == replace(FUSER.loss, equivariance=7.0)
    assert changed.schedule == replace(SHORT, steps=5)
    with pytest.raises(UsageError, match=r"unknown key 'loss\.equivarience'"):
        override(FUSER, {"loss": {"equivarience": 7}})


def test_epochs_that_are_asked_for_replace_the_steps_of_a_recipe():
    quick = training_recipe("quick").fuser
    assert override(quick, {"schedule": {"epochs": 3}}).schedule == replace(quick.schedule, epochs=3, steps=None)
    assert override(quick, {"schedule": {"epochs": 3, "steps": 9}}).schedule.steps == 9
    assert override(quick, {"schedule": {"batch": 1}}).schedule.steps == quick.schedule.steps


def test_the_warm_start_computes_as_the_rest_does():
    cpu = training_recipe("cpu").fuser
    assert override(cpu, {"schedule": {"precision": "fp32"}}).warm(teacher=False).schedule.precision == "fp32"


@pytest.mark.parametrize("change", [{"crops": {"size": 40}}, {"crops": {"size": 16}, "schedule": {"batch": 1}}])
def test_crops_that_the_sensing_network_cannot_take_are_refused(change):
    five_levels = {"network": {"channels": [4] * 5}, "schedule": {"batch": 2}, "crops": {"size": 16}}
    training = override(training_recipe("quick").sensing, five_levels)
    with pytest.raises(UsageError):
        override(training, change)


@pytest.mark.parametrize(
    "change",
    [
        {"crops": {"size": 20}},
        {"loss": {"equivariance": -1.0}},
        {"loss": to_dict(NOTHING)},
        {"copies_at_once": 0},
        {"crops": {"size": 4}},
    ],
)
def test_trainings_that_would_train_nothing_are_refused(change):
    with pytest.raises(UsageError):
        override(FUSER, change)
