"""Fusing a data set: the record, continuing, faults, and being killed for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import emma, emma_process, interrupt, killed_at_its_end, random_image, tree, write_pairs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emma_core import fuse_dataset as fuse_dataset_module
from emma_core.checkpoint import save_checkpoint
from emma_core.config import UFuserConfig
from emma_core.datasets import dataset_spec, folder_spec
from emma_core.errors import BusyError, EmmaError, ManifestError, UsageError
from emma_core.fuse_dataset import fuse_dataset
from emma_core.fusers import load_fuser
from emma_core.images import read_image, write_image
from emma_core.manifest import JOURNAL, MANIFEST, Journal, Manifest, file_sha256, locked, read_manifest, resume_manifest
from emma_core.models.ufuser import UFuser
from emma_core.pairs import find_pairs

TNO = dataset_spec("TNO")


@pytest.fixture
def root(tmp_path):
    return write_pairs(tmp_path / "TNO", 6)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "fused" / "TNO" / "max"


def run(root, folder, method="max", **options):
    return fuse_dataset(find_pairs(TNO, root), load_fuser(method), folder, **options)


def test_images_and_manifest(root, folder):
    summary = run(root, folder)
    assert (summary.fused, summary.kept, summary.faults) == (6, 0, ())
    manifest = read_manifest(folder)
    assert manifest.method == "max"
    assert manifest.root == str(root.resolve())
    assert list(manifest.rows) == [f"all/{index:03d}" for index in range(6)]
    for row in manifest.rows.values():
        assert file_sha256(folder / row.file) == row.sha256
        assert file_sha256(root / row.infrared) == row.infrared_sha256
        assert file_sha256(root / row.visible) == row.visible_sha256
        assert read_image(folder / row.file).shape == (24, 32, 3)
    content = json.loads((folder / MANIFEST).read_text())
    assert content["splits"]["all"] == {"count": 6, "hash": find_pairs(TNO, root).hash}
    assert {"method", "tool", "colour", "tile"} <= content["settings"].keys()


def test_again_does_nothing(root, folder):
    run(root, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    summary = run(root, folder)
    assert (summary.fused, summary.kept) == (0, 6)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before


def test_limit_then_all_equals_all(root, folder, tmp_path):
    assert run(root, folder, limit=2).fused == 2
    assert run(root, folder).kept == 2
    run(root, tmp_path / "whole")
    assert tree(folder) == tree(tmp_path / "whole")


def test_changed_source_and_damaged_output_are_made_again(root, folder):
    run(root, folder)
    write_image(root / "vi" / "001.png", random_image(78, (24, 32, 3)))
    write_image(root / "ir" / "002.png", random_image(77, (24, 32)))
    (folder / "all" / "003.png").write_bytes(b"damaged")
    (folder / "all" / "004.png").unlink()
    assert (run(root, folder).fused, run(root, folder).fused) == (4, 0)


def test_the_record_lists_only_what_is_there(root, folder):
    run(root, folder)
    (folder / "all" / "004.png").unlink()
    assert run(root, folder, limit=1).kept == 1
    assert list(read_manifest(folder).rows) == [f"all/{index:03d}" for index in (0, 1, 2, 3, 5)]


def test_a_line_of_the_journal_is_newer_than_the_manifest(root, folder):
    run(root, folder)
    earlier = read_manifest(folder)
    remade = replace(earlier.rows["all/001"], sha256="0" * 64)
    with Journal(folder, earlier) as journal:
        journal.add(remade)
    wanted = Manifest(earlier.dataset, earlier.root, earlier.settings)
    assert resume_manifest(folder, wanted).rows == {**earlier.rows, "all/001": remade}


def test_other_settings_are_refused_and_overwrite_begins_anew(root, folder):
    run(root, folder)
    with pytest.raises(ManifestError, match=r"other settings \(colour.*--overwrite"):
        run(root, folder, colour="none")
    assert run(root, folder, colour="none", overwrite=True, limit=2).fused == 2
    assert sorted(path.name for path in folder.rglob("*.png")) == ["000.png", "001.png"]
    assert read_image(folder / "all" / "000.png").ndim == 2


def test_images_in_other_colours_are_not_taken_for_those_asked_for(root, tmp_path):
    shutil.copytree(root / "vi", tmp_path / "pet")  # both have colours
    folders = ["--ir", tmp_path / "pet", "--vis", root / "vi", "--out", tmp_path / "out", "--method", "max"]
    assert emma("fuse", *folders).returncode == 0
    outcome = emma("fuse", *folders, "--colour", "ir")
    assert outcome.returncode == 1
    assert "other settings (colour" in outcome.stderr
    assert emma("fuse", *folders, "--colour", "ir", "--overwrite").returncode == 0
    assert "6 were there already" in emma("fuse", *folders, "--colour", "ir").stdout


def test_overwriting_some_pairs_leaves_the_others_alone(root, folder):
    run(root, folder)
    before = tree(folder)
    (folder / "all" / "004.png").write_bytes(b"damaged")
    assert (run(root, folder, overwrite=True, limit=2).fused, run(root, folder).kept) == (2, 5)
    assert tree(folder) == before


def test_failures_of_other_settings_go_with_their_images(root, folder):
    (root / "vi" / "003.png").write_bytes(b"damaged")
    assert len(run(root, folder).faults) == 1
    run(root, folder, colour="none", overwrite=True, limit=1)
    assert not read_manifest(folder).failures


def test_a_folder_begun_in_another_precision_says_how_to_go_on(root, folder, tmp_path):
    weights = tmp_path / "small.safetensors"
    save_checkpoint(weights, UFuser(UFuserConfig((8, 8, 8, 8))), recipe="quick", provenance={})

    def fuse(precision, **options):
        fuser = load_fuser(weights=weights, device="cpu", precision=precision)
        return fuse_dataset(find_pairs(TNO, root), fuser, folder, **options)

    assert fuse("fp32", limit=1).fused == 1
    before = tree(folder)
    with pytest.raises(ManifestError, match=r"begun in fp32, now bf16; go on with --precision fp32"):
        fuse("bf16")
    assert tree(folder) == before
    assert fuse("fp32", limit=2).kept == 1
    assert fuse("bf16", overwrite=True, limit=1).fused == 1
    assert read_manifest(folder).settings["precision"] == "bf16"


def test_journal_of_other_settings_is_refused_too(root, folder):
    other = Manifest("TNO", str(root.resolve()), {"method": "mean"})
    with Journal(folder, other):
        pass
    with pytest.raises(ManifestError, match="other settings"):
        run(root, folder)


def test_images_without_a_record_are_not_touched(root, folder):
    (folder / "all").mkdir(parents=True)
    (folder / "all" / "000.png").write_bytes(b"somebody's")
    for overwrite in (False, True):
        with pytest.raises(ManifestError, match="no manifest"):
            run(root, folder, overwrite=overwrite)
    assert (folder / "all" / "000.png").read_bytes() == b"somebody's"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}', "null"])
def test_damaged_manifest_is_one_line(root, folder, content):
    run(root, folder)
    (folder / MANIFEST).write_text(content)
    for overwrite in (False, True):
        with pytest.raises(ManifestError, match=r"manifest\.json: (damaged|schema 99).*delete the folder"):
            run(root, folder, overwrite=overwrite)
    assert (folder / MANIFEST).read_text() == content


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(split=st.sampled_from(["..", "a/b", ".", "\0"]), place=st.sampled_from(["split", "id"]))
def test_manifest_cannot_lead_out_of_its_folder(root, folder, split, place):
    shutil.rmtree(folder, ignore_errors=True)
    run(root, folder)
    content = json.loads((folder / MANIFEST).read_text())
    content["rows"][0][place] = split
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ManifestError):
        read_manifest(folder)


def test_bad_input_is_named_and_the_rest_is_done(root, folder):
    (root / "ir" / "000.png").unlink()
    (root / "ir" / "001.png").write_bytes(b"")
    (root / "vi" / "002.png").write_bytes((root / "vi" / "002.png").read_bytes()[:200])
    (root / "vi" / "003.png").write_text("not an image")
    write_image(root / "vi" / "004.png", random_image(1, (5, 5)))
    summary = run(root, folder)
    assert summary.fused == 1
    reasons = {fault.id: fault.reason for fault in summary.faults}
    assert list(reasons) == ["000", "001", "002", "003", "004"]
    for identifier, says in {
        "000": "missing",
        "001": "empty",
        "002": "truncated",
        "003": "not an image",
        "004": "32 x 24 and 5 x 5",
    }.items():
        assert says in reasons[identifier]
    assert read_manifest(folder).failures.keys() == {f"all/{name}" for name in reasons}


def test_a_mended_source_is_no_failure_any_more(root, folder):
    good = (root / "ir" / "001.png").read_bytes()
    (root / "ir" / "001.png").write_bytes(b"")
    assert len(run(root, folder).faults) == 1
    (root / "ir" / "001.png").write_bytes(good)
    assert run(root, folder).faults == ()
    assert read_manifest(folder).failures == {}


def test_a_source_that_broke_takes_its_image_along(root, folder):
    run(root, folder)
    (root / "ir" / "001.png").write_bytes(b"")
    assert len(run(root, folder).faults) == 1
    assert not (folder / "all" / "001.png").exists()
    assert "all/001" not in read_manifest(folder).rows


def test_full_disk_is_one_line_and_continues(root, folder, monkeypatch):
    replace, left = Path.replace, [3]

    def full(self, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EmmaError, match=r"No space left on device.*continues"):
        run(root, folder)
    monkeypatch.setattr(Path, "replace", replace)
    assert run(root, folder).kept == 3


def test_fused_images_never_land_among_their_sources(root):
    before = tree(root)
    pairs = find_pairs(folder_spec("mine", root / "ir", root / "vi", split=""), root)
    for folder in (root / "ir", root / "vi"):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="holds the source images"):
                fuse_dataset(pairs, load_fuser("max"), folder, overwrite=overwrite)
    assert tree(root) == before


def test_other_data_into_the_same_folder_is_refused_and_a_moved_root_goes_on(root, folder, tmp_path):
    run(root, folder)
    other = write_pairs(tmp_path / "other", 6, shape=(16, 16))
    with pytest.raises(ManifestError, match=r"other settings \(root"):
        run(other, folder)
    moved = root.rename(tmp_path / "moved")
    assert (run(moved, folder).fused, read_manifest(folder).root) == (0, str(moved))
    changed = shutil.copytree(moved, tmp_path / "changed")
    write_image(changed / "vi" / "003.png", random_image(77, (24, 32, 3)))
    with pytest.raises(ManifestError, match=r"other settings \(root"):
        run(changed, folder)


def test_the_record_says_where_a_renamed_source_is_now(root, folder):
    run(root, folder)
    (root / "ir" / "002.png").rename(root / "ir" / "002.PNG")
    assert run(root, folder).kept == 6
    assert read_manifest(folder).rows["all/002"].infrared == "ir/002.PNG"


def test_overwrite_forgets_what_a_killed_run_left(root, folder):
    run(root, folder, limit=3)
    manifest = read_manifest(folder)
    with Journal(folder, manifest) as journal:
        for row in manifest.rows.values():
            journal.add(row)
    (folder / MANIFEST).unlink()
    run(root, folder, colour="none", overwrite=True, limit=1)
    assert [path.name for path in folder.rglob("*.png")] == ["000.png"]


def test_vanished_mate_takes_row_and_image_along_and_its_failure_goes_with_it(root, folder):
    run(root, folder)
    (root / "vi" / "001.png").unlink()
    assert [fault.id for fault in run(root, folder).faults] == ["001"]
    assert not (folder / "all" / "001.png").exists()
    (root / "ir" / "001.png").unlink()
    assert run(root, folder).faults == ()
    assert read_manifest(folder).failures == {}


def test_a_data_set_that_moves_after_a_kill_goes_on(root, folder, tmp_path, monkeypatch):
    """In its first run there is a journal, but no manifest yet."""
    with killed_at_its_end(monkeypatch):
        run(root, folder)
    moved = root.rename(tmp_path / "moved")
    changed = shutil.copytree(moved, tmp_path / "changed")
    write_image(changed / "vi" / "003.png", random_image(77, (24, 32, 3)))
    with pytest.raises(ManifestError, match=r"other settings \(root"):
        run(changed, folder)
    assert run(moved, folder).kept == 6
    run(moved, tmp_path / "whole")
    assert tree(folder) == tree(tmp_path / "whole")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_no_worker_outlives_a_run_that_is_interrupted(root, folder, monkeypatch):
    """Else it would write into a folder that is another's by now, and no line would tell of its images."""
    make = fuse_dataset_module._make

    def slow(pair, *arguments):
        time.sleep(0 if pair.id == "000" else 0.2)
        return make(pair, *arguments)

    monkeypatch.setattr(fuse_dataset_module, "_make", slow)
    workers = threading.active_count()
    monkeypatch.setattr("emma_core.runtime.AHEAD", 1)  # or all pairs are done before the first is looked at
    with pytest.raises(KeyboardInterrupt):
        run(root, folder, on_pair=interrupt)
    assert (threading.active_count(), torch.get_num_threads()) == (workers, 2)
    lines = (folder / JOURNAL).read_text().splitlines()[1:]
    assert len(lines) == len(list(folder.rglob("*.png"))) < 6


