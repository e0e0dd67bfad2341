"""Cameras in 3D: frusta with their pictures, rays and points, to turn in a browser (plotly) or as a still (matplotlib).

World axes as everywhere in the library (y up); lengths in world units.
"""

import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection
from mpl_toolkits.mplot3d.proj3d import proj_transform
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from .sheets import to_pil

COLOURS = ("#4878cf", "#d1495b", "#3a8f5c", "#b07d2b", "#7a5195", "#2f8f9d", "#8c564b", "#666a73")  # one per view
PALETTE = 48  # colours of the pictures on the frusta
WHITE = 250  # pixels brighter than this in all channels are background and stay out


def frustum_corners(cameras: Cameras, depth: float = 0.75) -> Tensor:
    """World positions of the four image corners at z-depth `depth`, around the image: (V, 4, 3)."""
    return at_depth(cameras, torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), depth)


def at_depth(cameras: Cameras, uv: Tensor, depth: float) -> Tensor:
    """Image positions (N, 2), in sides, of V cameras to world points at z-depth `depth`: (V, N, 3)."""
    k = cameras.intrinsics[:, None]
    uv = uv.to(k)
    local = torch.stack([(uv[:, 0] - k[..., 0, 2]) / k[..., 0, 0], (uv[:, 1] - k[..., 1, 2]) / k[..., 1, 1],
                         torch.ones(cameras.shape[-1], len(uv)).to(k)], dim=-1)
    return cameras.positions[:, None] + depth * torch.einsum("vij,vnj->vni", cameras.c2w[:, :3, :3], local)


def orbit_figure(cameras: Cameras, images: Tensor | None = None, points: Tensor | None = None,
                 colors: Tensor | None = None, rays: Tensor | None = None, ray_colors: Sequence[str] | None = None,
                 depth: float = 0.75, pixels: int = 22, height: int = 460) -> go.Figure:
    """A figure to turn with the mouse; show it with `.show(renderer="plotly_mimetype")`, which stores only its JSON.

    cameras: (V). images: (V, 3, S, S) in [0, 1], drawn into the frusta at `pixels` x `pixels`; white stays out.
    points: (N, 3) with colors (N, 3) in [0, 1]. rays: (R, 2, 3) from where to where, with ray_colors, R CSS colours.
    depth: how far from its camera a picture stands.
    """
    _check(cameras, images, points, colors, rays, ray_colors)
    traces = []
    for view, (centre, corners) in enumerate(zip(_numpy(cameras.positions), _numpy(frustum_corners(cameras, depth)),
                                                 strict=True)):
        traces.append(_lines(_frustum_path(centre, corners), COLOURS[view % len(COLOURS)], f"view {view}"))
    traces.append(go.Scatter3d(**_xyz(cameras.positions), mode="text", text=[str(v) for v in range(len(cameras.c2w))],
                               textfont={"size": 16}, hoverinfo="skip"))
    if images is not None:
        traces += _picture_mesh(cameras, images, depth, pixels)
    if points is not None:
        marker = {"size": 2.5, "color": _css(colors) if colors is not None else "#444"}
        traces.append(go.Scatter3d(**_xyz(points), mode="markers", marker=marker, hoverinfo="skip"))
    for index, ray in enumerate(() if rays is None else rays):
        colour = ray_colors[index] if ray_colors else COLOURS[index % len(COLOURS)]
        traces.append(_lines(_numpy(ray), colour, f"ray {index}", width=5))
    hidden = {"showbackground": False, "showgrid": False, "zeroline": False, "showticklabels": False, "title": ""}
    view_from = {"eye": {"x": 0.65, "y": 0.75, "z": 1.15}, "up": {"x": 0, "y": 1, "z": 0}}
    return go.Figure(traces, {
        "height": height, "showlegend": False, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "template": "none",
        "scene": {"aspectmode": "data", "camera": view_from, "xaxis": hidden, "yaxis": hidden, "zaxis": hidden}})


