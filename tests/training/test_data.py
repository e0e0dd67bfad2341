"""Rendered objects as a source of batches: order, epochs, processes, interruptions, faults."""

import shutil
import tarfile

import pytest
import torch
from shard_inputs import write_shards
from torch.testing import assert_close
from training_inputs import source

from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.folders import MultiviewObject, write_object
from ouroboros_lib.errors import InputError


def numbers(objects, rendered, count):
    """Which of the objects come, one by one."""
    names = []
    for _ in range(count):
        seen = objects.batch(1).rgba[0, 0]
        names += [i for i, views in enumerate(rendered) if torch.equal(views.rgba[0], seen)]
    return names


@pytest.fixture(params=["rendered_folder", "rendered_shards"])
def root(request):
    return request.getfixturevalue(request.param)


def test_a_batch_is_as_from_the_buffer(root, rendered):
    objects = source(root)
    batch = objects.batch(3)
    assert batch.rgba.shape == (3, 12, 4, 64, 64) and batch.rgba.dtype == torch.uint8 and batch.latents is None
    assert batch.num_orbit_views == 8 and batch.cameras.shape == (3, 12) and objects.views == 12
    for rgba, cameras in zip(batch.rgba, batch.cameras.c2w, strict=True):
        (views,) = (views for views in rendered if torch.equal(views.rgba[:8], rgba[:8]))
        for picture, pose in zip(rgba[8:], cameras[8:], strict=True):
            (place,) = (i for i in range(8, 14) if torch.equal(views.rgba[i], picture))
            assert_close(views.cameras.c2w[place], pose, atol=1e-6, rtol=0)


