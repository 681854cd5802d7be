"""Training on the command line: what is asked for is what is done, and what makes no sense is refused."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Outcome, emma
from small_trainings import TINY, sensing_network

from emma_core.checkpoint import load_sensing, load_ufuser, save_checkpoint
from emma_core.config import SensingConfig, read_toml
from emma_core.errors import DataError
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import SensingUNet
from emma_core.train_commands import _on_device
from emma_core.train_data import Source, find_data
from emma_core.train_runs import FuserRun, SensingRun, sensing_result
from emma_core.training import BEST, CONFIG
from emma_core.training_config import training_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = """
network.channels = [8, 8, 8, 8]
transforms = {identity = true, shifts = 0, rotations = 0, reflections = 0}
crops.size = 16
schedule.batch = 2
warm_start_schedule = {steps = 1, batch = 2}
"""


def train(kind: str, root: Path, folder: Path, *options: str | Path) -> Outcome:
    """Run ``emma-tasks train`` in a folder, on the pairs of ``trainable``."""
    data = ["--data", f"mine={root / 'ir'},{root / 'vi'}", "--device", "cpu"]
    return emma("train", kind, *data, *options, cwd=folder)


def done(outcome: Outcome) -> Outcome:
    assert outcome.returncode == 0, outcome.stderr
    return outcome


def refused(outcome: Outcome, said: str) -> None:
    """The request ends in one line that says why."""
    assert outcome.returncode, outcome.stdout
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sensing_file(path: Path, **provenance: str) -> Path:
    save_checkpoint(path, sensing_network(), recipe="test", provenance=provenance)
    return path


@pytest.fixture
def networks(trainable) -> list[str | Path]:
    """The options that a fuser cannot do without."""
    return ["--sensing-ir", trainable / "Ai.safetensors", "--sensing-vis", trainable / "Av.safetensors"]


def test_all_stages_from_the_command_line(trainable, tmp_path):
    (tmp_path / "small.toml").write_text("network.channels = [4, 8]\ncrops.size = 32\n")
    (tmp_path / "skip.txt").write_text("000\n001\n")
    common = ["--recipe", "quick", "--held-out", "2", "--exclude-file", "mine=skip.txt", "--steps", "2", "--seed", "3"]
    for modality, side in (("ir", "infrared"), ("vis", "visible")):
        options = ["--modality", modality, *common, "--config", "small.toml", "--teacher", "max"]
        told = done(train("sensing", trainable, tmp_path, *options, "--dry-run")).stdout
        assert f"Would train the {side} sensing network by recipe quick, changed for 2 steps on 4 pairs" in told
        assert "2 held out, teachers max)" in told
        weights = Path(f"runs/train/sensing-{modality}-quick/best.safetensors")
        assert not (tmp_path / weights).exists()
        assert str(weights) in done(train("sensing", trainable, tmp_path, *options)).stdout
        assert load_sensing(tmp_path / weights)[0].config == SensingConfig((4, 8))
        run = read_toml(tmp_path / weights.with_name(CONFIG), SensingRun)
        assert (run.side, run.seed) == (side, 3)
    networks = ["--sensing-ir", "runs/train/sensing-ir-quick/best.safetensors", "--sensing-vis", weights]
    done(train("fuser", trainable, tmp_path, *common, *networks, "--no-warm-start"))
    folder = tmp_path / "runs" / "train" / "fuser-quick"
    assert load_ufuser(folder / "last.safetensors")[1].recipe == "quick, changed"
    assert not (folder / "warm-start").exists()


def test_folders_under_an_unknown_name_are_told_how_they_are_given(trainable, tmp_path):
    refused = emma("train", "sensing", "--modality", "ir", "--data", f"own={trainable}", cwd=tmp_path)
    assert refused.returncode == 2
    assert "For your own folders give: --data own=IR_DIR,VIS_DIR" in refused.stderr


def test_a_fuser_is_trained_from_and_towards_what_was_asked_for(trainable, tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    save_checkpoint(tmp_path / "begin.safetensors", UFuser(TINY), recipe="test", provenance={})
    infrared = sensing_file(tmp_path / "Ai.safetensors", stage="infrared sensing", l1="0.3", constant="0.1", copy="0.4")
    visible = trainable / "Av.safetensors"
    options = ["--config", "small.toml", "--steps", "1", "--held-out", "2", "--seed", "3", "--warm-start"]
    options += ["--teacher", f"Theirs={trainable / 'vi'}", "--initial", "begin.safetensors", "--out", "run"]
    outcome = done(train("fuser", trainable, tmp_path, *options, "--sensing-ir", infrared, "--sensing-vis", visible))
    run = read_toml(tmp_path / "run" / CONFIG, FuserRun)
    assert (run.infrared_sensing, run.visible_sensing) == (sha256(infrared), sha256(visible))
    assert run.initial == sha256(tmp_path / "run" / "warm-start" / "last.safetensors")
    warm = read_toml(tmp_path / "run" / "warm-start" / CONFIG, FuserRun)
    assert warm.initial == sha256(tmp_path / "begin.safetensors")
    assert warm.training.loss.teacher == 1
    for each in (run, warm):
        assert (each.seed, each.data.teachers) == (3, ("Theirs",))
    (warning,) = [line for line in outcome.stderr.splitlines() if line.startswith("Warning")]
    assert warning.startswith(f"Warning: {infrared}: ")


def test_a_sensing_network_learns_only_from_pairs_that_a_teacher_fused(trainable, tmp_path):
    for name in ("001", "004", "006"):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        shutil.copy(trainable / "vi" / f"{name}.png", tmp_path / "theirs")
    options = ["--modality", "ir", "--teacher", "T=theirs", "--held-out", "1", "--dry-run"]
    outcome = done(train("sensing", trainable, tmp_path, *options))
    assert "on 2 pairs (mine: 3 pairs; validated on 1 held out, teachers T)" in outcome.stdout
    assert "Left out mine/all/003: no teacher has an image of it" in outcome.stderr
    outcome = done(train("sensing", trainable, tmp_path, *options, "--teacher", "max"))  # the rule fuses the others
    assert "on 7 pairs" in outcome.stdout


def test_a_teacher_of_the_fuser_needs_the_warm_start(trainable, tmp_path, networks):
    options = ["--recipe", "quick", "--no-warm-start", "--teacher", f"T={trainable / 'vi'}", *networks, "--dry-run"]
    outcome = train("fuser", trainable, tmp_path, *options)
    (tmp_path / "towards.toml").write_text("loss.teacher = 1.0\n")
    done(train("fuser", trainable, tmp_path, *options, "--config", "towards.toml"))
    assert outcome.returncode == 2
    refused(outcome, "--teacher T: nothing learns from it; add --warm-start")


def test_a_single_pair_is_not_said_to_be_held_out(trainable, tmp_path):
    (tmp_path / "one.txt").write_text("003\n")
    options = ["--modality", "ir", "--split-file", "mine=one.txt", "--dry-run"]
    told = done(train("sensing", trainable, tmp_path, *options)).stdout
    assert "on 1 pair (mine: 1 pair; validated on the same, as there is no other, teachers laplacian, " in told


def test_crops_that_a_sensing_network_cannot_take_are_refused(trainable, tmp_path):
    save_checkpoint(tmp_path / "deep.safetensors", SensingUNet(SensingConfig((4,) * 6)), recipe="test", provenance={})
    (tmp_path / "small.toml").write_text("crops.size = 48\n")
    options = ["--recipe", "quick", "--config", "small.toml", "--out", "run"]
    networks = ["--sensing-ir", "deep.safetensors", "--sensing-vis", "deep.safetensors"]
    outcome = train("fuser", trainable, tmp_path, *options, *networks)
    assert outcome.returncode == 2
    refused(outcome, "takes images whose sides are multiples of 32 pixels; expected such crops.size, found 48")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spelt", "side"), [("IR", "infrared"), ("Infrared", "infrared"), ("Vis", "visible"), ("visible", "visible")]
)
def test_a_sensor_may_be_spelt_out_and_in_capitals(spelt, side, trainable, tmp_path):
    told = done(train("sensing", trainable, tmp_path, "--modality", spelt, "--dry-run")).stdout
    assert f"the {side} sensing network" in told
    assert f"runs/train/sensing-{'ir' if side == 'infrared' else 'vis'}-paper" in told


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_recipe_cpu_computes_in_what_the_processor_has(native, precision, monkeypatch):
    """Emulated, bf16 is ten times slower than fp32; the run records which it was, for both stages."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    recipe = training_recipe("cpu")
    assert _on_device(recipe.sensing, "cpu").schedule.precision == precision
    settled = _on_device(recipe.fuser, "cpu")
    assert settled.schedule.precision == settled.warm(teacher=False).schedule.precision == precision
    chosen = replace(settled, schedule=replace(settled.schedule, precision="bf16"))
    assert _on_device(chosen, "cpu") == chosen


