"""Training of the network that estimates elevations: what is rendered for it, and that it learns."""

import numpy as np
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file

from ouroboros_lib.data.renders import held_out
from ouroboros_lib.models.elevation import ElevationEstimator
from tools import train_elevation
from tools.train_elevation import ELEVATIONS, learn, main, read_all


def test_from_meshes_to_a_network(tmp_path, monkeypatch):
    for name, size in (("MESHES", 2), ("PROCEDURAL", 2), ("HELD_OUT", 2)):
        monkeypatch.setattr(train_elevation, name, size)
    meshes, swatches, out = tmp_path / "meshes", tmp_path / "swatches", tmp_path / "out"
    meshes.mkdir()
    swatches.mkdir()
    names = ["ball", "box", "can", "door"]
    for name in names:
        trimesh.creation.box((1, 2, 3)).export(meshes / f"{name}.glb")
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(swatches / "wood.png")
    kept = set(held_out(names, 2))
    for name in kept:  # would be seen if they were opened
        (meshes / f"{name}.glb").write_bytes(b"not a mesh")
    command = ["--meshes", str(meshes), "--swatches", str(swatches), "--files", "2", "--steps", "3",
               "--out", str(out)]
    main(command)
    files = sorted((out / "pictures").iterdir())
    rgba, degrees = read_all(out / "pictures", 2)
    assert len(files) == 2 and rgba.shape == (32, 4, 64, 64) and degrees.shape == (32,)
    assert (degrees >= ELEVATIONS[0]).all() and (degrees <= ELEVATIONS[1]).all() and degrees.unique().numel() == 32
    assert (rgba[:, 3].flatten(1).amax(1) == 255).all()  # something is in each
    state = load_file(out / "elevation" / "diffusion_pytorch_model.safetensors")
    assert state["output.weight"].dtype == torch.float16 and all(value.isfinite().all() for value in state.values())
    ElevationEstimator.from_pretrained(out / "elevation")
    before = files[0].read_bytes()
    files[1].unlink()
    main(command)
    assert files[0].read_bytes() == before and torch.equal(read_all(out / "pictures", 2)[0], rgba)


def test_it_learns(monkeypatch):
    """Of boxes that are the taller the farther the camera looks down."""
    monkeypatch.setattr(train_elevation, "BATCH", 16)
    degrees = torch.empty(512).uniform_(*ELEVATIONS)
    rgba = torch.zeros(512, 4, 64, 64, dtype=torch.uint8)
    rgba[:, :3] = 255
    for picture, height in zip(rgba, (degrees + 5) / 2 + 6, strict=True):
        picture[:, 32 - int(height):32 + int(height), 12:52] = torch.tensor([90, 60, 160, 255])[:, None, None]
    network = learn(rgba, degrees, 40)
    with torch.no_grad():
        found = network(rgba[:, :3].float() / 255)
    assert (found - degrees).abs().mean() < 0.6 * (degrees - degrees.mean()).abs().mean()
