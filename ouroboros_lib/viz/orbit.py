"""Cameras in 3D: frusta with their pictures, rays and points, to turn in a browser (plotly) or as a still (matplotlib).

World axes as everywhere in the library (y up); lengths in world units.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from ..errors import needs
from .encoding import WHITE
from .sheets import to_pil

with needs("course", "what notebooks show"):
    import plotly.graph_objects as go
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection
    from mpl_toolkits.mplot3d.proj3d import proj_transform

COLOURS = ("#4878cf", "#d1495b", "#3a8f5c", "#b07d2b", "#7a5195", "#2f8f9d", "#8c564b", "#666a73")  # one per view
PALETTE = 48  # colours of the pictures on the frusta


def frustum_corners(cameras: Cameras, depth: float = 0.75) -> Tensor:
    """World positions of the four image corners at z-depth `depth`, around the image: (V, 4, 3)."""
    return at_depth(cameras, torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), depth)


def at_depth(cameras: Cameras, uv: Tensor, depth: float) -> Tensor:
    """Image positions (N, 2), in sides, of V cameras to world points at z-depth `depth`: (V, N, 3)."""
    return cameras.positions[:, None] + depth * cameras.directions(uv.to(cameras.c2w))


def orbit_figure(cameras: Cameras, images: Tensor | None = None, points: Tensor | None = None,
                 colors: Tensor | None = None, rays: Tensor | None = None, ray_colors: Sequence[str] | None = None,
                 depth: float = 0.75, pixels: int = 22, height: int = 460) -> go.Figure:
    """A figure to turn with the mouse; show it with `.show(renderer="plotly_mimetype")`, which stores only its JSON.

    cameras: (V). images: (V, 3, S, S) in [0, 1], drawn into the frusta at `pixels` x `pixels`; white stays out.
    points: (N, 3) with colors (N, 3) in [0, 1]. rays: (R, 2, 3) from where to where, with ray_colors, R CSS colours.
    depth: how far from its camera a picture stands. Raises ValueError for other shapes.
    """
    shapes = [None if given is None else tuple(given.shape) for given in (cameras, images, points, colors, rays)]
    for fits, what in ((len(shapes[0]) == 1, "cameras (V,): choose one object"),
                       (images is None or shapes[1][:2] == (*shapes[0], 3), "images (V, 3, S, S), one per camera"),
                       (points is None or shapes[2][1:] == (3,), "points (N, 3)"),
                       (colors is None or shapes[3] == shapes[2], "colors (N, 3), one for each of the points"),
                       (rays is None or shapes[4][1:] == (2, 3), "rays (R, 2, 3), from where to where"),
                       (not ray_colors or len(ray_colors) == len(rays), "ray_colors, one for each of the rays")):
        if not fits:
            raise ValueError(f"expected {what}; got cameras, images, points, colors and rays of shapes {shapes}")
    colours = [COLOURS[view % len(COLOURS)] for view in range(len(cameras.c2w))]
    traces = [_lines(_frustum_path(centre, corners), colour, f"view {view}") for view, (centre, corners, colour) in
              enumerate(zip(_numpy(cameras.positions), _numpy(frustum_corners(cameras, depth)), colours, strict=True))]
    traces.append(go.Scatter3d(**_xyz(1.1 * cameras.positions), mode="text", hoverinfo="skip",
                               text=[str(view) for view in range(len(colours))],
                               textfont={"size": 16, "color": colours}))
    if images is not None:
        traces += _picture_mesh(cameras, images, depth, pixels)
    if points is not None:
        color = [to_hex(c) for c in _numpy(colors).clip(0, 1)] if colors is not None else "#444444"
        traces.append(go.Scatter3d(**_xyz(points), mode="markers", marker={"size": 2.5, "color": color},
                                   hoverinfo="skip"))
    for index, ray in enumerate(() if rays is None else rays):
        colour = ray_colors[index] if ray_colors else COLOURS[index % len(COLOURS)]
        traces.append(_lines(_numpy(ray), colour, f"ray {index}", width=5))
    hidden = {"showbackground": False, "showgrid": False, "zeroline": False, "showticklabels": False, "title": ""}
    view_from = {"eye": {"x": 0.65, "y": 0.75, "z": 1.15}, "up": {"x": 0, "y": 1, "z": 0}}
    return go.Figure(traces, {
        "height": height, "showlegend": False, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "template": "none",
        "scene": {"aspectmode": "data", "camera": view_from, "xaxis": hidden, "yaxis": hidden, "zaxis": hidden}})


def orbit_picture(cameras: Cameras, images: Tensor | None = None, pixels: int = 48, size: tuple[int, int] = (760, 440),
                  azimuth: float = 22.5, elevation: float = 30.0, **scene) -> Image.Image:
    """The same as a still of `size` pixels, seen from `azimuth` and `elevation` in degrees (azimuth 0: from view 0).

    From 22.5 degrees none of eight views around an object is seen edge-on. scene: further arguments of `orbit_figure`.
    """
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="none")
    canvas, drawn = FigureCanvasAgg(figure), []
    axis = figure.add_axes((0, 0, 1, size[0] / size[1]), projection="3d")  # a square, as 3D axes always are
    for trace in orbit_figure(cameras, images, pixels=pixels, **scene).data:
        places = np.stack([trace.z, trace.x, trace.y], axis=-1)  # y up to matplotlib's z up, right-handed
        drawn.append(places)
        if trace.type == "mesh3d":
            palette = [colour for _, colour in trace.colorscale]
            colours = [palette[index] for index in trace.intensity]
            axis.add_collection3d(Poly3DCollection(places[np.stack([trace.i, trace.j, trace.k], axis=-1)],
                                                   facecolors=colours, edgecolors=colours, linewidths=0.4))
        elif trace.mode == "text":
            for place, text, colour in zip(places, trace.text, trace.textfont.color, strict=True):
                axis.text(*place, text, color=colour, fontsize=12, ha="center", va="center")
        elif trace.mode == "markers":
            axis.scatter(*places.T, s=3, c=trace.marker.color, depthshade=False)
        else:
            axis.plot(*places.T, color=trace.line.color, linewidth=0.4 * trace.line.width)
    drawn = np.concatenate(drawn)
    low, high = drawn.min(0), drawn.max(0)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axis.set_box_aspect(np.maximum(high - low, 1e-3))
    axis.view_init(elev=elevation, azim=azimuth)
    axis.set_axis_off()
    _fill(axis, drawn, np.array(size))
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return Image.open(buffer).convert("RGB")


def _fill(axis, drawn: np.ndarray, size: np.ndarray, margin: float = 12) -> None:
    """Move and scale a square 3D axis so that the points `drawn` (N, 3) just fill a figure of `size` pixels."""
    axis.apply_aspect()
    x, y, _ = proj_transform(*drawn.T, axis.get_proj())
    pixels = axis.transData.transform(np.stack([x, y], axis=-1))
    low, high = pixels.min(0), pixels.max(0)
    scale = ((size - 2 * margin) / (high - low)).min()
    origin = size / 2 - (low + high) / 2 * scale  # the axis began at the figure's lower left corner
    axis.set_position((*(origin / size), *(scale * size[0] / size)))


def _picture_mesh(cameras: Cameras, images: Tensor, depth: float, pixels: int) -> list[go.Mesh3d]:
    """The pixels that are not white as one mesh, two triangles each; colours are indices into one palette, which keeps
    it small."""
    small = F.interpolate(images.detach().float().cpu(), (pixels, pixels), mode="area")
    colours = np.stack([np.asarray(to_pil(image)) for image in small]).reshape(-1, 3)
    edges = torch.linspace(0, 1, pixels + 1)
    v, u = torch.meshgrid(edges, edges, indexing="ij")
    grid = _numpy(at_depth(cameras, torch.stack([u, v], -1).flatten(0, 1), depth).unflatten(1, v.shape))
    quads = np.stack([grid[:, :-1, :-1], grid[:, :-1, 1:], grid[:, 1:, 1:], grid[:, 1:, :-1]], axis=3)
    keep = (colours < WHITE).any(1)
    quads, colours = quads.reshape(-1, 4, 3)[keep], colours[keep]
    if not len(quads):
        return []
    quantised = Image.fromarray(colours[None]).quantize(PALETTE)
    palette = np.resize(np.array(quantised.getpalette()).reshape(-1, 3), (PALETTE, 3)) / 255
    scale = [[index / (PALETTE - 1), to_hex(colour)] for index, colour in enumerate(palette)]
    first = 4 * np.arange(len(quads), dtype=np.uint16 if 4 * len(quads) < 2**16 else np.uint32)
    corners = {"i": [first, first], "j": [first + 1, first + 2], "k": [first + 2, first + 3]}
    return [go.Mesh3d(
        **_xyz(quads.reshape(-1, 3)), **{name: np.concatenate(pair) for name, pair in corners.items()},
        intensity=np.tile(np.asarray(quantised)[0], 2), intensitymode="cell", colorscale=scale, cmin=0,
        cmax=PALETTE - 1, showscale=False, flatshading=True, hoverinfo="skip",
        lighting={"ambient": 1, "diffuse": 0, "specular": 0, "fresnel": 0})]


def _frustum_path(centre: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Centre (3,) and corners (4, 3) as one line that passes every edge: (10, 3)."""
    a, b, c, d = corners
    return np.stack([a, b, c, d, a, centre, b, c, centre, d])


def _lines(path: np.ndarray, colour: str, name: str, width: float = 3) -> go.Scatter3d:
    return go.Scatter3d(**_xyz(path), mode="lines", line={"color": colour, "width": width}, name=name, hoverinfo="name")


def _xyz(points) -> dict[str, np.ndarray]:
    points = _numpy(points)
    return {name: np.ascontiguousarray(points[:, axis]) for axis, name in enumerate("xyz")}


def _numpy(values) -> np.ndarray:
    return values.detach().cpu().float().numpy() if torch.is_tensor(values) else np.asarray(values, np.float32)
