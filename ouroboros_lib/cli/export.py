"""`ouroboros export` and `ouroboros view`: what has been generated, for other programs and for a browser."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError

AXES_HELP = "y-down (x right, y down, the front towards -z: what other programs take), y-up (this library's), z-up"
SOURCE_AXES = typer.Option(metavar="y-up|y-down|z-up", help="Axes of the file that is read, where neither its header "
                           "nor its format says them.", show_default=False)


def export(
    sources: Annotated[list[Path], typer.Argument(metavar="SPLAT|RESULT", help="Splat files, or folders that "
                                                  "`generate` has written.")],
    out: Annotated[Path, typer.Option(metavar="FILE|DIR", help="A file, its suffix says the format; or with --format a "
                                      "folder. With several sources, each gets its own folder there.")],
    formats: Annotated[str | None, typer.Option("--format", metavar="NAME[,NAME,...]", help="Into the folder go these: "
                                                "spz, sog, compressed.ply, ply, splat, glb, obj, views, colmap, mp4, "
                                                "gif, webp.", show_default=False)] = None,
    axes: Annotated[str, typer.Option(metavar="y-down|y-up|z-up", help=f"Of splat files: {AXES_HELP}.")] = "y-down",
    source_axes: Annotated[str | None, SOURCE_AXES] = None,
    faces: Annotated[int, typer.Option(min=100, max=1_000_000, help="Of meshes: triangles at most.")] = 20_000,
    texture: Annotated[bool, typer.Option("--texture", help="Of meshes: bake a texture, in place of vertex colours."
                                          )] = False,
    views: Annotated[int, typer.Option(min=1, max=999, help="Of views and colmap: cameras once round.")] = 8,
    size: Annotated[int, typer.Option(min=16, max=2048, help="Of pictures: pixels a side; even ones for mp4.")] = 512,
    maps: Annotated[str, typer.Option(metavar="depth,normals", help="Of views: maps beside them.")] = "",
) -> None:
    """Write splats, meshes and views as the files that other programs read."""
    from ..export.formats import Settings, format_of, load_source, parse_formats
    from ..export.views import parse_maps
    from ..files import staged
    from ..gaussians.formats import check_axes
    from ..viz.outputs import check_targets
    from .options import result_folders

    check_axes(axes)
    settings = Settings(axes, faces, texture, views, size, parse_maps(maps))
    single = format_of(out)
    if single and formats and not out.is_dir():
        raise InputError(f"--out {out}: with --format a folder, but this is called as a file; leave out one of the two")
    single = None if formats else single
    if single and len(sources) > 1:
        raise InputError(f"--out {out}: one file for {len(sources)} sources; give a folder, and --format")
    if not single and formats is None:
        raise InputError(f"--out {out}: no suffix of a format; or say --format, to write into a folder")
    wanted = {out.name: single} if single else {known.name: known for known in parse_formats(formats or "")}
    folders = {sources[0]: out.parent} if single else result_folders(sources, out)
    for folder in folders.values():
        check_targets(folder, [out.name] if single else [], [] if single else wanted.values())
    for known in wanted.values():
        known.check()
    for path, folder in folders.items():
        source = load_source(path, source_axes)
        with staged(folder) as stage:
            for name, known in wanted.items():
                known.write(stage / name, source, settings)
        for name in wanted:
            print(f"{path} -> {folder / name}")


def view(
    source: Annotated[Path, typer.Argument(metavar="SPLAT|RESULT", help="A splat file, or a folder that `generate` has "
                                           "written.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Where the page goes; by default a temporary "
                                             "folder.", show_default=False)] = None,
    source_axes: Annotated[str | None, SOURCE_AXES] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Write the page, open no browser.")] = False,
) -> None:
    """Open a splat file in the browser: one page that needs no network."""
    import tempfile
    import webbrowser

    from ..export.formats import load_source
    from ..files import staged
    from ..viz.outputs import check_targets
    from ..viz.viewer import framed, write_viewer

    page = out or Path(tempfile.gettempdir()) / f"{source.resolve().name}.html"
    check_targets(page.parent, [page.name])
    found = load_source(source, source_axes)
    if not found.gaussians.shape[0]:
        raise InputError(f"{source}: a splat without Gaussians")
    if out is None:
        page = Path(tempfile.mkdtemp(prefix="ouroboros-")) / page.name
    with staged(page.parent) as stage:
        write_viewer(stage / page.name, framed(found.gaussians), found.elevation, title=source.name)
    print(f"{source} -> {page}")
    if not no_open and not webbrowser.open(page.resolve().as_uri()):
        print("no browser could be opened: open that page in one")
