"""What all tests share: four devices, compiled programs, and property tests that draw the same
examples each time."""

import atexit
import os
import shutil
import tempfile

import hypothesis
import jax

# Most of the tests' time is compilation, and that is quickest without optimization. The flag is
# read at jax's start, here and in the programs that tests start.
_FLAGS = "--xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()

# Sharded arrays need several devices, and their number is fixed once jax has started. Programs on
# one device are not touched by the other three; a process for the sharding tests alone would cost
# another start of jax, and a flag in the environment would reach the programs that tests start.
jax.config.update("jax_num_cpu_devices", 4)

# A test that trains something twice, to interrupt it for instance, compiles it once. Each process
# has its own cache: jax's is not safe to share.
_programs = tempfile.mkdtemp(prefix="sparsejax-programs-")
atexit.register(shutil.rmtree, _programs, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _programs)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

hypothesis.settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")
