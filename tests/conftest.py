"""What all tests share: four devices, and property tests that draw the same examples each time."""

import hypothesis
import jax

# Sharded arrays need several devices, and their number is fixed once jax has started. Programs on
# one device are not touched by the other three; a process for the sharding tests alone would cost
# another start of jax, and a flag in the environment would reach the programs that tests start.
jax.config.update("jax_num_cpu_devices", 4)

hypothesis.settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")
