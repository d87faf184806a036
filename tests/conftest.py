"""What all tests share: four devices, compiled programs, and property tests that draw the same
examples each time."""

import atexit
import mmap
import os
import pathlib
import shutil
import tempfile

import hypothesis
import jax
import jaxlib

# Most of the tests' time is compilation, and that is quickest without optimization. The flags are
# read at jax's start, here and in the programs that tests start. XLA ends the process at a flag
# that it does not know, and another version may not: it is asked first.
_FLAGS = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}
_XLA = pathlib.Path(jaxlib.__file__).with_name("libjax_common.so")
if _XLA.exists():
    with _XLA.open("rb") as _file, mmap.mmap(_file.fileno(), 0, access=mmap.ACCESS_READ) as _binary:
        _known = [f"--{k}={v}" for k, v in _FLAGS.items() if _binary.find(k.encode()) >= 0]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_known]).strip()

# Sharded arrays need several devices, and their number is fixed once jax has started. Programs on
# one device are not touched by the other three; a process for the sharding tests alone would cost
# another start of jax, and a flag in the environment would reach the programs that tests start.
jax.config.update("jax_num_cpu_devices", 4)

# A test that trains something twice, to interrupt it for instance, compiles it once. Each process
# has its own cache: jax's is not safe to share.
_programs = tempfile.mkdtemp(prefix="sparsejax-programs-")
atexit.register(shutil.rmtree, _programs, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _programs)
jax.config.update("jax_compilation_cache_max_size", -1)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# The programs that tests start are alike, and few: they share a cache, with a limit, since jax
# locks one that has a limit. That takes too long for the thousands of the tests themselves.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # else the process that started this one did it
    _shared = tempfile.mkdtemp(prefix="sparsejax-shared-programs-")
    atexit.register(shutil.rmtree, _shared, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _shared
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**30)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

hypothesis.settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")
