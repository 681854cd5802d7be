"""Saving and loading networks: nothing is lost, the authors' files fit, and nothing in a file is believed.

Files with random damage are in test_checkpoint_damage.py.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from emma_core import checkpoint
from emma_core.checkpoint import authors_name, load_sensing, load_ufuser, save_checkpoint
from emma_core.config import NETWORK_RECIPES, SensingConfig, UFuserConfig, to_dict
from emma_core.errors import CheckpointError
from emma_core.models.ufuser import UFuser
from emma_core.models.unet import SensingUNet
from emma_core.sealed import metadata

TINY = UFuserConfig(channels=(2, 2, 4, 4), heads=2)
TINY_SENSING = SensingConfig(channels=(2, 3))
SEED = 7

pytestmark = pytest.mark.usefixtures("one_thread")


def named_as_authors(kind, network) -> dict[str, torch.Tensor]:
    return {authors_name(kind, name): tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def authors() -> dict[str, torch.Tensor]:
    """Untrained weights of a tiny U-Fuser under the authors' names."""
    return named_as_authors("ufuser", UFuser(TINY))


# The authors' checkpoints


def fill(name: str, shape: list[int]) -> torch.Tensor:
    """The rule of the reference: a tensor is made from its name."""
    normal = draw(name).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith(("running_var", "attn.scale")):
        value = 1 + 0.1 * (np.abs(normal) if name.endswith("running_var") else normal)
    elif len(shape) >= 2:
        value = normal * np.sqrt(1 / np.prod(shape[1:]))
    else:
        value = 1 + 0.1 * normal if name.endswith("weight") else 0.1 * normal
    return torch.from_numpy(np.asarray(value)).float()


def draw(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{SEED}:{name}".encode())))


def reference_image(name: str) -> torch.Tensor:
    return torch.from_numpy(draw(name).random((64, 80)).astype(np.float32))[None, None]


@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "layout", "load", "inputs", "output"),
    [
        ("ufuser", "ufuser", load_ufuser, ("infrared", "visible"), "fused"),
        ("sensing", "unet", load_sensing, ("visible",), "sensed"),
    ],
)
def test_authors_checkpoint_gives_the_authors_output(reference, tmp_path, kind, layout, load, inputs, output):
    entries = json.loads((reference / f"released_checkpoint_layout_seed{SEED}.json").read_text("utf-8"))[layout]
    tensors = {name: fill(name, shape) for name, shape in dict(entries).items()}
    torch.save(tensors, tmp_path / "authors.pth")
    network, info = load(tmp_path / "authors.pth")
    assert (info.kind, info.recipe, info.source) == (kind, "released", "authors")
    assert not network.training
    with torch.inference_mode():
        found = network(*map(reference_image, inputs))[0, 0]
    with np.load(reference / f"reference_outputs_seed{SEED}.npz") as expected:
        np.testing.assert_allclose(found.numpy(), expected[output], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("ufuser", "encoder_visible.0.embed.weight", "V_en_1.embed.weight"),
        ("ufuser", "encoder_infrared.3.merge.weight", "I_en_4.FFN.weight"),
        ("ufuser", "fusion.2.restormer.0.norm_attention.bias", "f_3.GlobalFeature.norm1.body.bias"),
        ("ufuser", "decoder.1.restormer.0.norm_feed_forward.weight", "de_2.GlobalFeature.norm2.body.weight"),
        ("ufuser", "fusion.0.restormer.0.attention.temperature", "f_1.GlobalFeature.attn.scale"),
        ("ufuser", "fusion.0.restormer.0.attention.qkv.weight", "f_1.GlobalFeature.attn.qkv1.weight"),
        ("ufuser", "fusion.0.restormer.0.attention.qkv_spatial.weight", "f_1.GlobalFeature.attn.qkv2.weight"),
        ("ufuser", "fusion.0.restormer.0.attention.project.weight", "f_1.GlobalFeature.attn.proj.weight"),
        ("ufuser", "fusion.0.restormer.0.feed_forward.expand.weight", "f_1.GlobalFeature.mlp.project_in.weight"),
        ("ufuser", "fusion.0.restormer.0.feed_forward.spatial.weight", "f_1.GlobalFeature.mlp.dwconv.weight"),
        ("ufuser", "fusion.0.restormer.0.feed_forward.project.weight", "f_1.GlobalFeature.mlp.project_out.weight"),
        ("ufuser", "fusion.0.residual.1.conv2.bias", "f_1.LocalFeature.Extraction.1.conv.2.bias"),
        ("ufuser", "down_visible.2.weight", "V_down3.weight"),
        ("ufuser", "down_infrared.0.weight", "I_down1.weight"),
        ("ufuser", "up.0.weight", "up2.0.weight"),
        ("ufuser", "head.bias", "last.0.bias"),
        ("sensing", "encoder.0.conv1.weight", "down1.conv.0.weight"),
        ("sensing", "encoder.4.norm2.running_var", "down5.conv.4.running_var"),
        ("sensing", "decoder.0.norm1.bias", "up1.conv.1.bias"),
        ("sensing", "decoder.3.conv2.weight", "up4.conv.3.weight"),
        ("sensing", "up.3.weight", "up_sample5.0.weight"),
        ("sensing", "head.weight", "last.0.weight"),
    ],
)
def test_names_of_the_authors(kind, ours, theirs):
    assert authors_name(kind, ours) == theirs