def orbit_picture(cameras: Cameras, images: Tensor | None = None, points: Tensor | None = None,
                  colors: Tensor | None = None, rays: Tensor | None = None, ray_colors: Sequence[str] | None = None,
                  depth: float = 0.75, pixels: int = 48, size: tuple[int, int] = (760, 440), azimuth: float = 30.0,
                  elevation: float = 30.0) -> Image.Image:
    """The same as a still of `size` pixels, seen from `azimuth` and `elevation` in degrees (azimuth 0: from view 0)."""
    _check(cameras, images, points, colors, rays, ray_colors)
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="none")
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, size[0] / size[1]), projection="3d")  # a square, as 3D axes always are
    centres, corners = _upright(cameras.positions), _upright(frustum_corners(cameras, depth))
    for view, centre in enumerate(centres):
        colour = COLOURS[view % len(COLOURS)]
        axis.add_collection3d(Line3DCollection([_frustum_path(centre, corners[view])], colors=colour, linewidths=1.2))
        axis.text(*(centre * 1.1), str(view), color=colour, fontsize=12, ha="center", va="center")
        if images is not None:
            quads, shown = _quads(cameras.views([view]), images[view], depth, pixels)
            axis.add_collection3d(Poly3DCollection(_upright(quads), facecolors=shown / 255, edgecolors=shown / 255,
                                                   linewidths=0.4))
    if points is not None:
        axis.scatter(*_upright(points).T, s=3, c=_numpy(colors) if colors is not None else "#444", depthshade=False)
    for index, ray in enumerate(() if rays is None else rays):
        colour = ray_colors[index] if ray_colors else COLOURS[index % len(COLOURS)]
        axis.plot(*_upright(ray).T, color=colour, linewidth=2)
    drawn = np.concatenate([1.1 * centres, corners.reshape(-1, 3)] + [_upright(extra).reshape(-1, 3)
                                                                      for extra in (points, rays) if extra is not None])
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


def _check(cameras, images, points, colors, rays, ray_colors) -> None:
    if len(cameras.shape) != 1:
        raise ValueError(f"expected cameras of shape (V,), got {tuple(cameras.shape)}: choose one object")
    views = cameras.shape[0]
    if images is not None and (images.ndim != 4 or images.shape[:2] != (views, 3)):
        raise ValueError(f"images must be ({views}, 3, S, S), one per camera, got {tuple(images.shape)}")
    if points is not None and (points.ndim != 2 or points.shape[1] != 3):
        raise ValueError(f"points must be (N, 3), got {tuple(points.shape)}")
    if colors is not None and (points is None or colors.shape != points.shape):
        raise ValueError("colors must be (N, 3), one for each of the points")
    if rays is not None and (rays.ndim != 3 or rays.shape[1:] != (2, 3)):
        raise ValueError(f"rays must be (R, 2, 3), from where to where, got {tuple(rays.shape)}")
    if ray_colors is not None and (rays is None or len(ray_colors) != len(rays)):
        raise ValueError("ray_colors must be one colour for each of the rays")


def _quads(camera: Cameras, image: Tensor, depth: float, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that are not white, as world squares (M, 4, 3) and colours (M, 3) of 0 to 255; camera: (1)."""
    small = F.interpolate(image[None].detach().float().cpu(), (pixels, pixels), mode="area")[0]
    colours = np.asarray(to_pil(small)).reshape(-1, 3)
    edges = torch.linspace(0, 1, pixels + 1)
    v, u = torch.meshgrid(edges, edges, indexing="ij")
    grid = _numpy(at_depth(camera, torch.stack([u, v], -1).flatten(0, 1), depth)[0]).reshape(pixels + 1, pixels + 1, 3)
    quads = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2).reshape(-1, 4, 3)
    keep = (colours < WHITE).any(1)
    return quads[keep], colours[keep]


def _picture_mesh(cameras: Cameras, images: Tensor, depth: float, pixels: int) -> list[go.Mesh3d]:
    """All pictures as one mesh, two triangles a pixel; colours are indices into one palette, which keeps it small."""
    parts = [_quads(cameras.views([view]), images[view], depth, pixels) for view in range(len(images))]
    quads, colours = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(quads):
        return []
    quantised = Image.fromarray(colours[None]).quantize(PALETTE)
    palette = np.resize(np.array(quantised.getpalette()).reshape(-1, 3), (PALETTE, 3))
    scale = [[index / (PALETTE - 1), f"rgb({r},{g},{b})"] for index, (r, g, b) in enumerate(palette)]
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
    return go.Scatter3d(**_xyz(path), mode="lines", line={"color": colour, "width": width}, name=name,
                        hoverinfo="name")


def _xyz(points) -> dict[str, np.ndarray]:
    points = _numpy(points)
    return {name: np.ascontiguousarray(points[:, axis]) for axis, name in enumerate("xyz")}


def _upright(points) -> np.ndarray:
    """(..., 3) with y up to matplotlib's z up, right-handed: (z, x, y)."""
    return _numpy(points)[..., [2, 0, 1]]


def _css(colors: Tensor) -> list[str]:
    return [f"rgb({r},{g},{b})" for r, g, b in (_numpy(colors).clip(0, 1) * 255).round().astype(int)]


def _numpy(values) -> np.ndarray:
    return values.detach().cpu().float().numpy() if torch.is_tensor(values) else np.asarray(values, np.float32)
