"""Procedural objects and meshes in the same batches."""

import random
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close
from training_inputs import logged, quick

from ouroboros_lib.cameras import Cameras
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.buffer import ObjectBuffer
from ouroboros_lib.data.folders import write_object
from ouroboros_lib.data.fresh import fresh_views, household_views
from ouroboros_lib.data.renders import RenderSettings, held_out
from ouroboros_lib.errors import InputError
from ouroboros_lib.presets import load_preset
from ouroboros_lib.training import data as data_module
from ouroboros_lib.training import train
from ouroboros_lib.training.data import RenderedObjects
from ouroboros_lib.training.mixture import GivenBuffer, MixedObjects, recoloured

TINY = load_preset("tiny")


@pytest.fixture
def meshes(tmp_path):
    """Four boxes of one colour each."""
    for name in ("ash", "beech", "cedar", "elm"):
        box = trimesh.creation.box((1, 2, 3))
        box.visual.vertex_colors = np.tile((90, 120, 60, 255), (8, 1)).astype(np.uint8)
        (tmp_path / "meshes").mkdir(exist_ok=True)
        box.export(tmp_path / "meshes" / f"{name}.ply")
    return tmp_path / "meshes"


def settings(**changes):
    return quick(**{"workers": 0, "held_out": 1, "procedural_share": 0.5} | changes)


@contextmanager
def mixed(root, share, encode=None, **changes):
    config, ring = settings(**changes), {"image_size": 32, "num_views": 4, "capacity": 4, "device": "cpu",
                                         "novel_views": 1, "chunk": 2}
    source = MixedObjects(ObjectBuffer(**ring), GivenBuffer(RenderedObjects(root, TINY, config, "cpu"), **ring), share)
    source.encode = encode
    with closing(source):
        source.fill()
        yield source
    assert not source.given.thread.is_alive()


def test_batches_hold_both_kinds_and_what_belongs_to_them(meshes):
    with mixed(meshes, 0.25, encode=lambda images: images.mean((-1, -2), keepdim=True)) as source:
        source.refresh()
    batch = source.batch(40)
    assert batch.rgba.shape == (40, 5, 4, 32, 32) and batch.cameras.shape == (40, 5) and source.views == 5
    assert_close(batch.latents, batch.orbit_images.mean((-1, -2), keepdim=True))
    procedural = [(source.procedural.rgba == rgba).flatten(1).all(1).any().item() for rgba in batch.rgba]
    assert sum(procedural) == 10 and 0 < sum(procedural[:20]) < 10  # in any order
    for rgba, c2w, ours in zip(batch.rgba, batch.cameras.c2w, procedural, strict=True):
        ring = source.procedural if ours else source.given
        slot = (ring.rgba == rgba).flatten(1).all(1).nonzero()[0, 0]
        assert torch.equal(ring.c2w[slot], c2w)
    assert source.batch(8, images=False).rgba.shape[1] == 0


@pytest.mark.parametrize("next", [0, 2, 4, 10])
def test_a_ring_that_goes_on_holds_nothing_but_what_came(meshes, next):
    """Batches begin before the ring is full, and after an interruption the first object has any number."""
    ring = {"image_size": 32, "num_views": 4, "capacity": 32, "device": "cpu", "novel_views": 1, "chunk": 2}
    source = GivenBuffer(RenderedObjects(meshes, TINY, settings(), "cpu"), **ring)
    with closing(source):
        source.c2w.fill_(torch.nan)
        source.restart(next)
        source.fill()
        assert len(source) == 2 and source.next == next + 2
        assert source.batch(20).cameras.c2w.isfinite().all()


def test_meshes_are_drawn_anew_and_those_held_out_never(meshes, monkeypatch):
    seen = []
    monkeypatch.setattr(data_module, "fresh_views", lambda name, *given: seen.append(name) or fresh_views(name, *given))
    source = RenderedObjects(meshes, TINY, settings(), "cpu")
    assert len(source) == 4 and source.held_out().rgba.shape == (1, 5, 4, 32, 32)
    assert torch.equal(source.held_out().rgba, source.held_out().rgba)
    source.fill()
    batches = [source.batch(3) for _ in range(3)]
    assert not set(held_out(["ash", "beech", "cedar", "elm"], 1)) & set(seen) and len(set(seen[:3])) == 3
    assert len({rgba.numpy().tobytes() for batch in batches for rgba in batch.rgba}) == 9
    again = RenderedObjects(meshes, TINY, settings(), "cpu")
    again.restart(3)
    again.fill()
    assert torch.equal(again.batch(3).rgba, batches[1].rgba)
    with pytest.raises(InputError, match="holds 4 meshes, of which 4 are kept out"):
        RenderedObjects(meshes, TINY, settings(held_out=9), "cpu")


