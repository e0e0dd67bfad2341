"""--cluster: the same results as without, whatever becomes of workers and scheduler; what cannot be is one line."""

import importlib.util
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import trimesh
from writing_commands import files, served

from ouroboros_lib.cli.data import Tally
from ouroboros_lib.errors import InputError
from ouroboros_lib.speed import cluster
from ouroboros_lib.speed.cluster import Cluster

if importlib.util.find_spec("distributed") is None:
    pytest.skip("needs the extra [cluster]", allow_module_level=True)

ROOT = Path(__file__).parents[2]
OBJECTS = 12
START = "import sys; from distributed.cli.dask_{0} import main; sys.argv[0] = 'dask-{0}'; main()"


def started(kind, *arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    return subprocess.Popen([sys.executable, "-c", START.format(kind), *map(str, arguments)], env=environment,
                            stderr=subprocess.PIPE, text=True, **options)


class Machines:
    """A scheduler and workers, each a process that can be killed."""

    def __init__(self, folder, workers):
        self.folder = folder
        self.scheduler = started("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard")
        for line in self.scheduler.stderr:
            if found := re.search(r"Scheduler at: +(tcp://[\d.:]+)", line):
                self.address = found[1]
                break
        threading.Thread(target=self.scheduler.stderr.read, daemon=True).start()
        self.workers = [self.worker(folder) for _ in range(workers)]
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers)  # else a command may say that it waits for them

    def worker(self, here):
        process = started("worker", self.address, "--nthreads", 1, "--no-nanny", "--no-dashboard", "--local-directory",
                          self.folder / "scratch", cwd=here)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return process

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Three workers, whose own folder is another one."""
    found = Machines(tmp_path_factory.mktemp("machines"), 3)
    yield found
    found.close()


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "meshes"
    folder.mkdir()
    for number in range(OBJECTS):
        ball = trimesh.creation.icosphere(2 + number % 2)
        ball.visual.vertex_colors = np.tile(np.uint8([200, 15 * number, 0, 255]), (len(ball.vertices), 1))
        ball.export(folder / f"thing_{number}.ply")
    (folder / "bad.ply").write_bytes(b"ply")
    return folder


def render(meshes, out, *more):
    return "data", "render", meshes, "--out", out, "--size", 128, "--views", 3, *more


@pytest.fixture(scope="module")
def whole(meshes, tmp_path_factory):
    """What a process of this machine makes."""
    from ouroboros_lib.data.layouts import find_meshes
    from ouroboros_lib.data.renders import RenderSettings, render_meshes

    out = tmp_path_factory.mktemp("whole")
    render_meshes(find_meshes([meshes]), out, RenderSettings(128, 3), 1, lambda *_: None)
    return files(out)


@pytest.fixture
def at_the_second(monkeypatch):
    """Does something once two objects have come out, of the others at most six being at work or done."""
    monkeypatch.setattr(cluster, "AHEAD", 6)

    def call(act):
        done, names = Tally.done, []

        def tell(tally, name, *more, **options):
            names.append(name)
            if len(names) == 2:
                act()
            done(tally, name, *more, **options)

        monkeypatch.setattr(Tally, "done", tell)
    return call


def test_one_of_three_workers_is_killed(run, machines, meshes, whole, tmp_path, monkeypatch, at_the_second):
    """Paths mean what they mean here, although the workers have another folder."""
    monkeypatch.chdir(tmp_path)
    left = []

    def kill():
        left.append(OBJECTS - len(list(tmp_path.glob("out/thing_*"))))
        machines.workers[0].kill()

    at_the_second(kill)
    code, text, errors = run(*render(os.path.relpath(meshes), "out", "--cluster", machines.address))
    assert left[0] > 0 and machines.workers[0].wait() == -9
    assert code == 1 and f"{OBJECTS} of {OBJECTS + 1} objects" in text, errors
    assert errors.startswith("skipped: bad: ") and errors.count("\n") == 1
    assert files(tmp_path / "out") == whole


def test_what_is_finished_is_not_made_again(run, machines, meshes, whole, tmp_path):
    assert run(*render(meshes, tmp_path, "--cluster", machines.address))[0] == 1
    shutil.rmtree(tmp_path / "thing_3")
    (tmp_path / "thing_5" / "cameras.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert run(*render(meshes, tmp_path, "--cluster", machines.address))[0] == 1
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert {path.parent.name for path in after if before.get(path) != after[path]} == {"thing_3", "thing_5"}
    assert files(tmp_path) == whole


def test_downloads(run, machines, tmp_path):
    fuel = served()
    fuel.moods = {"Thing_1": 404}
    arguments = ("data", "gso", "download", "--all", "--server", fuel.url, "--out")
    try:
        code, text, errors = run(*arguments, tmp_path / "cluster", "--cluster", machines.address)
        assert code == 1 and "2 of 3 objects" in text and errors.count("\n") == 1 and "skipped: Thing_1: " in errors
        fuel.moods = {}
        asked = fuel.requests["Thing_0"]
        assert run(*arguments, tmp_path / "cluster", "--cluster", machines.address)[0] == 0
        assert fuel.requests["Thing_0"] == asked
        assert run(*arguments, tmp_path / "here")[0] == 0
    finally:
        fuel.close()
    assert files(tmp_path / "cluster") == files(tmp_path / "here")


def test_an_evaluation(run, machines, views, tmp_path):
    arguments = ("evaluate", "--data", views, "--method", f"images:{views}", "--lpips", "off", "--batch", 3, "--out")
    for name, more in (("here", ()), ("cluster", ("--cluster", machines.address))):
        code, text, errors = run(*arguments, tmp_path / name / "figures", *more)
        assert code == 1 and "1 skipped: bad" in text and errors.startswith("skipped: ") and errors.count("\n") == 1
    here, cluster = files(tmp_path / "here"), files(tmp_path / "cluster")
    assert here.keys() == cluster.keys() > {"figures.csv", "figures.json", "figures.png", "figures.parts/"}
    clocks = {"figures.json"}
    assert {name: here[name] for name in here.keys() - clocks} == {name: cluster[name] for name in here.keys() - clocks}
    assert json.loads(here["figures.json"])["summary"] == json.loads(cluster["figures.json"])["summary"]


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Three objects, one of which cannot be read."""
    from ouroboros_lib.data.renders import render_procedural

    folder = tmp_path_factory.mktemp("views")
    render_procedural("val", range(2), folder, 32, 3, 0, 0, 1, lambda name: None)
    shutil.copytree(folder / "val_000001", folder / "bad")
    (folder / "bad" / "view_001.png").write_bytes(b"png")
    return folder


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_full_disk(run, machines, meshes, whole, tmp_path):
    """To the workers, a write of more than 2,000 bytes is what one on a full disk is."""
    before = resource.prlimit(machines.scheduler.pid, resource.RLIMIT_FSIZE)
    living = [worker for worker in machines.workers if worker.poll() is None]
    for worker in living:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (2000, before[1]))
    code, text, errors = run(*render(meshes, tmp_path, "--cluster", machines.address))
    lines = [line for line in errors.splitlines() if not line.startswith("skipped: bad")]
    assert (code, text, len(lines)) == (2, "", 1)
    assert lines[0].startswith(f"error: {tmp_path}: File too large; a limit on the size of files")
    for worker in living:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, before)
    assert run(*render(meshes, tmp_path, "--cluster", machines.address))[0] == 1
    assert files(tmp_path) == whole