@pytest.mark.parametrize(
    ("options", "long"),
    [
        (["--recipe", "cpu"], "90 epochs of stage I (warm start), then 3 epochs"),
        (["--recipe", "cpu", "--no-warm-start"], "cpu for 3 epochs"),
        (["--recipe", "paper", "--warm-start", "--steps", "7"], "20 epochs of stage I (warm start), then 7 steps"),
    ],
)
def test_a_dry_run_of_the_fuser_names_its_stages(options, long, trainable, tmp_path, networks):
    assert long in done(train("fuser", trainable, tmp_path, *options, *networks, "--dry-run")).stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_dry_run_refuses_what_the_run_refuses(dry, trainable, tmp_path, networks):
    refused(train("fuser", trainable, tmp_path, *dry), "give --sensing-ir FILE and --sensing-vis FILE")
    missing = ["--initial", tmp_path / "missing"]
    refused(train("fuser", trainable, tmp_path, *dry, *networks, *missing), "missing: no such file")
    save_checkpoint(tmp_path / "tiny.safetensors", UFuser(TINY), recipe="test", provenance={})
    begin = ["--initial", tmp_path / "tiny.safetensors"]
    refused(train("fuser", trainable, tmp_path, *dry, *networks, *begin), "The weights to begin with are of")
    visible = sensing_file(tmp_path / "v.safetensors", stage="visible sensing")
    swapped = ["--sensing-ir", visible, "--sensing-vis", trainable / "Ai.safetensors"]
    refused(train("fuser", trainable, tmp_path, *dry, *swapped), f"{visible}: is the visible sensing network")
    infrared = sensing_file(tmp_path / "i.safetensors", stage="infrared sensing")
    swapped = ["--sensing-ir", infrared, "--sensing-vis", infrared]
    refused(train("fuser", trainable, tmp_path, *dry, *swapped), "is given as the visible one")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("l1", "rivals"),
    [
        ("0.1", ""),
        ("0.2", "a constant grey (0.200)"),
        ("0.35", "a constant grey (0.200) or the fused image itself (0.300)"),
    ],
)
def test_sensing_networks_that_learnt_nothing_are_warned_of(l1, rivals, trainable, tmp_path):
    doubtful = sensing_file(tmp_path / "Av.safetensors", l1=l1, constant="0.2", copy="0.3")
    networks = ["--sensing-ir", trainable / "Ai.safetensors", "--sensing-vis", doubtful]
    told = done(train("fuser", trainable, tmp_path, *networks, "--dry-run")).stderr
    answers = f"Warning: {doubtful}: its answers to held-out pairs (mean absolute error {float(l1):.3f})"
    said = f"{answers} are no better than {rivals}; the fuser learns little from it; train it longer: "
    assert told == (f"{said}train sensing with more --epochs or --steps, into another --out\n" if rivals else "")


