"""Tasks of a command on other processes or machines, through dask.distributed: the option --cluster.

A task writes its result whole, as in a process of this machine, into a folder that all of them share; what comes back
over the network is small. Each task runs in the folder where the command was given, so that paths mean the same. A task
whose worker dies goes to another one, three times as Dask counts (`distributed.scheduler.allowed-failures`); one that
has then cost four workers fails as a bad object does.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypedDict

from ..errors import InputError, needs
from ..files import deaf_children, hidden, one_line, parse_json, read_bytes
from ..values import Between, checked
from .threads import prepare

EXPECTED = "expected tcp://HOST:PORT of a Dask scheduler, local:N, or slurm:FILE"
CONNECT = 30.0  # seconds in which a scheduler must answer
PATIENCE = 5.0  # seconds without a result after which is looked whether there are workers
TRIM = "65536"  # what Dask has glibc give back at once: every page of it then costs the kernel time again
FAST = {"distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,  # a thread's own arena gives its memory back, too
        "distributed.worker.profile.enabled": False}  # which nobody looks at
AHEAD = 1000  # tasks that the scheduler is given at a time; there may be a million
Count = Annotated[int, Between(1, 10_000)]
_alone = threading.Lock()


class _Needed(TypedDict):
    jobs: Count
    cores: Count
    memory: str


class Slurm(_Needed, total=False):
    """The file of slurm:FILE: `jobs`, how many to ask for, and arguments of dask-jobqueue's SLURMCluster. There are as
    many workers a job as `cores`."""

    queue: str
    account: str
    walltime: str
    interface: str
    python: str
    local_directory: str
    log_directory: str
    job_extra_directives: list[str]
    job_script_prologue: list[str]
    worker_extra_args: list[str]


class Died(InputError):
    """What a task comes to that has cost one worker after the other."""


@dataclass(frozen=True)
class Cluster:
    """A value of --cluster. Raises InputError for one that is none, and where the extra is not installed."""

    text: str

    def __post_init__(self):
        kind, _, rest = self.text.partition(":")
        if kind == "tcp":
            found = re.fullmatch(r"//(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", rest)
            good = found is not None and 1 <= int(found[2]) <= 65535
        else:
            good = kind == "local" and re.fullmatch(r"[1-9]\d{0,2}", rest) or kind == "slurm" and rest
        if not good:
            raise InputError(f"--cluster {self.text}: {EXPECTED}")
        with needs("cluster", "--cluster"):
            import distributed  # noqa: F401
        if kind == "slurm":
            _read_slurm(rest)
            _jobqueue()

    def run(self, task: Callable, jobs: Iterable[tuple], shared: Path | None) -> Iterator[tuple[tuple, Any]]:
        """(job, task(*job)) for all jobs, in the order in which they are done; in place of a result the InputError that
        the task raised, or Died.

        task: a function of a module, that leaves its results whole or not at all. shared: a folder that all workers
        must see, made if need be; None if nothing goes into a folder. Raises InputError when the scheduler is lost or
        cannot be reached, and where a worker lacks the folder or the library; what else a task raises, such as the
        OSError of a full disk, ends all.
        """
        from distributed import KilledWorker

        here, left = os.getcwd(), iter(jobs)
        with self._client() as client, _marked(shared) as mark:
            executor = client.get_executor(pure=False)
            running: dict[Future, tuple] = {}
            said: set[str] = set()

            def submit(count: int) -> None:
                for job in islice(left, count):
                    running[executor.submit(_work, pickle.dumps((task, job)), here, mark and str(mark))] = job

            try:
                submit(AHEAD)
                while running:
                    done, _ = wait(running, PATIENCE, FIRST_COMPLETED)
                    if not done:
                        self._look_at_workers(client, said)
                    for future in done:
                        if mark is not None:
                            os.utime(mark)  # a sign of life, for the workers elsewhere
                        job = running.pop(future)
                        submit(1)
                        yield job, self._outcome(future, KilledWorker)
            finally:
                executor.shutdown(wait=False)  # cancels what has not begun

    def _outcome(self, future: Future, killed: Any) -> Any:
        try:
            return future.result()
        except Unfit as error:
            raise InputError(f"--cluster {self.text}: {error}") from None
        except InputError as error:
            return error
        except killed as error:
            return Died(f"its worker died, {error.allowed_failures + 1} times, perhaps of too little memory")
        except CancelledError:
            raise InputError(f"--cluster {self.text}: the scheduler was lost; what was finished stays: start it and "
                             "give the command again") from None
        except (ImportError, AttributeError, RuntimeError, pickle.PicklingError) as error:
            if not re.search("deserializ|No module named|attribute", str(error)):
                raise
            raise InputError(f"--cluster {self.text}: cannot take a task ({one_line(error)}); install this version of "
                             "the library for its scheduler and workers, too") from None

    def _look_at_workers(self, client: Any, said: set[str]) -> None:
        try:
            threads = client.nthreads()
        except Exception:  # whatever is raised of a scheduler that is lost: then the tasks are cancelled, too
            return
        lines = [] if threads else [f"waiting for workers of {self.text}"]
        lines += [f"{address} has {count} threads, but tasks use one: start workers with --nthreads 1"
                  for address, count in threads.items() if count > 1]
        for line in lines:
            if line not in said:
                said.add(line)
                print(f"note: {line}", file=sys.stderr, flush=True)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """A client, and around it the cluster if it is of this command's own."""
        import distributed

        for name in list(logging.root.manager.loggerDict):
            if name.split(".")[0] in ("distributed", "tornado"):  # a loss is told once, in our words
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        kind, _, rest = self.text.partition(":")
        with ExitStack() as open_ones:
            try:
                with deaf_children():
                    where = self.text if kind == "tcp" else _own_cluster(kind, rest)
                    if kind != "tcp":
                        open_ones.callback(_close, where)
                    client = distributed.Client(where, timeout=CONNECT, set_as_default=False)
                    open_ones.callback(client.close, 2.0)  # of a scheduler that is lost it would wait for long
            except (OSError, TimeoutError, RuntimeError, ValueError) as error:
                raise InputError(f"--cluster {self.text}: no scheduler there ({one_line(error)})" if kind == "tcp" else
                                 f"--cluster {self.text}: cannot be started ({one_line(error)})") from None
            yield client


