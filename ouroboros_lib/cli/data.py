"""`ouroboros data ...`: make, fetch, render, check and pack multi-view folders.

Exit code 0: everything is there; 1: done, but some objects were skipped, each with a line that says why; 2: the command
could not be carried out as given. Interrupted commands go on where they stopped when they are given again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .options import OnCluster, check_choice, check_range, parse_cluster, parse_elevation

if TYPE_CHECKING:
    from ..data.folders import MultiviewObject
    from ..speed.cluster import Cluster

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, fetch, render, check and pack "
                       "multi-view folders.")
gso_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Google Scanned Objects (CC-BY 4.0), from "
                      "Gazebo Fuel.")
data_app.add_typer(gso_app, name="gso")

Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; finished ones in it are kept.")]
Views = Annotated[int, typer.Option(min=1, max=999, help="Views of the orbit; the first is the condition view.")]
Novel = Annotated[int, typer.Option(min=0, max=999, help="Further views, at random.")]
ProtocolName = Annotated[str, typer.Option("--protocol", metavar="NAME|FILE", help="Cameras and size of a protocol of "
                                           "`ouroboros evaluate`, instead of options about cameras.")]
ConventionName = Annotated[str, typer.Option("--convention", metavar="NAME", help="With --protocol: the cameras of "
                                             "this method's views instead of the protocol's.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of multi-view folders, in any of the formats of "
                                        "data/folder_formats.py.")]


class Tally:
    """Counts what a command did, shows a bar on a terminal, and says at the end what was skipped."""

    def __init__(self, total: int, unit: str = "object"):
        from tqdm import tqdm

        self.made, self.skipped, self.left_out = 0, [], 0
        self.units = f"{unit}s"
        self.bar = tqdm(total=total, unit=f" {unit}s", disable=not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    def done(self, name: str, error: InputError | None = None, notes: list[str] = (), left_out: bool = False) -> None:
        """left_out: the error is of a kind that was to be passed over."""
        self.bar.update()
        lines = [f"note: {name}: {note}" for note in notes]
        if error is None:
            self.made += 1
        elif left_out:
            self.left_out += 1
            lines.append(f"left out: {error}")
        else:
            self.skipped.append(name)
            lines.append(f"skipped: {error}")
        for line in lines:
            self.bar.clear()
            print(" ".join(line.split()), file=sys.stderr, flush=True)

    def finish(self, where: object) -> None:
        """One line on stdout; exit code 1 if anything was skipped."""
        line = f"{self.made} of {self.made + self.left_out + len(self.skipped)} {self.units} in {where}"
        line += f"; {self.left_out} left out" if self.left_out else ""
        if self.skipped:
            names = ", ".join(self.skipped[:5]) + (", ..." if len(self.skipped) > 5 else "")
            print(f"{line}; {len(self.skipped)} skipped: {names}")
            raise typer.Exit(1)
        print(line)


# ---- Google Scanned Objects -----------------------------------------------------------------------------------------


@gso_app.command("download")
def gso_download(
    out: Out,
    everything: Annotated[bool, typer.Option("--all", help="All 1,030 objects instead of the 100 of the evaluation."
                                             )] = False,
    objects: Annotated[str, typer.Option(metavar="NAME,...", help="These.")] = "",
    server: Annotated[str, typer.Option(metavar="URL", help="Address of the list of models; default: Fuel.")] = "",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Downloads at a time.")] = 8,
    cluster: OnCluster = "",
) -> None:
    """Fetch objects, all checked; finished ones are kept. A manifest of sizes and hashes, and licences, lie beside."""
    from ..data import gso
    from ..files import check_writable, termination_cleans_up

    if everything and objects:
        raise InputError("--all and --objects: choose one of them")
    elsewhere = _elsewhere(cluster, workers != 8)
    check_writable(out)
    how = gso.Download(workers, server=server or gso.SERVER)
    names = objects.split(",") if objects else gso.evaluation_objects()
    for name in names:  # a slip of the hand, which a server's list has not
        gso.check_name(name)
    if everything:
        names = gso.all_objects(how)
    with Tally(len(set(names))) as tally, termination_cleans_up():
        gso.download_objects(names, out, how, tally.done, elsewhere)
    print(f"{gso.LICENCE}: see {out / gso.ATTRIBUTION_FILE}; sizes and hashes: {out / gso.MANIFEST}")
    tally.finish(out)


# ---- the library of free meshes -------------------------------------------------------------------------------------


@data_app.command()
def library(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for meshes/, textures/ and archives/; what is "
                                        "there is kept.")],
    only: Annotated[str, typer.Option(metavar="NAME,...", help="Collections (kaykit, quaternius, sweethome3d, "
                                      "ambientcg), or meshes such as kaykit/armchair; by default all.")] = "",
    archive: Annotated[list[str] | None, typer.Option(
        metavar="COLLECTION=FILE|DIR|URL", help="Take this collection from here; an address may end in #sha256=HEX. "
        "Several times for several.", show_default=False)] = None,
) -> None:
    """Bring together the free meshes and pictures that the shipped weights learned from (CC0 and CC BY), with their
    licences. Some have an address; others are taken from archives that you name."""
    from ..data.fetching import Fetch
    from ..data.library import choose, collections, fetch_library, parse_archives
    from ..files import check_writable, termination_cleans_up

    chosen = choose(only.split(",") if only else collections())
    given = parse_archives(archive or [])
    if unused := set(given) - set(chosen):
        raise InputError(f"--archive {sorted(unused)[0]}=...: --only leaves this collection out")
    check_writable(out)
    with Tally(len(chosen), "collection") as tally, termination_cleans_up():
        fetch_library(chosen, given, out, Fetch(), lambda name, notes, error: tally.done(name, error, notes))
    print(f"authors and licences: ATTRIBUTION.csv beside the objects; sizes and hashes: {out / 'manifest.json'}")
    tally.finish(out)


# ---- rendering ------------------------------------------------------------------------------------------------------


@data_app.command()
def render(
    meshes: Annotated[list[Path], typer.Argument(metavar="PATH", help="OBJ, GLB, glTF or PLY files, folders of one "
                                                 "object (as GSO's), or folders of many of these.")],
    out: Out,
    size: Annotated[int | None, typer.Option(min=8, max=4096, help="Pixels a side; 256, or the protocol's.")] = None,
    views: Views = 8,
    novel: Novel = 0,
    elevation: Annotated[str, typer.Option(metavar="DEGREES|random", help="Of the orbit; random: one an object, from "
                                           "the training range.")] = "10",
    up: Annotated[str, typer.Option(metavar="auto|y|z", help="The meshes' upward axis; auto: z in GSO folders, else y."
                                    )] = "auto",
    yaw: Annotated[float, typer.Option(help="Degrees to turn the objects by, to face the condition view.")] = 0.0,
    texture: Annotated[Path | None, typer.Option(metavar="FILE", help="Image for meshes that name none.")] = None,
    missing_textures: Annotated[str, typer.Option(metavar="error|grey|skip", help="Meshes that name pictures which are "
                                                  "not there: fail, are drawn without, or are left out.")] = "error",
    depth: Annotated[bool, typer.Option(help="Also write exact z-depth.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of random views and elevations.")] = 0,
    only_held_out: Annotated[int, typer.Option("--held-out", metavar="N", min=0, help="Only the N meshes that `train "
                                               "--data PATH --set held_out=N` never learns from.")] = 0,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes; 0: one a core.")] = 0,
    cluster: OnCluster = "",
    protocol: ProtocolName = "",
    convention: ConventionName = "",
) -> None:
    """Render meshes into multi-view folders: unlit albedo on a transparent background, exact depth."""
    from ..files import check_writable, termination_cleans_up

    check_range("--yaw", yaw, -360, 360)
    check_choice("--up", up, ("auto", "y", "z"))
    if texture is not None and not texture.is_file():
        raise InputError(f"--texture {texture}: no such file")
    degrees = parse_elevation(elevation, "random")
    elsewhere = _elsewhere(cluster, workers != 0)
    check_writable(out)
    from ..data.layouts import find_meshes
    from ..data.mesh_parts import MISSING, MissingFile
    from ..data.renders import RenderSettings, default_workers, held_out, render_meshes

    check_choice("--missing-textures", missing_textures, MISSING)

    found = find_meshes(meshes)
    if only_held_out:
        found = {name: found[name] for name in held_out(found, only_held_out)}
    common = {"up": up, "yaw": yaw, "texture": None if texture is None else str(texture), "depth": depth, "seed": seed,
              "missing_textures": missing_textures}
    given = {"--views": views != 8, "--novel": novel != 0, "--elevation": elevation != "10"}
    settings = _protocol_settings(protocol, convention, size, common, given) or RenderSettings(
        size or 256, views, novel, degrees, **common)
    with Tally(len(found)) as tally, termination_cleans_up():
        render_meshes(found, out, settings, workers or default_workers(),
                      lambda name, notes, error: tally.done(name, error, notes, left_out=missing_textures == "skip"
                                                            and isinstance(error, MissingFile)), elsewhere)
    tally.finish(out)


def _elsewhere(cluster: str, workers: bool) -> Cluster | None:
    """workers: whether --workers was given, too. Raises InputError."""
    if cluster and workers:
        raise InputError("--workers: a cluster has its own; leave it out")
    return parse_cluster(cluster)


def _protocol_settings(protocol: str, convention: str, size: int | None, options: dict,
                       given: dict[str, bool]):
    """Settings for an evaluation's protocol, None without one. given: which options it leaves no room for were given.

    Raises InputError.
    """
    if not protocol:
        if convention:
            raise InputError("--convention: needs --protocol")
        return None
    if clashes := [option for option, value in given.items() if value]:
        raise InputError(f"{clashes[0]}: the protocol states the cameras; leave it out")
    from ..evaluation.conventions import load_convention
    from ..evaluation.protocols import load_protocol

    chosen = load_protocol(protocol)
    if convention:
        chosen = chosen.at(load_convention(convention))
    return chosen.render_settings(size, **options)


@data_app.command()
def objects(
    out: Out,
    split: Annotated[str, typer.Option(metavar="train|val|test|heldout", help="Which objects.")] = "test",
    count: Annotated[int, typer.Option(min=1, max=10**7, help="How many.")] = 16,
    start: Annotated[int, typer.Option(min=0, max=2**40, help="Number of the first.")] = 0,
    size: Annotated[int | None, typer.Option(min=8, max=1024, help="Pixels a side; 128, or the protocol's.")] = None,
    views: Views = 8,
    novel: Novel = 4,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of the universe of objects.")] = 0,
    protocol: ProtocolName = "",
    convention: ConventionName = "",
) -> None:
    """Write procedural objects as multi-view folders, with exact depth: those that the small models are measured on."""
    from ..files import check_writable, termination_cleans_up

    check_choice("--split", split, ("train", "val", "test", "heldout"))
    check_writable(out)
    from ..data.renders import render_procedural

    rig = _protocol_settings(protocol, convention, size, {"seed": seed}, {"--views": views != 8, "--novel": novel != 4})
    with Tally(count) as tally, termination_cleans_up():
        render_procedural(split, range(start, start + count), out, size or 128, views, novel, seed, 2, tally.done,
                          settings=rig)
    tally.finish(out)


# ---- protocols and conventions --------------------------------------------------------------------------------------


@data_app.command()
def protocols(
    name: Annotated[str, typer.Argument(metavar="[NAME|FILE]", help="All that this one states.")] = "",
) -> None:
    """Protocols of `evaluate`: their names, or what one states."""
    from ..evaluation.protocols import load_protocol, protocol_names

    if name:
        _print_record(load_protocol(name).record())
    else:
        print("\n".join(f"{known}: {load_protocol(known).about}" for known in protocol_names()))


@data_app.command()
def conventions(name: Annotated[str, typer.Argument(metavar="[NAME]", help="All about this one.")] = "") -> None:
    """Camera conventions of other methods: their names, or how one's outputs are made and where they lie."""
    from ..evaluation.conventions import convention_names, load_convention

    if name:
        _print_record(dataclasses.asdict(load_convention(name)))
    else:
        print("\n".join(f"{known}: {', '.join(load_convention(known).outputs)}" for known in convention_names()))