def test_training_a_sensing_network_ends_in_words_and_the_warning_of_the_fuser(trainable, tmp_path, networks):
    options = ["--modality", "ir", "--recipe", "quick", "--steps", "1", "--held-out", "2", "--out", "run"]
    outcome = done(train("sensing", trainable, tmp_path, *options))
    best = Path("run") / "best.safetensors"
    reached = load_sensing(tmp_path / best)[1].provenance
    l1, constant, copy = (float(reached[name]) for name in ("l1", "constant", "copy"))
    error = f"mean absolute error {l1:.3f} ({255 * l1:.1f} grey levels)"
    beside = f"a constant grey has {constant:.3f}, the fused image itself {copy:.3f}"
    said = f"{best}; on held-out pairs: {error}; {beside}; values in [0, 1], lower is better"
    assert outcome.stdout == f"run: 1 step done; best at step 1: {said}\n"
    assert f"infrared sensing: step 1: {error}; {beside}\n" in outcome.stderr
    warning = outcome.stderr.splitlines()[-1]
    assert warning.startswith(f"Warning: {best}: its answers")
    fuser = ["--sensing-ir", best, *networks[2:], "--dry-run"]
    assert done(train("fuser", trainable, tmp_path, *fuser)).stderr.splitlines() == [warning]


