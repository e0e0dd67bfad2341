"""In a real browser: three.js, which <model-viewer> is made of, shows an exported GLB as we draw the splat.

Needs what test_splat_programs.py needs, and is skipped without.
"""

import io

import numpy as np
import pytest
import torch
from gaussian_inputs import figure
from PIL import Image

from ouroboros_lib.cameras import FOV, orbit_cameras
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.export.mesh import write_mesh
from ouroboros_lib.rasterization import rasterize
from tools.splat_programs import IMPORTS, SIDE, Missing, install, served

# light from everywhere, as strong as shows a matt surface in its own colour
PAGE = IMPORTS + """
import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(FOV, 1, 0.01, 100);
const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
renderer.setSize(SIDE, SIDE); renderer.setClearColor(0xffffff);
document.getElementById("root").appendChild(renderer.domElement);
scene.add(new THREE.AmbientLight(0xffffff, Math.PI));
camera.position.set(x, y, z); camera.lookAt(0, 0, 0);
new GLTFLoader().load(file, loaded => {
  scene.add(loaded.scene); renderer.render(scene, camera); document.title = "drawn";
});
</script>""".replace("FOV", str(FOV)).replace("SIDE", str(SIDE))


@pytest.mark.parametrize("texture", [False, True])
def test_a_mesh_in_three_js(browser, tmp_path, texture):
    try:
        (tmp_path / "node_modules").symlink_to(install() / "node_modules")
    except Missing as reason:
        pytest.skip(f"other people's programs: {reason}")
    write_mesh(tmp_path / "object.glb", figure(6000), faces=3000, texture=texture)
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    cameras = orbit_cameras(torch.tensor([0.0, 110.0]), 15.0)
    ours = rasterize(figure(6000), cameras, SIDE).rgb.clamp(0, 1)
    with served(tmp_path) as address:
        for eye, expected in zip(cameras.positions.tolist(), ours, strict=True):
            tab = browser.new_page(viewport={"width": SIDE, "height": SIDE})
            tab.goto(f"{address}/page.html?file=object.glb&eye={[round(x, 6) for x in eye]}")
            tab.wait_for_function("document.title == 'drawn'", timeout=30_000)
            shot = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"))
            tab.close()
            seen = torch.from_numpy(shot.copy()).permute(2, 0, 1) / 255
            agreement, others = float(psnr(seen, expected)), (expected.flip(-1), expected.flip(-2))
            assert agreement > 24 and agreement > 8 + max(float(psnr(seen, other)) for other in others)
