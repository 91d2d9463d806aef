"""RetinaFace and BiSeNet against facexlib's own modules on seeded weights, and what their loaders
refuse.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from support.distances import relative
from support.models.portrait_models import bisenet_state, retinaface_state

from pulid_extract.faces import crop as face_crop
from pulid_extract.files.roles import ROLES
from pulid_extract.networks import retinaface
from pulid_extract.networks.bisenet import load_bisenet
from pulid_extract.networks.checkpoint import without_init
from pulid_extract.networks.retinaface import load_retinaface
from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import check_role, read_header

# photographs whose sides are no multiple of the strides
SIZES = ((150, 203), (97, 64))


def seeded(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state for it whose activations stay near 1, with norms that do something."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = tensor
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 4:
            state[name] = values / tensor[0].numel() ** 0.5
        elif name.endswith(("running_var", "weight")):
            state[name] = 1 + 0.2 * values.clamp(-2, 2)
        else:
            state[name] = 0.2 * values
    return state


def facexlibs_retinaface() -> torch.nn.Module:
    from facexlib.detection.retinaface import RetinaFace

    with warnings.catch_warnings(), without_init():
        # torchvision: `pretrained` is deprecated
        warnings.simplefilter("ignore")
        return RetinaFace(network_name="resnet50", device=torch.device("cpu"))


@torch.no_grad()
def test_retinaface_is_facexlibs(tmp_path):
    theirs = facexlibs_retinaface()
    state = seeded(theirs)
    theirs.load_state_dict(state)
    torch.save(state, tmp_path / "w.pth")
    ours = load_retinaface(tmp_path / "w.pth")
    for height, width in SIZES:
        pixels = 100 * torch.randn(1, 3, height, width)
        boxes, classes, points = theirs(pixels)
        for found, expected in zip(ours(pixels), (boxes, classes[..., 1], points), strict=True):
            assert relative(found, expected) <= 5e-5
    state["ssh2.conv5X5_1.1.running_mean"] += 1
    torch.save(state, tmp_path / "changed.pth")
    changed = load_retinaface(tmp_path / "changed.pth")
    # the measure can fail
    assert relative(changed(pixels)[2], points) > 1e-3


@torch.no_grad()
def test_faces_are_read_as_facexlib_reads_them():
    theirs = facexlibs_retinaface()
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (97, 150, 3), np.uint8)
    anchors = len(retinaface.anchors_of(97, 150))
    # logits of which some hundred anchors are faces, many of them of the same face
    boxes, points = torch.randn(1, anchors, 4), torch.randn(1, anchors, 10)
    scores = torch.rand(1, anchors, generator=torch.Generator().manual_seed(4))

    theirs.forward = lambda pixels: (boxes, torch.stack([1 - scores, scores], -1), points)
    with without_init():
        ours = retinaface.RetinaFace()
    ours.forward = lambda pixels: (boxes, scores, points)
    for confidence in (0.9, 0.97, 2.0):
        expected = theirs.detect_faces(image, confidence)
        found = ours.detect_faces(image, confidence)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert len(ours.detect_faces(image, 0.9)) > 10


@torch.no_grad()
def test_what_a_damaged_file_gives_is_seen_at_once(monkeypatch):
    with without_init():
        ours = retinaface.RetinaFace()
    anchors = len(retinaface.anchors_of(64, 64))
    nothing = torch.full((1, anchors, 10), torch.nan)
    ours.forward = lambda pixels: (nothing[..., :4], nothing[..., 0], nothing)
    # it would compare every anchor with every other one
    monkeypatch.delattr(retinaface, "_not_again")
    with pytest.raises(WeightsError, match="RetinaFace gives boxes that are NaN"):
        face_crop.find_landmarks(ours, np.zeros((64, 64, 3), np.uint8))


@torch.no_grad()
def test_bisenet_is_facexlibs(tmp_path):
    from facexlib.parsing.bisenet import BiSeNet

    theirs = BiSeNet(num_class=19).eval()
    state = seeded(theirs)
    theirs.load_state_dict(state)
    torch.save(state, tmp_path / "w.pth")
    ours = load_bisenet(tmp_path / "w.pth")
    for side in (64, 96):
        pixels = torch.randn(2, 3, side, side)
        expected = theirs(pixels)[0]
        assert relative(ours(pixels), expected) <= 1e-5
    state["cp.arm16.bn_atten.weight"] *= 2
    torch.save(state, tmp_path / "changed.pth")
    assert relative(load_bisenet(tmp_path / "changed.pth")(pixels), expected) > 1e-4


@pytest.mark.parametrize("legacy", [True, False])
def test_files_load_with_or_without_module_prefix(legacy, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(
        {f"module.{k}": v for k, v in retinaface_state().items()},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    check_role(read_header(path), ROLES["retinaface"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_retinaface(path)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    torch.save(bisenet_state(), path, _use_new_zipfile_serialization=not legacy)
    check_role(read_header(path), ROLES["bisenet"])
    assert (face_crop.parse_face(load_bisenet(path), torch.rand(1, 3, 64, 64)) == 1).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("ffm.conv1.weight"), r"BiSeNet: missing ffm\.conv1\.weight"),
        (
            lambda s: s.pop("cp.conv_avg.bn.running_var"),
            r"BiSeNet: missing cp\.conv_avg\.bn\.running_var",
        ),
        (
            lambda s: s.update({"cp.conv_avg.bn.bias": torch.ones(3)}),
            r"BiSeNet: wrong shape cp\.conv_avg\.bn",
        ),
        (lambda s: s.update({"ffm.conv3.weight": torch.ones(1)}), r"unknown ffm\.conv3\.weight"),
    ],
)
def test_files_load_strictly(damage, message, tmp_path):
    state = bisenet_state()
    damage(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_bisenet(tmp_path / "w.pth")