def test_every_epoch_has_every_object_once_in_a_new_order_but_not_those_held_out(root, rendered):
    objects = source(root)
    assert torch.equal(objects.held_out().rgba[0, :8], rendered[0].rgba[:8]) and len(objects) == 6
    epochs = [numbers(objects, rendered, 5) for _ in range(4)]
    assert all(sorted(epoch) == [1, 2, 3, 4, 5] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1 and objects.next == 20
    assert numbers(source(root), rendered, 5) == epochs[0] != numbers(source(root, seed=3), rendered, 10)[:5]


def test_any_frame_of_the_orbit_can_be_the_condition_view(root, rendered):
    """As in the released code's training. The world turns along: view 0 stands at azimuth 0, what is seen stays."""
    objects = source(root, condition_view="random", novel_views=2)
    first = objects.held_out()
    assert torch.equal(first.rgba[0, :8], rendered[0].rgba[:8])  # validation sees the first frame, always the same
    starts = set()
    for _ in range(15):
        batch = objects.batch(1)
        (views, start), = ((views, i) for views in rendered[1:] for i in range(8)
                           if torch.equal(views.rgba[i], batch.rgba[0, 0]))
        starts.add(start)
        order = [(start + k) % 8 for k in range(8)]
        assert torch.equal(batch.rgba[0, :8], views.rgba[order])
        poses, world = batch.cameras.c2w[0, :8], views.cameras.c2w[order]
        assert abs(float(poses[0, 0, 3])) < 1e-5 and poses[0, 2, 3] > 0
        assert_close(poses[0].inverse() @ poses, world[0].inverse() @ world, atol=1e-5, rtol=0)
        assert_close(poses[:, 1, 3], world[:, 1, 3], atol=1e-5, rtol=0)  # up stays up
    assert len(starts) > 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_source_goes_on_with_the_same_objects_and_views(root, workers):
    whole = source(root, workers=workers)
    batches = [whole.batch(2) for _ in range(6)]
    again = source(root, start=4, workers=workers)
    for before in batches[2:]:
        after = again.batch(2)
        assert torch.equal(before.rgba, after.rgba) and torch.equal(before.cameras.c2w, after.cameras.c2w)


def test_processes_share_the_objects_out(rendered_folder, rendered_shards, rendered):
    parts = [numbers(source(rendered_folder, rank=rank, world_size=5), rendered, 1) for rank in range(5)]
    assert sorted(sum(parts, [])) == [1, 2, 3, 4, 5]
    parts = [numbers(source(rendered_shards, rank=rank, world_size=2), rendered, 30) for rank in range(2)]
    assert parts[0] != parts[1] and set(parts[0]) == set(parts[1]) == {1, 2, 3, 4, 5}


def test_novel_views_are_drawn_anew_at_each_visit(root):
    objects = source(root, novel_views=2)
    poses = {tuple(objects.batch(1).cameras.c2w[0, 8:, 0, 3].tolist()) for _ in range(15)}
    assert len(poses) > 5  # five objects


def test_eight_of_sixteen_frames_make_the_orbit(tmp_path):
    batch = held_out_objects("val", 2, 64, 16, novel_views=0)
    for i in range(2):
        write_object(tmp_path / str(i), MultiviewObject(str(i), batch.rgba[i], batch.cameras[i], 16))
    objects = source(tmp_path, novel_views=4)
    drawn = objects.batch(1)
    assert torch.equal(drawn.rgba[0, :8], batch.rgba[1, ::2]) and objects.views == 12
    released = source(tmp_path, novel_views=0, orbit_views="0,2,4,6,8,10,12,15").batch(1)
    assert torch.equal(released.rgba[0, 7], batch.rgba[1, 15])
    for wanted, message in (("0,2", "2 views, the preset takes 8"), ("0,a", "expected numbers of views"),
                            ("0,1,2,3,4,5,6,99", "views .* were asked for")):
        with pytest.raises(InputError, match=message):
            source(tmp_path, novel_views=0, orbit_views=wanted).held_out()


@pytest.mark.parametrize("workers", [0, 2])
def test_faulty_objects_are_named_in_one_line_by_workers_too(tmp_path, rendered, workers):
    for views in rendered[:2]:
        write_object(tmp_path / views.name, views)
    (tmp_path / "thing1" / "view_003.png").write_bytes(b"no picture")
    objects = source(tmp_path, workers=workers)
    with pytest.raises(InputError, match=r"thing1/view_003\.png: cannot be read as a picture") as caught:
        objects.batch(1)
    objects.close()  # what was caught holds it, and readers that are only collected are waited for, 5 s each
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="holds 2 objects, of which validation_objects=2 are kept out"):
        source(tmp_path, validation_objects=2)
    with pytest.raises(InputError, match="has 6 views besides the orbit's 8; 7 novel ones"):
        source(tmp_path, novel_views=7).held_out()
    with pytest.raises(InputError, match="no such folder"):
        source(tmp_path / "missing")


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_objects_are_left_out_and_named_once(root, rendered, tmp_path, workers, capfd):
    """Of three to learn from one can be read; of two to look at, too. An interrupted run goes on with the same ones."""
    copy = shutil.copytree(root, tmp_path / "copy")
    if (copy / "shards.json").is_file():
        objects = [views for views in rendered if views.name != "thing5"]
        shutil.rmtree(copy)
        write_shards(objects, copy)
        data = (copy / "shard-000000.tar").read_bytes()
        with tarfile.open(copy / "shard-000000.tar") as tar:
            for name in ("thing0", "thing2", "thing3"):
                place = tar.getmember(f"{name}.view_000.png").offset_data
                data = data[:place] + b"no picture" + data[place + 10:]
        (copy / "shard-000000.tar").write_bytes(data)
    else:
        shutil.rmtree(copy / "thing5")
        (copy / "thing0" / "view_003.png").write_bytes(b"no picture")
        (copy / "thing2" / "object.json").write_text("[" * 100_000)
        (copy / "thing3" / "cameras.json").unlink()
    objects = source(copy, workers=workers, validation_objects=2)
    assert torch.equal(objects.held_out().rgba[:, 0], rendered[1].rgba[None, 0])
    assert numbers(objects, rendered, 4) == [4] * 4 and objects.next in (10, 11, 12)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert sorted(name for name in ("thing0", "thing2", "thing3") for line in told if name in line) == [
        "thing0", "thing2", "thing3"] and len(told) == 3
    again = source(copy, start=objects.next, workers=workers, validation_objects=2)
    assert torch.equal(again.batch(1).rgba, objects.batch(1).rgba)


def test_a_folder_of_bad_objects_is_refused_in_one_line(tmp_path, rendered):
    for views in rendered[:3]:
        write_object(tmp_path / views.name, views)
        (tmp_path / views.name / "view_000.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 objects that are kept out .*; the first: .*thing0/view_000.png"):
        source(tmp_path)
    write_object(tmp_path / "thing0", rendered[0])
    with pytest.raises(InputError, match="none of 2 objects can be used; the first: .*/view_000.png: cannot be read"):
        source(tmp_path).batch(1)
