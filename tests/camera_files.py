"""Camera files as other programs write them."""

import json
import math

from ouroboros_lib.cameras import cameras_from_record, field_of_view, opengl_to_opencv
from ouroboros_lib.files import read_json


def read_cameras(path):
    return cameras_from_record(read_json(path), path)


def write_opengl_cameras(path, cameras, names):
    """V cameras as `meta.json` with OpenGL axes, one entry in `locations` per image name."""
    poses = opengl_to_opencv(cameras.c2w).tolist()  # its own inverse
    record = {"camera_angle_x": math.radians(float(field_of_view(cameras)[0])),
              "locations": [{"transform_matrix": pose, "frames": [{"name": name}]}
                            for pose, name in zip(poses, names, strict=True)]}
    path.write_text(json.dumps(record))