def test_every_recipe_has_a_name_for_every_tensor():
    for recipe in NETWORK_RECIPES.values():
        with torch.device("meta"):
            networks = {"ufuser": UFuser(recipe.ufuser), "sensing": SensingUNet(recipe.sensing)}
        for kind, network in networks.items():
            names = [authors_name(kind, name) for name in network.state_dict()]
            assert len(set(names)) == len(names)
            assert not set(names) & set(network.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "loss": torch.zeros(1), "state_dict": state},
        lambda state: {"checkpoint": {"model": state}},
        lambda state: {"net": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
    ],
)
def test_state_dictionaries_are_found_in_what_scripts_save(tmp_path, authors, wrap):
    torch.save(wrap(authors), tmp_path / "a.pth")
    network, info = load_ufuser(tmp_path / "a.pth")
    assert info.recipe == "unknown"  # no recipe has these widths
    assert info.config == to_dict(TINY)
    assert network.config == TINY
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, authors[authors_name("ufuser", name)])


def test_half_precision_becomes_float32_and_the_old_format_is_read(tmp_path, authors):
    half = {name: tensor.half() for name, tensor in authors.items()}
    torch.save(half, tmp_path / "half.pth", _use_new_zipfile_serialization=False)
    network, _ = load_ufuser(tmp_path / "half.pth")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


# Our files


@pytest.mark.parametrize(
    ("network", "load"),
    [
        (UFuser(TINY), load_ufuser),
        (UFuser(replace(TINY, global_branch=False)), load_ufuser),
        (UFuser(replace(TINY, local_branch=False)), load_ufuser),
        (SensingUNet(TINY_SENSING), load_sensing),
    ],
)
def test_round_trip_is_exact(tmp_path, network, load):
    path = tmp_path / "new" / "a.safetensors"
    provenance = {"command": 'emma-tasks train "x"', "umlaut": "ü\n", "zeros": "0" * 64}
    save_checkpoint(path, network, recipe="paper", provenance=provenance)
    loaded, info = load(path)
    assert (info.recipe, info.provenance, info.config) == ("paper", provenance, to_dict(network.config))
    assert (info.source, info.path) == ("emma-tasks", path)
    assert info.tool.startswith("emma-tasks ")
    assert loaded.config == network.config
    assert list(loaded.state_dict()) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    trained = [parameter.requires_grad for parameter in network.parameters()]
    assert [parameter.requires_grad for parameter in loaded.parameters()] == trained


def test_a_loaded_network_answers_as_the_saved_one(tmp_path):
    network = SensingUNet(TINY_SENSING)
    image = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    network(image)  # in training, which moves the statistics of the normalisation
    save_checkpoint(tmp_path / "a.safetensors", network, recipe="paper", provenance={})
    loaded, _ = load_sensing(tmp_path / "a.safetensors")
    assert not loaded.training
    assert torch.equal(network.eval()(image), loaded(image))


def test_the_same_network_gives_the_same_bytes(tmp_path):
    network, hashes = UFuser(TINY), set()
    for index in range(3):
        path = tmp_path / f"{index}.safetensors"
        save_checkpoint(path, network, recipe="paper", provenance={"b": "1", "a": "2"})
        hashes.add(load_ufuser(path)[1].sha256)
    assert len(hashes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors", "2.safetensors"]


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", UFuser(TINY), recipe="paper", provenance={})
    before = torch.get_rng_state()
    load_ufuser(tmp_path / "a.safetensors")
    assert torch.equal(before, torch.get_rng_state())


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, UFuser(TINY), recipe="paper", provenance={"run": "first"})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(CheckpointError, match="cannot be written \\(No space left on device\\)"):
        save_checkpoint(path, UFuser(TINY), recipe="paper", provenance={"run": "second"})
    monkeypatch.undo()
    assert load_ufuser(path)[1].provenance == {"run": "first"}
    assert list(tmp_path.iterdir()) == [path]


def test_broken_weights_are_not_saved(tmp_path):
    network = UFuser(TINY)
    network.head.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in 1 tensor \(head.weight\)"):
        save_checkpoint(tmp_path / "a.safetensors", network, recipe="paper", provenance={})
    assert not list(tmp_path.iterdir())


# Faults


