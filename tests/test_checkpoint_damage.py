"""Files of weights with random damage: cut, lengthened, one byte changed, or noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emma_core.checkpoint import authors_name, load_sensing, load_ufuser, save_checkpoint
from emma_core.config import SensingConfig
from emma_core.errors import CheckpointError
from emma_core.models.unet import SensingUNet

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = SensingConfig(channels=(2, 3))

REFUSED = (
    r"\A[^\n]+: [^\n]*(copy or download it again|expected \.safetensors, \.pth or \.pt"
    r"|no checkpoint of this tool|this version reads 1|could execute code)\Z"
)
"""One line: the file, what is wrong with it, and what to do or what was expected."""

faults = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    """The bytes of one of our files."""
    path = tmp_path_factory.mktemp("saved") / "tiny.safetensors"
    save_checkpoint(path, SensingUNet(TINY), recipe="paper", provenance={"seed": "0", "data": "MSRS"})
    return path.read_bytes()


@pytest.fixture(scope="module")
def pth(tmp_path_factory) -> tuple[SensingUNet, dict[bool, bytes]]:
    """A network, and its file in both formats of ``torch.save``, under the authors' names."""
    network, files = SensingUNet(TINY), {}
    state = {authors_name("sensing", name): tensor for name, tensor in network.state_dict().items()}
    for as_zip in (True, False):
        path = tmp_path_factory.mktemp("pth") / "a.pth"
        torch.save(state, path, _use_new_zipfile_serialization=as_zip)
        files[as_zip] = path.read_bytes()
    return network, files


@faults
@given(keep=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_too_short_or_too_long_is_refused(tmp_path, saved, keep):
    for content in (saved[: int(keep * len(saved))], saved + saved[int(keep * len(saved)) :]):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=REFUSED):
            load_sensing(tmp_path / "a.safetensors")


@faults
@given(position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_file_with_one_changed_byte_is_refused(tmp_path, saved, position, change):
    damaged = bytearray(saved)
    damaged[int(position * len(saved))] ^= change
    (tmp_path / "a.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=REFUSED):
        load_sensing(tmp_path / "a.safetensors")


@faults
@given(content=st.binary(max_size=200))
def test_noise_is_refused(tmp_path, content):
    (tmp_path / "noise.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=REFUSED):
        load_ufuser(tmp_path / "noise.pth")


@faults
@given(keep=st.floats(0, 0.999), as_zip=st.booleans())
def test_a_truncated_pth_is_refused(tmp_path, pth, keep, as_zip):
    content = pth[1][as_zip]
    (tmp_path / "a.pth").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match=REFUSED):
        load_sensing(tmp_path / "a.pth")


@faults
@given(position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), as_zip=st.booleans())
def test_a_damaged_pth_is_refused_or_does_no_harm(tmp_path, pth, position, change, as_zip):
    network, files = pth
    damaged = bytearray(files[as_zip])
    damaged[int(position * len(damaged))] ^= change
    (tmp_path / "a.pth").write_bytes(damaged)
    try:
        loaded, _ = load_sensing(tmp_path / "a.pth")
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        if as_zip:  # the old format has no checksums: there, other finite numbers pass
            for name, tensor in network.state_dict().items():
                assert torch.equal(tensor, loaded.state_dict()[name])
