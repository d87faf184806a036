"""Where the workers of a sweep run: as processes of this machine, on Slurm, or on a Ray cluster.

A launcher starts workers (`experiments.worker.work`) and can tell whether they still run. It need
not tell what became of them: that lies on the disk, and a worker that is lost is simply started
again. The folder of the sweep and the data must be the same on all machines.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from absl import flags

from experiments.errors import UserError


class Job(Protocol):
    """A worker that was started."""

    def running(self) -> bool:
        """Whether it runs still, or waits for its turn."""

    def cancel(self) -> None:
        """Ends it without asking it to save."""


class Launcher(Protocol):
    """A place for workers."""

    @property
    def parallel(self) -> int:
        """The most workers at a time."""

    @property
    def advice(self) -> str:
        """Where to look when workers fail before they begin."""

    def start(self, order: Path, job: str) -> Job:
        """Starts a worker.

        Args:
          order: the file of the order, absolute.
          job: the job's name, unlike any other.
        """

    def close(self) -> None:
        """Leaves the place, once no worker runs any more."""


class _Process(NamedTuple):
    process: subprocess.Popen[bytes]

    def running(self) -> bool:
        if self.process.poll() is None:
            return True
        self.release()
        return False

    def cancel(self) -> None:
        self.process.kill()
        self.process.wait()

    def release(self) -> None:
        """Closes the worker's standard input, at which it saves and ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()


class _Local(NamedTuple):
    parallel: int
    cores: int
    devices: tuple[tuple[str, ...], ...]
    jobs: dict[int, _Process]
    advice: str = "the logs in its folder .workers/"

    def start(self, order: Path, job: str) -> Job:
        # Each worker has GPUs of its own, and as many threads as cores. It is not bound to certain
        # cores: other sweeps on this machine would choose the same.
        slot = next(i for i in range(self.parallel) if not self._busy(i))
        environment = os.environ | _environment(self.cores)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices[slot])
        with order.with_name(f"{job}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments.worker", str(order), job],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the sweep, which asks the workers to stop
            )
        self.jobs[slot] = _Process(process)
        return self.jobs[slot]

    def close(self) -> None:
        for job in self.jobs.values():
            job.release()
            job.process.wait()

    def _busy(self, slot: int) -> bool:
        return slot in self.jobs and self.jobs[slot].running()


