"""What `generate` imports, and that what it leaves out changes nothing."""

import json
import subprocess
import sys

import pytest

from ouroboros_lib.cli.doctor import SAMPLE
from ouroboros_lib.cli.main import main
from ouroboros_lib.cli.options import is_small
from ouroboros_lib.pipeline import Ouroboros3DPipeline

HEAVY = {"PIL.PdfImagePlugin", "boto3", "diffusers.models.autoencoders", "gsplat", "matplotlib", "onnxruntime",
         "scipy.stats", "torch._dynamo", "torchvision", "transformers", "trimesh"}
AFTERWARDS = """
import gc, sys
from importlib import metadata
from ouroboros_lib.cli import options
options.own_process = True
with options.quick_imports("small"):
    from ouroboros_lib.pipeline import Ouroboros3DPipeline
    assert not gc.isenabled()
assert gc.isenabled() and "torch._dynamo" not in sys.modules
import diffusers, scipy
assert "torch" in metadata.packages_distributions()
assert hasattr(diffusers.AutoencoderKL, "encode") and hasattr(diffusers.models.AutoencoderKL, "encode")
"""
COMMANDS = """
import json, sys
from ouroboros_lib.cli.main import main
codes = []
for line in json.loads(sys.argv[1]):
    sys.argv = ["ouroboros", *line]
    try:
        main()
    except SystemExit as leaving:
        codes.append(leaving.code)
print(json.dumps([codes, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    Ouroboros3DPipeline.from_preset("tiny").save_pretrained(folder)
    return folder


def generate(out, preset):
    return ["generate", str(SAMPLE), "--preset", str(preset), "--steps", "2", "--device", "cpu", "--out", str(out)]


def run_alone(lines):
    """Exit codes of commands, one after the other in a process of their own, its modules and its lines on stderr."""
    done = subprocess.run([sys.executable, "-c", COMMANDS, json.dumps(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return *json.loads(done.stdout.splitlines()[-1]), done.stderr.splitlines()


def test_generate_imports_little_and_gives_the_same(weights, tmp_path):
    codes, modules, errors = run_alone([generate(tmp_path / "lean", weights)])
    assert (codes, errors) == ([0], []) and not HEAVY & set(modules)
    with pytest.raises(SystemExit) as caught:
        main(generate(tmp_path / "full", weights))
    assert caught.value.code == 0
    lean, full = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("lean", "full"))
    assert lean["settings"] == full["settings"] and lean["figures"] == full["figures"]
    for name in ("gaussians.ply", "multiview.png", "recursion.png"):
        assert (tmp_path / "lean" / name).read_bytes() == (tmp_path / "full" / name).read_bytes()


def test_what_is_left_out_is_there_afterwards():
    done = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_small(weights, tmp_path):
    assert is_small("small") and is_small(str(weights))
    (tmp_path / "model_index.json").write_text("[]")
    assert not any(map(is_small, ("tiny", "paper", "owner/name", str(tmp_path), str(tmp_path / "none"))))
    index = json.loads((weights / "model_index.json").read_text())
    for change in ({"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}, {"_class_name": "Other"}):
        (tmp_path / "model_index.json").write_text(json.dumps(index | change))
        assert not is_small(str(tmp_path))


@pytest.mark.parametrize("line, words", [
    (["generate", "none.png", "--out", "out"], "none.png: no such file"),
    (["generate", str(SAMPLE), "--out", "out", "--steps", "0"], "Invalid value for '--steps'"),
    (["generate", str(SAMPLE), "--out", "out", "--background", "blue"], "--background blue"), (["--help"], "")])
def test_answers_that_need_no_torch(line, words):
    codes, modules, errors = run_alone([line])
    assert codes == [2 if words else 0] and len(errors) == bool(words) and words in "".join(errors)
    assert not {"torch", "numpy", "PIL"} & set(modules)


LEAVES = """
import sys
import triton._C.libtriton
from ouroboros_lib.cli.main import main
sys.argv = ["ouroboros", "--help"]
main()
"""


def test_nothing_is_said_on_leaving_with_triton():
    pytest.importorskip("triton", exc_type=ImportError)
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