def test_strange_names_are_kept_apart_or_named(root, folder):
    for name in ("a\u2028b", "back\\slash", "\udcff"):
        shutil.copy(root / "ir" / "000.png", root / "ir" / f"{name}.png")
        shutil.copy(root / "vi" / "000.png", root / "vi" / f"{name}.png")
    os.mkfifo(root / "ir" / "pipe.png")
    os.mkfifo(root / "vi" / "pipe.png")
    summary = run(root, folder)
    assert summary.fused == 7
    assert sorted(fault.id for fault in summary.faults) == ["\\udcff", "back\\slash", "pipe"]
    assert run(root, folder).fused == 0


def test_lock_knows_a_folder_by_any_of_its_names(root, folder, tmp_path):
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    with locked(folder), pytest.raises(BusyError):
        run(root, tmp_path / "link")


def test_second_process_is_refused(root, folder):
    with locked(folder), pytest.raises(BusyError, match="another emma-tasks process"):
        run(root, folder)
    done = emma("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", folder.parents[2])
    assert done.returncode == 0, done.stderr


def test_second_process_is_refused_for_real(root, folder):
    with locked(folder):
        done = emma_process("fuse-dataset", "TNO", "--root", root, "--method", "max", "--runs", folder.parents[2])
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "another emma-tasks process" in done.stderr