CANNOT_BE_JOINED = """
import os, pathlib, sys
from distributed import nanny
from ouroboros_lib.speed.cluster import Cluster

async def fails(process, *args, **options):
    print("fails")
    assert False, "can only join a started process"
nanny.WorkerProcess.kill = fails
if __name__ == "__main__":
    print(list(Cluster("local:1").run(os.path.basename, [("a/b",)], pathlib.Path(sys.argv[1]))))
"""


def test_a_task_that_kills_its_workers_fails_alone(tmp_path):
    import dask
    import distributed  # noqa: F401  # which has settings of its own

    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        found = dict(Cluster("local:1").run(os._exit, [(1,)], tmp_path))
    assert str(found[1,]) == "its worker died, 2 times, perhaps of too little memory"


def test_a_worker_that_dies_as_it_begins(tmp_path):
    """A race of Dask's, played: its successor is taken for started, and cannot be joined."""
    done = subprocess.run([sys.executable, "-c", CANNOT_BE_JOINED, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fails\n[(('a/b',), 'b')]\n", "")


def test_workers_of_this_machine(run, meshes, whole, tmp_path):
    code, text, errors = run(*render(meshes, tmp_path / "out", "--cluster", "local:2"))
    assert code == 1 and f"{OBJECTS} of {OBJECTS + 1} objects" in text and errors.count("\n") == 1
    assert files(tmp_path / "out") == whole


def test_big_meshes_come_first(meshes, tmp_path):
    from ouroboros_lib.data.layouts import find_meshes
    from ouroboros_lib.data.renders import RenderSettings, render_meshes

    class Notes:
        def run(self, task, jobs, shared):
            for job in jobs:
                yield job, InputError("noted")

    names, found = [], find_meshes([meshes])
    render_meshes(found, tmp_path, RenderSettings(8, 2), 1, lambda name, *_: names.append(name), Notes())
    sizes = [found[name].stat().st_size for name in names]
    assert set(names) == set(found) and sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2


def test_freed_memory_stays_with_a_worker(tmp_path, monkeypatch):
    """Dask would have glibc give it back at once."""
    import dask
    import distributed  # noqa: F401  # which has settings of its own

    name = "MALLOC_TRIM_THRESHOLD_"
    assert str(dask.config.get(f"distributed.nanny.pre-spawn-environ.{name}")) == cluster.TRIM
    (tmp_path / "mark").touch()
    for given, wanted in ((cluster.TRIM, None), ("7", "7")):
        monkeypatch.setenv(name, given)
        assert cluster._work(pickle.dumps((os.getenv, (name,))), str(tmp_path), str(tmp_path / "mark")) == wanted


def test_workers_of_this_machine_keep_freed_memory_too(monkeypatch):
    """LocalCluster stands for what starts workers, which takes seconds."""
    import dask

    def there():
        return dict(dask.config.get("distributed.nanny.pre-spawn-environ"))

    found = {}
    monkeypatch.setattr("distributed.LocalCluster", lambda **_: found.update(there()))
    cluster._own_cluster("local", "1")
    assert found["MALLOC_ARENA_MAX"] == found["OMP_NUM_THREADS"] == 1 and "MALLOC_ARENA_MAX" not in there()


def test_a_worker_without_the_folder(tmp_path):
    with pytest.raises(cluster.Unfit, match="does not see"):
        cluster._work(b"", str(tmp_path), str(tmp_path / "mark"))
    with pytest.raises(cluster.Unfit, match="cannot enter .*none"):
        cluster._work(b"", str(tmp_path / "none"), str(tmp_path / "mark"))


def test_what_cannot_be_on_this_cluster_is_one_line(machines, tmp_path):
    with pytest.raises(InputError, match="cannot take a task .*No module named 'writing_commands'"):
        list(Cluster(machines.address).run(files, [(tmp_path,)], tmp_path))


@pytest.mark.parametrize("text, words", [
    ("here", "expected tcp://HOST:PORT"), ("tcp://host", "expected tcp://HOST:PORT"), ("local:0", "local:N"),
    ("tcp://host:99999", "expected"), ("slurm:", "slurm:FILE"), ("slurm:{tmp}/none.json", "no such file"),
    ("slurm:{tmp}/list.json", "expected an object"), ("slurm:{tmp}/no.json", "not a JSON file"),
    ("slurm:{tmp}/colour.yaml", "colour: unknown; expected some of jobs, cores"), ("slurm:{tmp}/no.yml", "not a YAML"),
    ("slurm:{tmp}/zero.json", "jobs: expected a whole number"), ("tcp://127.0.0.1:1", "no scheduler there")])
def test_bad_values(refused, meshes, tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    for name, data in {"list.json": "[]", "no.json": "{", "colour.yaml": "jobs: 1\ncolour: red\n", "no.yml": "[",
                       "zero.json": '{"jobs": 0, "cores": 1, "memory": "1GB"}'}.items():
        (tmp_path / name).write_text(data)
    refused(render(meshes, tmp_path / "out", "--cluster", text.format(tmp=tmp_path)), words)
    assert not (tmp_path / "out").exists()


def test_workers_are_the_clusters_own(refused, meshes, tmp_path):
    refused(render(meshes, tmp_path / "out", "--cluster", "local:2", "--workers", 2), "--workers: a cluster has")
    refused(("data", "gso", "download", "--out", tmp_path / "out", "--cluster", "here"), "--cluster here")
    refused(("evaluate", "--out", tmp_path / "out" / "x", "--cluster", "here"), "--cluster here")


def test_slurm_gets_what_the_file_says(tmp_path, monkeypatch):
    """No Slurm here: in place of dask-jobqueue stands what only notes how it is called."""
    (tmp_path / "slurm.yaml").write_text("jobs: 3\ncores: 4\nmemory: 8GB\nqueue: cpu\nworker_extra_args: [--x]\n")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError, match="pip install dask-jobqueue"):
        cluster.Cluster(f"slurm:{tmp_path / 'slurm.yaml'}")
    called = {}

    class Stands:
        def __init__(self, **arguments):
            called.update(arguments)

        def scale(self, jobs):
            called["jobs"] = jobs

    monkeypatch.setitem(sys.modules, "dask_jobqueue", type("Module", (), {"SLURMCluster": Stands}))
    cluster.Cluster(f"slurm:{tmp_path / 'slurm.yaml'}")
    cluster._own_cluster("slurm", str(tmp_path / "slurm.yaml"))
    assert called == {"jobs": 3, "cores": 4, "processes": 4, "memory": "8GB", "queue": "cpu",
                      "worker_extra_args": ["--x"]}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty folders, one of which cannot be read."""
    from ouroboros_lib.data.renders import render_procedural

    folder = tmp_path_factory.mktemp("many")
    render_procedural("val", range(1), folder, 96, 8, 0, 0, 1, lambda name: None)
    for number in range(39):
        shutil.copytree(folder / "val_000000", folder / f"copy_{number}")
    (folder / "copy_7" / "view_001.png").write_bytes(b"png")
    return folder


def test_shards_while_a_worker_is_killed(run, machines, many, tmp_path, at_the_second):
    arguments = ("data", "shards", many, "--shard-mb", 0.4, "--out")
    here = run(*arguments, tmp_path / "here")
    assert here[0] == 1 and "39 of 40 objects" in here[1]
    living = [worker for worker in machines.workers if worker.poll() is None]
    at_the_second(living[-1].kill)
    cluster = run(*arguments, tmp_path / "cluster", "--cluster", machines.address)
    assert living[-1].wait() == -9 and cluster[0] == 1 and cluster[2] == here[2] != ""
    assert files(tmp_path / "cluster") == files(tmp_path / "here")
    assert len(list((tmp_path / "here").glob("*.tar"))) > 8


def test_shards_go_on_where_they_stopped(machines, many, tmp_path):
    """What workers bring when the command is over is not taken."""
    from ouroboros_lib.data.packing import pack

    def stop(name, error=None):
        told.append(name)
        if len(told) == 6:
            raise KeyboardInterrupt

    told, names, size = [], sorted(path.name for path in many.iterdir() if path.name != "copy_7"), 400_000
    pack(many, names, tmp_path / "whole", size, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        pack(many, names, tmp_path / "out", size, stop, Cluster(machines.address))
    left = files(tmp_path / "out")
    shards = [name for name in left if name.endswith(".tar")]
    assert left.keys() == {"shards.json", *shards} and 1 <= len(shards) < len(list(tmp_path.glob("whole/*.tar")))
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in shards}
    pack(many, names, tmp_path / "out", size, lambda *_: None, Cluster(machines.address))
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in shards}


def test_a_scheduler_that_is_lost(run, meshes, whole, tmp_path, at_the_second, request):
    machines, out = Machines(tmp_path, 2), tmp_path / "out"
    request.addfinalizer(machines.close)
    at_the_second(machines.scheduler.kill)
    code, text, errors = run(*render(meshes, out, "--cluster", machines.address))
    lines = [line for line in errors.splitlines() if not line.startswith("skipped: bad")]
    assert (code, text, len(lines)) == (2, "", 1) and "the scheduler was lost; what was finished stays" in lines[0]
    for worker in machines.workers:
        worker.kill()
        worker.wait()
    left = files(out)
    made = {name.split("/")[0] for name in left if name.startswith("thing") and name.endswith("object.json")}
    assert 2 <= len(made) < OBJECTS
    before = {path: path.stat().st_mtime_ns for name in made for path in (out / name).iterdir()}
    assert run(*render(meshes, out))[0] == 1 and files(out) == whole
    assert before == {path: path.stat().st_mtime_ns for path in before}