def test_household_things_take_the_place_of_a_share(meshes, monkeypatch):
    made = {"mesh": 0, "thing": 0}

    def counted(kind, function):
        return lambda *given: made.__setitem__(kind, made[kind] + 1) or function(*given)

    monkeypatch.setattr(data_module, "fresh_views", counted("mesh", fresh_views))
    monkeypatch.setattr(data_module, "household_views", counted("thing", household_views))
    for share, fits in ((0.0, lambda: not made["thing"]), (1.0, lambda: not made["mesh"]),
                        (0.5, lambda: min(made.values()) > 3)):
        made.update(mesh=0, thing=0)
        source = RenderedObjects(meshes, TINY, settings(household_share=share), "cpu")
        source.fill()
        source.batch(16)
        assert sum(made.values()) >= 16 and fits(), (share, made)


def test_household_things_are_refused_where_there_are_no_meshes(tmp_path):
    for seed in range(2):
        views = household_views(RenderSettings(32, 4, 1, None, supersample=1), random.Random(seed))
        write_object(tmp_path / "renders" / f"object{seed}", views)
    for name, value in (("household_share", 0.5), ("held_out", 2), ("swatches", "folder")):
        wrong = settings(**{"household_share": 0.0, "held_out": 0, "procedural_share": 0.0, name: value})
        with pytest.raises(InputError, match=f"{name}={value}: is for meshes in --data, and .*/renders holds renders"):
            RenderedObjects(tmp_path / "renders", TINY, wrong, "cpu")
        with pytest.raises(InputError, match=f"{name}={value}: is for meshes in --data, and all objects are proced"):
            train("tiny", tmp_path / "out", wrong)
    with pytest.raises(InputError, match="lpips_weight=0.5: there is no LPIPS"):
        settings(lpips_weight=0.5)


def test_colours_change_alike_in_all_views_and_on_the_object_alone():
    rgba = held_out_objects("val", 6, 32, 4, novel_views=0).rgba
    torch.manual_seed(0)
    new = recoloured(rgba)
    assert torch.equal(new[:, :, 3], rgba[:, :, 3]) and (new[:, :, :3][(rgba[:, :, 3:] == 0).expand(-1, -1, 3, -1, -1)]
                                                         == 255).all()
    for before, after in zip(rgba, new, strict=True):
        solid = before[:, 3] == 255
        colors = before[:, :3].movedim(1, -1)[solid].numpy(), after[:, :3].movedim(1, -1)[solid].numpy()
        assert (colors[0] != colors[1]).any()
        into: dict = {}
        assert all(into.setdefault(tuple(a), tuple(b)) == tuple(b) for a, b in zip(*map(np.ndarray.tolist, colors),
                                                                                   strict=True))


def test_a_run_on_meshes_learns_is_resumed_and_ends(meshes, tmp_path):
    config = settings(stage="multiview", steps=2, checkpoint_every=2, refresh_every=1, optimizer="muon")
    assert "multiview" in train("tiny", tmp_path / "out", config, data=meshes)
    train("tiny", tmp_path / "out", replace(config, steps=4), data=meshes, resume=True)
    assert logged(tmp_path / "out") == [1, 2, 3, 4]
    with pytest.raises(InputError, match="procedural_share: without --data"):
        train("tiny", tmp_path / "none", settings(steps=1))


def test_renders_are_mixed_in_too_but_not_from_other_lenses(rendered_folder, rendered, tmp_path):
    with mixed(rendered_folder, 0.5, held_out=0) as source:
        assert source.batch(4).rgba.shape == (4, 5, 4, 32, 32)
    for views in rendered[:3]:
        lens = views.cameras.intrinsics.clone()
        lens[..., :2, :2] *= 1.2
        write_object(tmp_path / views.name, replace(views, cameras=Cameras(views.cameras.c2w, lens)))
    with pytest.raises(InputError, match="thing[12]: was rendered with another field of view"):
        with mixed(tmp_path, 0.5, held_out=0):
            pass


def test_what_is_wrong_with_a_mesh_is_said(meshes):
    for mesh in meshes.glob("*.ply"):
        mesh.write_bytes(b"no mesh")
    with pytest.raises(InputError, match=r"\.ply: cannot be read as a mesh"), mixed(meshes, 0.5):
        pass