def refused(path: Path, load=load_ufuser) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"hello", "copy or download it again"),
        (b"<!DOCTYPE html><html></html>", "not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not a checkpoint"),
        (b"PK\x03\x04" + bytes(40), "damaged"),
        (b"\x80\x02", "damaged"),
        (b"12345678{", "damaged"),
        (b"\x02" + bytes(7) + b"{}", "safetensors, but no checkpoint of this tool"),
        (safetensors.torch.save({"a": torch.zeros(1)}), "safetensors, but no checkpoint of this tool"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    assert message in refused(path)


def test_a_folder_is_refused(tmp_path):
    assert "cannot be read" in refused(tmp_path)


class Hostile:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self):
        return os.mkdir, (str(self.path),)

    def __init__(self, path: Path):
        self.path = path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickles_with_code_are_refused_and_not_executed(tmp_path, protocol):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "owned"), protocol=protocol))
    assert "could execute code" in refused(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("as_zip", [True, False])
def test_checkpoints_with_code_are_refused_and_not_executed(tmp_path, authors, as_zip):
    content = {"state_dict": authors, "extra": Hostile(tmp_path / "owned")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=as_zip)
    assert "could execute code" in refused(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def test_weights_that_are_marked_as_folders_are_refused(tmp_path, authors):
    """The reader of torch would leave such tensors as whatever memory holds."""
    torch.save(authors, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "a.pth", "w") as marked:
        for entry in whole.infolist():
            content = whole.read(entry)
            entry.external_attr |= 0x10 * ("/data/" in entry.filename)
            marked.writestr(entry, content)
    assert "damaged" in refused(tmp_path / "a.pth")


def endless() -> dict:
    content: dict = {}
    content["state_dict"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds list, expected a dictionary of tensors"),
        (torch.zeros(3), "holds Tensor"),
        ({}, "expected a dictionary of tensors"),
        ({"a": 1}, "'a' is no tensor"),
        ({"a": torch.zeros(3)}, r"holds no network of EMMA, but 1 tensor (a)"),
        (endless(), "'state_dict' is no tensor"),
    ],
)
def test_plain_content_that_is_no_network_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    assert message in refused(tmp_path / "a.pth")


NAME = "f_1.FFN.weight"
TWO_MISSING = "2 tensors (f_1.embed.weight, f_1.FFN.weight) missing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(NAME), f"1 tensor ({NAME}) missing"),
        (lambda state: [state.pop(name) for name in (NAME, "f_1.embed.weight")], TWO_MISSING),
        (lambda state: state.update({f"odd\n{i}": torch.zeros(1) for i in range(5)}), "5 tensors (odd 0, odd 1, odd 2"),
        (lambda state: state.pop("V_en_1.embed.weight"), "V_en_1.embed.weight, which tells the width, is missing"),
        (lambda state: state.update({NAME: torch.ones(1, 2)}), f"{NAME} has shape [1, 2], expected [2, 4, 3, 3]"),
        (lambda state: state.update({"V_en_1.embed.weight": torch.ones(3, 1, 3, 3)}), "multiples of heads"),
        (lambda state: state.update({"V_en_1.embed.weight": torch.tensor(1.0)}), "which tells the width"),
        (lambda state: state[NAME].fill_(torch.nan), "NaN or infinite values"),
        (lambda state: state[NAME].mul_(torch.inf), "NaN or infinite values"),
        (lambda state: state.update({NAME: state[NAME].long()}), "torch.int64, expected plain torch.float32"),
        (lambda state: state.update({NAME: state[NAME].cfloat()}), "torch.complex64, expected plain torch.float32"),
        (lambda state: state.update({NAME: state[NAME].to("meta")}), "expected plain torch.float32"),
    ],
)
def test_networks_that_do_not_fit_are_refused(tmp_path, authors, change, message):
    state = {name: tensor.clone() for name, tensor in authors.items()}
    change(state)
    torch.save(state, tmp_path / "a.pth")
    assert message in refused(tmp_path / "a.pth")


def test_the_wrong_kind_is_named(tmp_path, authors):
    save_checkpoint(tmp_path / "a.safetensors", SensingUNet(TINY_SENSING), recipe="paper", provenance={})
    expected = "holds a sensing network (U-Net), expected a fusion network (U-Fuser)"
    assert expected in refused(tmp_path / "a.safetensors")
    torch.save(named_as_authors("sensing", SensingUNet(TINY_SENSING)), tmp_path / "Ai.pth")
    assert expected in refused(tmp_path / "Ai.pth")
    torch.save(authors, tmp_path / "EMMA.pth")
    assert "expected a sensing network (U-Net)" in refused(tmp_path / "EMMA.pth", load_sensing)


def test_a_later_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save_checkpoint(tmp_path / "a.safetensors", UFuser(TINY), recipe="paper", provenance={})
    monkeypatch.undo()
    assert "checkpoint of format 2, this version reads 1" in refused(tmp_path / "a.safetensors")


def test_a_file_without_a_checksum_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, UFuser(TINY), recipe="paper", provenance={})
    content = metadata("emma-tasks", path.read_bytes())
    del content["checksum"]
    tensors = safetensors.torch.load(path.read_bytes())
    path.write_bytes(safetensors.torch.save(tensors, {"emma-tasks": json.dumps(content)}))
    assert "checksum differs" in refused(path)


def test_a_foreign_configuration_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "to_dict", lambda config: to_dict(config) | {"depth": 3})
    save_checkpoint(tmp_path / "a.safetensors", UFuser(TINY), recipe="paper", provenance={})
    monkeypatch.undo()
    assert "unknown key 'depth'" in refused(tmp_path / "a.safetensors")