@pytest.mark.parametrize("cut", [0, 1, 5, 60, 200])
def test_half_a_journal_line_is_dropped(root, folder, cut):
    """What a kill in the middle of a write leaves: some bytes of the last line."""
    run(root, folder, limit=3)
    rows = list(read_manifest(folder).rows.values())
    with Journal(folder, read_manifest(folder)) as journal:
        for row in rows:
            journal.add(row)
    (folder / MANIFEST).unlink()
    journal_file = folder / JOURNAL
    journal_file.write_bytes(journal_file.read_bytes()[: -cut or None])
    summary = run(root, folder)
    assert summary.fused + summary.kept == 6
    assert summary.kept >= 2 - (cut > 150)
    assert not journal_file.exists()


def test_a_line_after_half_a_line_counts(root, folder):
    """A run that was killed in the middle of a line, and another that was killed after the next line."""
    run(root, folder, limit=2)
    earlier = read_manifest(folder)
    (folder / MANIFEST).unlink()
    for row in earlier.rows.values():
        with Journal(folder, earlier) as journal:
            journal.add(row)
        with (folder / JOURNAL).open("a") as stream:
            stream.write('{"split": "al')
    assert run(root, folder, limit=2).kept == 2


def start(root: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "emma_core.cli", "fuse-dataset", "TNO", "--root", str(root)]
    return subprocess.Popen([*command, "--method", "guided", "--runs", str(runs)], stderr=subprocess.DEVNULL)


def wait_for_images(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and len(list(folder.glob("all/*.png"))) < count:
        time.sleep(0.001)


def test_killed_at_any_moment_and_continued_equals_never_killed(tmp_path):
    """SIGKILL at several moments of one run; the last process finishes; nothing done is redone."""
    root = write_pairs(tmp_path / "TNO", 30, shape=(240, 320))
    fuse_dataset(find_pairs(TNO, root), load_fuser("guided"), tmp_path / "whole")
    folder = tmp_path / "runs" / "fused" / "TNO" / "guided"
    made: dict[str, int] = {}
    for target in (1, 8, 17, 24):
        process = start(root, tmp_path / "runs")
        wait_for_images(folder, target, process)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        now = {path.name: path.stat().st_mtime_ns for path in folder.glob("all/*.png")}
        # Each core may have renamed an image into place before its line reached the journal; no other is made twice.
        assert sum(now[name] != stamp for name, stamp in made.items()) <= torch.get_num_threads()
        made = now
    (folder / "all" / ".emma-left-by-a-kill.tmp").write_bytes(b"half")
    assert start(root, tmp_path / "runs").wait() == 0
    assert tree(folder) == tree(tmp_path / "whole")