def local(parallel: int | None = None, cores: int = 1, gpus: int = 0) -> Launcher:
    """Workers are processes of this machine, each with threads for its share of the cores.

    A worker whose sweep is gone saves and ends.

    Args:
      parallel: the most workers at a time; None for as many as there are cores or GPUs for.
      cores: CPU cores of each.
      gpus: GPUs of each.

    Returns:
      The launcher.

    Raises:
      UserError: if there are no such resources.
    """
    _check(parallel, cores, gpus)
    places = max(1, len(_cores()) // cores)
    devices = _gpus() if gpus else []
    if gpus > len(devices):
        raise UserError(
            f"--gpus: {gpus} are asked for each worker, this machine has {len(devices)}"
        )
    if gpus:
        places = min(places, len(devices) // gpus)
        if parallel is not None and parallel > len(devices) // gpus:
            raise UserError(
                f"--parallel: {parallel} workers with {gpus} GPUs each are impossible with the "
                f"{len(devices)} of this machine"
            )
    most = parallel or places
    shares = tuple(tuple(devices[i * gpus : (i + 1) * gpus]) for i in range(most))
    return _Local(most, cores, shares, {})


class _Work(NamedTuple):
    """What Submitit runs; preempted or out of time, it is queued again and goes on."""

    environment: dict[str, str]

    def __call__(self, order: str, job: str) -> None:
        os.environ.update(self.environment)
        from experiments import worker  # late: the environment must be set before jax starts

        worker.work(Path(order), job)

    def checkpoint(self, order: str, job: str) -> Any:
        import submitit

        again: Any = self
        return submitit.helpers.DelayedSubmission(again, order, job)


class _SubmititJob(NamedTuple):
    job: Any

    def running(self) -> bool:
        return not self.job.done()

    def cancel(self) -> None:
        self.job.cancel()


class _Submitit(NamedTuple):
    parallel: int
    cores: int
    gpus: int
    cluster: str
    options: dict[str, Any]
    advice: str = "the logs in its folder .workers/submitit/"

    def start(self, order: Path, job: str) -> Job:
        submitit = _import("submitit", "submitit")
        executor = submitit.AutoExecutor(order.parent / "submitit", cluster=self.cluster)
        executor.update_parameters(
            name=job, cpus_per_task=self.cores, gpus_per_node=self.gpus, **self.options
        )
        return _SubmititJob(executor.submit(_Work(_environment(self.cores)), str(order), job))

    def close(self) -> None:
        pass


def submitit(
    parallel: int,
    cores: int = 1,
    gpus: int = 0,
    cluster: str = "slurm",
    options: Mapping[str, Any] | None = None,
) -> Launcher:
    """Workers are jobs of Slurm. Those that are preempted, or run out of time, are queued again.

    Args:
      parallel: the most jobs at a time.
      cores: CPU cores of each.
      gpus: GPUs of each.
      cluster: ``slurm``, or ``local`` to try it without one.
      options: parameters of Submitit, such as ``slurm_partition`` and ``timeout_min``.

    Returns:
      The launcher.

    Raises:
      UserError: if Submitit is not installed, or there is no Slurm.
    """
    _import("submitit", "submitit")
    _check(parallel, cores, gpus)
    if cluster == "slurm" and shutil.which("srun") is None:
        raise UserError("--launcher=submitit: there is no srun; start the sweep where Slurm is")
    return _Submitit(parallel, cores, gpus, cluster, {"timeout_min": 24 * 60} | dict(options or {}))


class _RayJob(NamedTuple):
    ray: ModuleType
    task: Any

    def running(self) -> bool:
        return not self.ray.wait([self.task], timeout=0)[0]

    def cancel(self) -> None:
        self.ray.cancel(self.task, force=True)


class _Ray(NamedTuple):
    ray: ModuleType
    parallel: int
    cores: int
    gpus: int
    advice: str = "Ray's logs, in /tmp/ray/session_latest/logs unless it was set up otherwise"

    def start(self, order: Path, job: str) -> Job:
        # A process for each worker, that ends with it: jax has what it is started with for good.
        remote = self.ray.remote(
            num_cpus=self.cores, num_gpus=self.gpus, max_retries=0, max_calls=1
        )
        work = remote(lambda *arguments: _Work(_environment(self.cores))(*arguments))
        return _RayJob(self.ray, work.options(name=job).remote(str(order), job))

    def close(self) -> None:
        self.ray.shutdown()


def ray(
    parallel: int | None = None, cores: int = 1, gpus: int = 0, address: str | None = None
) -> Launcher:
    """Workers are tasks of a Ray cluster.

    Args:
      parallel: the most workers at a time; None for as many as the cluster has resources for.
      cores: CPU cores of each.
      gpus: GPUs of each.
      address: the cluster's address; None for one on this machine alone, which is started.

    Returns:
      The launcher.

    Raises:
      UserError: if Ray is not installed, or the cluster cannot be reached or is too small.
    """
    module = _import("ray", "ray")
    _check(parallel, cores, gpus)
    # Workers import this package from where it lies here.
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": path}}}
    if address is None:
        options |= {"num_cpus": len(_cores()), "include_dashboard": False}
    try:
        module.init(address or "local", log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address: {address}: there is no Ray cluster: {error}") from error
    there = module.cluster_resources()
    places = int(there.get("CPU", 0) // cores)
    if gpus:
        places = min(places, int(there.get("GPU", 0) // gpus))
    if not places:
        module.shutdown()
        raise UserError(
            f"--cores, --gpus: the cluster has no room for a worker with {cores} cores and {gpus} "
            f"GPUs; it has {there.get('CPU', 0):.0f} and {there.get('GPU', 0):.0f}"
        )
    return _Ray(module, parallel or places, cores, gpus)


def define_flags() -> None:
    """Defines the flags that describe a launcher."""
    flags.DEFINE_enum(
        "launcher",
        "local",
        ["local", "submitit", "ray"],
        "Where runs run: as processes of this machine, as jobs of Slurm, or on a Ray cluster. The "
        "latter two need an extra: pip install 'sparsejax[submitit]' or 'sparsejax[ray]'.",
    )
    flags.DEFINE_integer(
        "parallel",
        None,
        "The most workers at a time; each trains one run, or cohort, after the other. By default "
        "as many as there are cores, or GPUs, for; Slurm needs a number.",
    )
    flags.DEFINE_integer(
        "cores",
        1,
        "CPU cores of each worker. Small networks train fastest, all in all, on one core each. The "
        "last bits of a result on a CPU depend on it: keep it when a sweep is continued.",
    )
    flags.DEFINE_integer("gpus", 0, "GPUs of each worker; with 0 it sees none.")
    flags.DEFINE_string(
        "address", None, "Ray: the cluster's address; by default one is started on this machine."
    )
    flags.DEFINE_string(
        "cluster", "slurm", "Submitit: slurm, or local to try it on a machine without Slurm."
    )
    flags.DEFINE_multi_string(
        "slurm",
        [],
        "Submitit: a parameter, such as --slurm=slurm_partition=gpu or --slurm=timeout_min=240 "
        "(minutes; a job that runs out of them is queued again). May be repeated.",
    )


def from_flags() -> Launcher:
    """Returns the launcher that the flags describe.

    Raises:
      UserError: if they describe none that there is.
    """
    values = flags.FLAGS
    resources = {"cores": values.cores, "gpus": values.gpus}
    if values.launcher == "local":
        return local(values.parallel, **resources)
    if values.launcher == "ray":
        return ray(values.parallel, address=values.address, **resources)
    if values.parallel is None:
        raise UserError("--parallel: Slurm needs to be told how many jobs there may be at a time")
    options: dict[str, Any] = {}
    for text in values.slurm:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--slurm: {text!r} is no parameter; write KEY=VALUE")
        options[key] = int(value) if value.isdigit() else value
    return submitit(values.parallel, cluster=values.cluster, options=options, **resources)


def _environment(cores: int) -> dict[str, str]:
    """Lets jax compute on so many threads, whatever cores it sees, and by that to the same bits."""
    return {"NPROC": str(cores)}


def _cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
    """The GPUs of this machine that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def _check(parallel: int | None, cores: int, gpus: int) -> None:
    for name, value, least in (("parallel", parallel, 1), ("cores", cores, 1), ("gpus", gpus, 0)):
        if value is not None and value < least:
            raise UserError(f"--{name}: {value} is impossible; allowed: at least {least}")


def _import(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--launcher={name}: {name} is not installed; pip install 'sparsejax[{extra}]'"
        ) from error
