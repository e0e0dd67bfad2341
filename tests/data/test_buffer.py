"""Batches of objects, and the buffer that training draws them from."""

import torch

from ouroboros_lib.data import buffer as buffer_module
from ouroboros_lib.data.batches import held_out_objects, object_cameras
from ouroboros_lib.data.buffer import ObjectBuffer
from ouroboros_lib.data.procedural import sample_objects


def small_buffer(monkeypatch, encode=None, **options):
    """Four objects, two at a time; also returns the list in which the numbers of rendered objects are noted."""
    numbers = []

    def note(split, indices, **rest):
        numbers.extend(indices.tolist())
        return sample_objects(split, indices, **rest)

    monkeypatch.setattr(buffer_module, "sample_objects", note)
    buffer = ObjectBuffer(16, 3, capacity=4, device="cpu", novel_views=1, chunk=2, **options)
    buffer.encode = encode
    buffer.fill()
    return buffer, numbers


def test_same_seed_same_batch(monkeypatch):
    batches = []
    for seed in (1, 1, 2):
        buffer = small_buffer(monkeypatch, seed=seed)[0]
        torch.manual_seed(seed)  # which objects are drawn is up to the global generator, as the noise is
        batches.append(buffer.batch(6))
    assert batches[0].rgba.shape == (6, 4, 4, 16, 16) and batches[0].cameras.shape == (6, 4)
    assert batches[0].orbit_images.shape == (6, 3, 3, 16, 16) and batches[0].orbit_cameras.shape == (6, 3)
    assert torch.equal(batches[0].rgba, batches[1].rgba)
    assert torch.equal(batches[0].cameras.c2w, batches[1].cameras.c2w)
    assert not torch.equal(batches[0].rgba, batches[2].rgba)
    assert 0 <= batches[0].images.min() and batches[0].images.max() <= 1 and batches[0].alpha.max() == 1


def test_processes_see_different_objects(monkeypatch):
    numbers = []
    for rank in range(2):
        buffer, mine = small_buffer(monkeypatch, rank=rank, world_size=2)
        buffer.refresh()
        numbers.append(mine)
    assert sorted(numbers[0] + numbers[1]) == list(range(12))
    assert not set(numbers[0]) & set(numbers[1])


def test_refresh_replaces_the_oldest(monkeypatch):
    buffer, numbers = small_buffer(monkeypatch)
    assert len(buffer) == 4 and numbers == [0, 1, 2, 3]
    for slots, others in ((slice(0, 2), slice(2, 4)), (slice(2, 4), slice(0, 2)), (slice(0, 2), slice(2, 4))):
        before = buffer.rgba.clone(), buffer.c2w.clone()
        buffer.refresh()
        assert torch.equal(buffer.rgba[others], before[0][others])
        assert torch.equal(buffer.c2w[others], before[1][others])
        assert (buffer.rgba[slots] != before[0][slots]).flatten(1).any(1).all() and len(buffer) == 4
    assert numbers == list(range(10))


def test_a_restarted_buffer_holds_the_same_objects_and_goes_on(monkeypatch):
    buffer, _ = small_buffer(monkeypatch)
    buffer.refresh()
    again, numbers = small_buffer(monkeypatch)
    numbers.clear()
    again.restart(buffer.next)
    again.fill()
    again.refresh()
    assert numbers == [2, 3, 4, 5, 6, 7] and again.next == 8
    buffer.refresh()
    assert torch.equal(again.rgba, buffer.rgba) and torch.equal(again.c2w, buffer.c2w)  # in the same slots


def test_latents_pictures_and_cameras_of_a_batch_belong_together(monkeypatch):
    buffer, _ = small_buffer(monkeypatch, encode=lambda images: images.mean((-1, -2), keepdim=True))
    buffer.refresh()
    batch = buffer.batch(8)
    torch.testing.assert_close(batch.latents, batch.orbit_images.mean((-1, -2), keepdim=True))
    for rgba, c2w in zip(batch.rgba, batch.cameras.c2w, strict=True):
        slot = (buffer.rgba == rgba).flatten(1).all(1).nonzero()[0, 0]
        assert torch.equal(buffer.c2w[slot], c2w)
    blind = buffer.batch(8, images=False)
    assert blind.images.shape[1] == 0 and blind.latents.shape == batch.latents.shape
    assert blind.orbit_cameras.shape == (8, 3)


def test_held_out_objects_do_not_depend_on_where_a_batch_starts():
    four = held_out_objects("test", 4, 16, 3, novel_views=1)
    two = held_out_objects("test", 2, 16, 3, novel_views=1, start=2)
    assert torch.equal(two.rgba, four.rgba[2:]) and torch.equal(two.cameras.c2w, four.cameras.c2w[2:])
    other = held_out_objects("val", 2, 16, 3, novel_views=1, start=2)
    assert not torch.equal(other.rgba, two.rgba)
    chosen = four.select([2, 0])
    assert torch.equal(chosen.rgba, four.rgba[[2, 0]]) and torch.equal(chosen.cameras.c2w, four.cameras.c2w[[2, 0]])


def test_cameras_of_training_objects_lie_on_one_orbit():
    cameras = object_cameras(5, 4, 3, torch.Generator().manual_seed(0))
    assert cameras.shape == (5, 7)
    elevation = torch.rad2deg(torch.asin(cameras.positions[..., 1] / cameras.positions.norm(dim=-1)))
    assert (elevation[:, :4].std(1) < 1e-3).all() and (elevation >= -5.01).all() and (elevation <= 30.01).all()
    assert elevation[:, 0].std() > 1  # one each
