"""Published weights, in narrow stand-ins of the same names, into a pipeline folder: what comes out."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_ins import NARROW, command, run, same

from ouroboros_lib.errors import InputError
from ouroboros_lib.paper import convert
from ouroboros_lib.paper.released import ReleasedMultiviewUNet, ReleasedPipeline, ReleasedReconstructor
from ouroboros_lib.paper.tensor_files import load_exactly
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.presets import load_preset

KEYS = Path(__file__).parents[1] / "parity" / "released_keys.json.gz"


def test_the_published_checkpoint_runs_and_survives_saving(perturbed_narrow, published, tmp_path, capsys):
    code, _ = command(capsys, "convert", "released", published / "released", "--svd", published / "svd", "--out",
                      tmp_path / "pipe", *NARROW)
    assert code == 0
    first = Ouroboros3DPipeline.from_pretrained(tmp_path / "pipe")
    first.set_progress_bar_config(disable=True)
    assert type(first) is ReleasedPipeline and type(first.multiview) is ReleasedMultiviewUNet
    assert type(first.reconstructor) is ReleasedReconstructor and first.config.coordinate_map == "released"
    assert first.config.guidance_scale == [1.0, 3.0]
    for name in ("multiview", "reconstructor", "autoencoder", "image_encoder"):
        theirs, ours = getattr(perturbed_narrow, name).state_dict(), getattr(first, name).state_dict()
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)

    expected = run(first)
    assert expected.views.isfinite().all() and expected.views.std() > 0.01
    first.save_pretrained(tmp_path / "again")
    again = Ouroboros3DPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert type(again) is ReleasedPipeline and same(run(again), expected)
    in_memory = ReleasedPipeline(  # from the models themselves, without any file
        autoencoder=perturbed_narrow.autoencoder, image_encoder=perturbed_narrow.image_encoder,
        scheduler=perturbed_narrow.scheduler,
        multiview=copy_as(ReleasedMultiviewUNet, perturbed_narrow.multiview), image_size=64, coordinate_map="released",
        reconstructor=copy_as(ReleasedReconstructor, perturbed_narrow.reconstructor), **load_preset("narrow").pipeline)
    in_memory.set_progress_bar_config(disable=True)
    assert (run(in_memory).views - expected.views).abs().max() < 1e-3


def copy_as(kind, model):
    other = kind.from_config(model.config)
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_svd_and_lgm_are_the_start_of_training(perturbed_narrow, published, tmp_path, capsys):
    out = tmp_path / "start"
    assert command(capsys, "convert", "svd", published / "svd", "--lgm", published / "lgm.safetensors", "--out", out,
                   *NARROW)[0] == 0
    pipe = Ouroboros3DPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe) is Ouroboros3DPipeline and pipe.config.coordinate_map == "canonical"
    ours, theirs = pipe.multiview.state_dict(), perturbed_narrow.multiview.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key.startswith("unet."))
    assert not pipe.multiview.cond_encoder[1].body[4].block2.weight.any()  # feedback starts at zero
    assert pipe.multiview.down_plucker[0].embed[0].weight.std() > 0
    ours, theirs = pipe.reconstructor.state_dict(), perturbed_narrow.reconstructor.state_dict()
    late = {key for key in ours if "time_embed" in key or "emb_layers" in key}
    assert late and all(torch.equal(ours[key], theirs[key]) for key in ours.keys() - late)
    assert not any(ours[key].any() for key in late if "emb_layers" in key)
    assert ours["unet.time_embed.0.weight"].std() > 0  # not zero: the layers behind it must learn
    result = run(pipe, steps=1)
    assert result.views.isfinite().all() and result.cameras.c2w[0, 7, 0, 3] < -1  # the paper's last view: 315 degrees


def in_shards(folder, variant=""):
    """Split a component's file as diffusers does, three tensors to the first shard. Returns the index."""
    (file,) = folder.glob("*.safetensors")
    tensors, stem = load_file(file), file.name.removesuffix(".safetensors")
    names, places = sorted(tensors), {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        shard = f"{stem}{variant}-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard)
        places |= dict.fromkeys(part, shard)
    file.unlink()
    index = folder / f"{stem}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_shards_with_an_index_in_a_folder_of_the_hubs_cache(published, tmp_path, capsys, variant):
    cache = tmp_path / "models--stabilityai--stable-video-diffusion-img2vid"
    snapshot = cache / "snapshots" / "0123abc"
    shutil.copytree(published / "svd", snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abc")
    for part in ("unet", "vae", "image_encoder"):
        in_shards(snapshot / part, variant)
    code, lines = command(capsys, "convert", "svd", cache, "--out", tmp_path / "sharded", *NARROW)
    assert (code, lines) == (0, [])  # no bar of anybody's
    assert command(capsys, "convert", "svd", published / "svd", "--out", tmp_path / "whole", *NARROW)[0] == 0
    for part in ("multiview", "autoencoder", "image_encoder"):
        (a,), (b,) = ((tmp_path / name / part).glob("*.safetensors") for name in ("sharded", "whole"))
        a, b = load_file(a), load_file(b)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_unfit_shards_and_caches(published, tmp_path, capsys):
    def refused(word, change):
        svd = tmp_path / "models--a--b"
        shutil.rmtree(svd, ignore_errors=True)
        shutil.copytree(published / "svd", svd / "snapshots" / "1")
        (svd / "refs").mkdir()
        (svd / "refs" / "main").write_text("1")
        index = in_shards(svd / "snapshots" / "1" / "unet")
        change(svd, index, json.loads(index.read_text())["weight_map"])
        code, lines = command(capsys, "convert", "svd", svd, "--out", tmp_path / "out", *NARROW)
        assert code == 2 and len(lines) == 1 and word in lines[0] and not (tmp_path / "out").exists(), lines

    def write(index, places):
        index.write_text(json.dumps({"weight_map": places}))

    refused("00002-of-00002.safetensors: no such file", lambda svd, index, places: next(
        index.parent.glob("*00002-of*")).unlink())
    refused("is not listed, by", lambda svd, index, places: write(index, dict(list(places.items())[1:])))
    refused("is missing, by", lambda svd, index, places: write(index, places | {"more": next(iter(places.values()))}))
    refused("is not a .safetensors file beside it", lambda svd, index, places: write(index, {"a": "../a.safetensors"}))
    refused("no weight_map", lambda svd, index, places: index.write_text("[1]"))
    refused("without a whole snapshot", lambda svd, index, places: (svd / "refs" / "main").write_text("2"))


def test_half_precision_files_stay_half_and_load_as_float(published, tmp_path):
    svd = tmp_path / "svd"
    shutil.copytree(published / "svd", svd)
    file = svd / "unet" / "diffusion_pytorch_model.safetensors"
    half = {name: value.half() for name, value in load_file(file).items()}
    file.unlink()
    save_file(half, svd / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    convert.convert_svd(str(svd), tmp_path / "out", preset="narrow")
    written = load_file(tmp_path / "out" / "multiview" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(written[f"unet.{name}"], value) for name, value in half.items())
    pipe = Ouroboros3DPipeline.from_pretrained(tmp_path / "out")
    assert {value.dtype for value in pipe.multiview.parameters()} == {torch.float32}


def test_large_models_are_written_in_shards(perturbed_narrow, published, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "SHARD", "5MB")
    convert.convert_released(str(published / "released"), str(published / "svd"), tmp_path / "pipe", "narrow")
    assert len(list((tmp_path / "pipe" / "multiview").glob("*.safetensors"))) > 2
    pipe = Ouroboros3DPipeline.from_pretrained(tmp_path / "pipe")
    ours, theirs = pipe.multiview.state_dict(), perturbed_narrow.multiview.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_position_ids_of_older_transformers_are_left_out(published, tmp_path):
    shutil.copytree(published / "svd", tmp_path / "svd")
    file = tmp_path / "svd" / "image_encoder" / "model.safetensors"
    save_file(load_file(file) | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}, file)
    convert.convert_svd(str(tmp_path / "svd"), tmp_path / "pipe", preset="narrow")
    assert load_file(tmp_path / "pipe" / "image_encoder" / "model.safetensors").keys() == load_file(
        published / "svd" / "image_encoder" / "model.safetensors").keys()


@pytest.mark.parametrize("part, file", [("image_encoder", "model"), ("autoencoder", "diffusion_pytorch_model"),
                                        ("multiview", "diffusion_pytorch_model")])
def test_a_converted_folder_that_lost_a_tensor_is_refused(published, tmp_path, part, file):
    convert.convert_svd(str(published / "svd"), tmp_path / "pipe", preset="narrow")
    path = tmp_path / "pipe" / part / f"{file}.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[3]]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"^{tmp_path / 'pipe'}: cannot be loaded") as caught:
        Ouroboros3DPipeline.from_pretrained(tmp_path / "pipe")
    assert "\n" not in str(caught.value)


def test_a_converted_folder_generates(published, tmp_path, capsys):
    convert.convert_released(str(published / "released"), str(published / "svd"), tmp_path / "pipe", "narrow")
    picture = Path(__file__).parents[2] / "ouroboros_lib" / "data" / "samples" / "snowman.png"
    code, errors = command(capsys, "generate", picture, "--preset", tmp_path / "pipe", "--out", tmp_path / "out",
                           "--steps", 2, "--device", "cpu")
    assert code == 0, errors
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["settings"]["guidance"] == [1.0, 3.0]
    assert (tmp_path / "out" / "gaussians.ply").stat().st_size > 10_000


def test_from_the_hub(published, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(published / {"owner/svd": "svd", "owner/released": "released"}[name])

    def one_file(name, path):
        asked.append((name, path))
        return str(published / path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one_file)
    convert.convert_svd("owner/svd", tmp_path / "start", "owner/lgm/lgm.safetensors", "narrow")
    convert.convert_released("owner/released", "owner/svd", tmp_path / "released", "narrow")
    (svd, patterns), lgm, (released, pth), (_, without_unet) = asked
    assert (svd, released, lgm) == ("owner/svd", "owner/released", ("owner/lgm", "lgm.safetensors"))
    assert pth == ["*mv_model_unet.pth", "*recon_model.pth"]
    assert "unet/*model.safetensors" in patterns and not any("unet" in pattern for pattern in without_unet)

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match="^owner/svd: .*not to be had from the hub") as caught:
        convert.fetch("owner/svd", ["*"])
    assert "\n" not in str(caught.value)
    for name in ("missing", "/not/there", "./a/b", "a//b"):
        with pytest.raises(InputError, match="not a hub id"):
            convert.fetch(name, ["*"])


# ---- names and shapes at full size ---


@pytest.mark.parametrize("kind, name", [(ReleasedMultiviewUNet, "multiview_unet"),
                                        (ReleasedReconstructor, "gaussian_unet")])
def test_full_size_models_take_the_published_names_and_shapes_and_no_others(kind, name):
    shapes = json.loads(gzip.decompress(KEYS.read_bytes()))[name]
    with torch.device("meta"):
        model, tensors = kind(), {key: torch.empty(shape) for key, shape in shapes.items()}
    load_exactly(model, tensors, Path("x.pth"))
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes  # and the way back
    some, another = list(shapes)[5], list(shapes)[-1]
    odd = {key: value for key, value in tensors.items() if key != some} | {"surplus.weight": tensors[some]}
    odd[another] = torch.empty(3, 2, device="meta")
    with pytest.raises(InputError) as caught:
        load_exactly(model, odd, Path("x.pth"))
    message = str(caught.value)
    assert message.startswith(f'x.pth: not the expected weights: Missing key(s) in state_dict: "{some}"')
    assert '"surplus.weight"' in message and f"size mismatch for {another}: " in message and "\n" not in message


def test_the_published_starts_are_parts_of_the_full_size_models():
    """SVD's U-Net is all below `unet.` in F, and LGM is G without the layers for the noise level."""
    preset, published = load_preset("paper"), json.loads(gzip.decompress(KEYS.read_bytes()))
    with torch.device("meta"):
        multiview, reconstructor = preset.create("multiview"), preset.create("reconstructor")
        svd = {key.removeprefix("unet."): torch.empty(shape) for key, shape in published["multiview_unet"].items()
               if key.startswith("unet.")}
        lgm = {key: torch.empty(shape) for key, shape in published["gaussian_unet"].items()
               if "time_embed" not in key and "emb_layers" not in key}
    assert len(svd) == 1428
    load_exactly(multiview, svd, Path("svd"), "unet.", [k for k in multiview.state_dict() if k[:5] != "unet."])
    load_exactly(reconstructor, lgm, Path("lgm"),
                 fresh=[key for key in reconstructor.state_dict() if "time_embed" in key or "emb_layers" in key])
    with pytest.raises(InputError, match="Missing key.*unet.time_embed"):
        load_exactly(reconstructor, lgm, Path("lgm"))