def test_a_sensing_network_that_beats_both_is_not_warned_of(tmp_path):
    sensing_file(tmp_path / BEST, l1="0.1", constant="0.2", copy="0.3")
    said = "mean absolute error 0.100 (25.5 grey levels); a constant grey has 0.200, the fused image itself 0.300"
    assert sensing_result(tmp_path) == (said, [])


def test_steps_of_the_fuser_leave_the_warm_start_its_length_and_help_says_so(trainable, tmp_path, networks):
    (tmp_path / "small.toml").write_text(SMALL.replace("steps = 1", "steps = 2"))
    options = ["--config", "small.toml", "--steps", "1", "--held-out", "2", "--warm-start", "--out", "run", *networks]
    outcome = done(train("fuser", trainable, tmp_path, *options))
    begins = "Recipe paper, changed: 2 steps of stage I (warm start), then 1 step on 6 pairs, validated on 2 held out"
    assert begins in outcome.stderr
    assert "warm start: step 2: EN" in outcome.stderr
    assert "fuser: step 1: EN" in outcome.stderr
    best = Path("run") / "best.safetensors"
    score = float(load_ufuser(tmp_path / best)[1].provenance["score"])
    said = f"{best}; on held-out pairs: score {score:.4g} (pixel-wise maximum: 1); higher is better"
    assert outcome.stdout == f"run: 1 step done; best at step 1: {said}\n"
    told = " ".join(emma("train", "fuser", "--help", cwd=tmp_path).stdout.split())
    assert "Of stage III, instead of epochs. The warm start keeps its length: see warm_start_schedule" in told


def test_to_resume_takes_something_to_resume(trainable, tmp_path, networks):
    options = ["--modality", "ir", "--recipe", "quick", "--steps", "1", "--out", "run"]
    refused(train("sensing", trainable, tmp_path, *options, "--resume"), "nothing to resume in run; leave --resume out")
    assert not (tmp_path / "run").exists()
    done(train("sensing", trainable, tmp_path, *options))
    assert "1 step done" in done(train("sensing", trainable, tmp_path, *options, "--resume")).stdout
    fuser = [*networks, "--out", "other", "--resume", "--dry-run"]
    refused(train("fuser", trainable, tmp_path, *fuser), "nothing to resume in other")
    (tmp_path / "other" / "warm-start").mkdir(parents=True)
    shutil.copy(tmp_path / "run" / CONFIG, tmp_path / "other" / "warm-start")
    done(train("fuser", trainable, tmp_path, *fuser))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nonsense"], "expected NAME=PATH"),
        (["--data", "mine=a,b", "--split-file", "other=x"], "no --data has this name"),
        (["--data", "mine=a,b", "--exclude-file", "mine=x", "--exclude-file", "mine=y"], "given twice"),
        (["--data", "mine=a,b", "--split-file", "mine=x", "--split-file", "mine=y"], "given twice"),
        (["--data", "mine=a,b", "--teacher", "EMMA"], "is no fusion rule"),
        (["--data", "mine=a,b", "--recipe", "none"], "known: paper, released"),
        (["--data", "mine=a,b", "--config", "missing.toml"], "cannot be read"),
        (["--data", "mine=a,b", "--precision", "fp8"], "precision"),
        (["--data", "mine=a,b", "--modality", "MRI"], "Unknown modality 'MRI'; expected ir (infrared)"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options, said, tmp_path):
    outcome = emma("train", "sensing", "--modality", "ir", *options, cwd=tmp_path)
    assert outcome.returncode == 2
    refused(outcome, said)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_fused_none_of_the_pairs_is_named(trainable, tmp_path):
    (tmp_path / "empty").mkdir()
    teachers = [f"Theirs={trainable / 'vi'}", "Empty=empty"]
    for options in (teachers[1:], teachers):
        chosen = [text for teacher in options for text in ("--teacher", teacher)]
        outcome = train("sensing", trainable, tmp_path, "--modality", "ir", *chosen)
        refused(outcome, "--teacher Empty=empty: holds no fused image of any of the 8 pairs")
        assert "expected names like 000.png or all/000.png" in outcome.stderr


def test_an_exclusion_that_excludes_nothing_is_an_error(trainable, tmp_path):
    (tmp_path / "skip.txt").write_text("999\n")
    with pytest.raises(DataError, match=re.escape("nothing would be left out")):
        find_data([Source("mine", folders=(trainable / "ir", trainable / "vi"), exclude_file=tmp_path / "skip.txt")])