@contextmanager
def _marked(folder: Path | None) -> Iterator[Path | None]:
    """A file in a folder, by which whoever else sees it is told from who has another one of the same name."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with hidden(folder) as mark:
        mark.touch()
        yield mark


def _close(cluster: Any) -> None:
    """Also where Dask fails to: where a worker died as it began, whose successor Dask takes for started."""
    from distributed import Status

    try:
        cluster.close()
    except AssertionError as error:
        if "started process" not in str(error):
            raise
        cluster.status = Status.closed  # what is left ends with this process; a second try would wait for the first


def _own_cluster(kind: str, rest: str) -> Any:
    if kind == "local":
        import dask
        from distributed import LocalCluster

        with dask.config.set(FAST):
            return LocalCluster(n_workers=int(rest), threads_per_worker=1, processes=True, host="127.0.0.1",
                                dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
                                memory_limit=None, silence_logs=logging.CRITICAL + 1)
    arguments: dict[str, Any] = dict(_read_slurm(rest))
    jobs = arguments.pop("jobs")
    cluster = _jobqueue().SLURMCluster(processes=arguments["cores"], **arguments)
    cluster.scale(jobs=jobs)
    return cluster


def _jobqueue() -> Any:
    try:
        return importlib.import_module("dask_jobqueue")  # on the user's own account: no extra brings it
    except ModuleNotFoundError:
        raise InputError("--cluster slurm:FILE needs the package dask_jobqueue, which is not installed: "
                         "pip install dask-jobqueue") from None


def _read_slurm(name: str) -> Slurm:
    """The file of slurm:FILE, JSON or YAML. Raises InputError."""
    if Path(name).suffix in (".yaml", ".yml"):
        import yaml  # of dask's own requirements

        data = read_bytes(name)
        try:
            found = yaml.safe_load(data)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"{name}: not a YAML file ({one_line(error)})") from None
    else:
        found = parse_json(read_bytes(name), name)
    known = Slurm.__annotations__
    if unknown := sorted(set(map(str, found)) - set(known)) if isinstance(found, dict) else []:
        raise InputError(f"{name}: {unknown[0]}: unknown; expected some of {', '.join(known)}")
    return checked(found, Slurm, name)


# ---- in a worker ----------------------------------------------------------------------------------------------------


class Unfit(Exception):
    """This worker cannot do any of the tasks."""


def _work(packed: bytes, here: str, mark: str | None) -> Any:
    """One task at a time, in one thread, in the folder `here`."""
    with _alone:
        if os.environ.get("MALLOC_TRIM_THRESHOLD_") == TRIM:
            del os.environ["MALLOC_TRIM_THRESHOLD_"]  # so that `prepare` may choose
        prepare()  # before the task's module is imported, and torch with it
        try:
            before = os.getcwd()
            os.chdir(here)
        except OSError as error:
            raise Unfit(f"a worker cannot enter {here} ({error.strerror}): folders must be shared") from None
        try:
            if mark and not _sees(mark):
                _sees.cache_clear()
                raise Unfit(f"a worker does not see {Path(mark).parent}: folders must be shared")
            task, job = pickle.loads(packed)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            return task(*job)
        finally:
            os.chdir(before)


@lru_cache(maxsize=100)
def _sees(mark: str) -> bool:
    """Whether the folder is the one that the command sees. Listed, since network disks look anew only then."""
    try:
        return Path(mark).name in os.listdir(Path(mark).parent)
    except OSError:
        return False
