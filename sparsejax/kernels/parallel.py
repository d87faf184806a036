"""Work in chunks, on XLA's own threads.

Numba's parallel loops bring threads of their own, which fight with XLA's for the cores, and one of
its layers must not be called by two threads at once. Here a handler asks XLA for helpers, and all
of them, the caller too, take the next chunk from a counter until there is none. The caller never
waits for a helper that has not begun, so it does not matter if none ever comes: calls may be
nested, come from many threads at once, or find every thread busy. A helper that comes too late
finds no chunk left; the last one to leave frees the memory of the job.
"""

from collections.abc import Callable
from typing import Any

import jax
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

from sparsejax.kernels import call_frame

WORDS = 32
"""Words of a job: how many use it, the next chunk, chunks done and to do; the rest is its own."""

_USERS, _NEXT, _DONE, CHUNKS, FIRST = 0, 1, 2, 3, 4
_WORD = ir.IntType(64)

_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _add(typing_context: Any, address: Any, number: Any) -> Any:
    """Adds to a word in memory, in one step that no other thread can divide; its value before."""
    del typing_context, address, number

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


def handler(prepare: Any, chunk: Any) -> tuple[Any, Callable[[], object]]:
    """Makes a handler of XLA's from two functions in machine code.

    Args:
      prepare: `(frame, job, threads)` writes the number of chunks into the job's word `CHUNKS`, and
        what `chunk` needs into those from `FIRST` on. It returns how many threads that is worth.
      chunk: `(job, number)` does one chunk.

    Returns:
      What `jax.ffi.register_ffi_target` takes, and a function that must be kept as long as it is
      registered.
    """

    @njit
    def work(job: int) -> None:
        chunks = call_frame.words(job, WORDS)[CHUNKS]
        while True:
            number = _add(job + 8 * _NEXT, 1)
            if number >= chunks:
                break
            chunk(job, number)
            _add(job + 8 * _DONE, 1)

    @njit
    def leave(job: int) -> None:
        if _add(job + 8 * _USERS, -1) == 1:
            call_frame.release(job)

    @cfunc(types.void(types.int64), error_model="numpy")
    def help(job: int) -> None:
        work(job)
        leave(job)

    helper = help.address

    @cfunc(types.int64(types.int64), error_model="numpy")
    def handle(frame: int) -> int:
        if call_frame.wants_metadata(frame):
            return 0
        failure = call_frame.error(frame)
        if failure != 0 or not call_frame.executes(frame):
            return failure
        job = call_frame.allocate(8 * WORDS)
        head = call_frame.words(job, WORDS)
        head[:] = 0
        threads = call_frame.threads(frame)
        threads = prepare(frame, job, threads)
        chunks = head[CHUNKS]
        helpers = max(min(threads, chunks) - 1, 0)
        head[_USERS] = 1 + helpers
        for _ in range(helpers):
            if not call_frame.schedule(frame, helper, job):
                _add(job + 8 * _USERS, -1)
        work(job)
        while _add(job + 8 * _DONE, 0) < chunks:
            _yield()
        leave(job)
        return 0

    return call_frame.capsule(handle.address), lambda: (handle, help)


def register(name: str, made: tuple[Any, Callable[[], object]]) -> None:
    """Tells XLA of a handler for the CPU."""
    jax.ffi.register_ffi_target(name, made[0], platform="cpu", api_version=1)
    _kept.append(made)


_kept: list[object] = []