def _print_record(record: dict) -> None:
    for key, value in record.items():
        text = value if isinstance(value, str) else json.dumps(value)
        print(textwrap.fill(f"{key.replace('_', ' ')}: {text}", 100, subsequent_indent="    "))


# ---- checking and packing -------------------------------------------------------------------------------------------


@data_app.command()
def check(folder: Folder) -> None:
    """Read every object of a folder and name what is wrong with it."""
    from ..data.folders import find_objects

    names = find_objects(folder)
    with Tally(len(names)) as tally:
        for _ in _readable(folder, names, tally):
            pass
    tally.finish(folder)


@data_app.command()
def shards(
    folder: Folder,
    out: Annotated[str, typer.Option(metavar="DIR|s3://BUCKET/PATH", help="Where the shards go; finished ones there "
                                     "are kept.")],
    shard_mb: Annotated[float, typer.Option(help="MiB of objects, as they lie there, in a shard.")] = 512.0,
    cluster: OnCluster = "",
) -> None:
    """Pack multi-view folders into WebDataset shards, to be streamed in training."""
    from ..files import check_writable, termination_cleans_up

    check_range("--shard-mb", shard_mb, 0.001, 100_000)
    elsewhere = parse_cluster(cluster)
    from ..data.buckets import is_bucket

    if not is_bucket(out):
        check_writable(Path(out))
    from ..data.folders import find_objects
    from ..data.packing import pack

    names = find_objects(folder)
    with Tally(len(names)) as tally, termination_cleans_up():
        pack(folder, names, out, int(shard_mb * 2**20), tally.done, elsewhere)
    tally.finish(out)


def _readable(folder: Path, names: list[str], tally: Tally) -> Iterator[MultiviewObject]:
    """The objects that can be read; the others are skipped with a line."""
    from ..data.folders import read_object

    for name in names:
        try:
            views = read_object(folder / name, folder.name if name == "." else name)
        except InputError as error:
            tally.done(name, error)
        else:
            tally.done(name)
            yield views
