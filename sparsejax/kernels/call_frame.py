"""XLA's typed foreign function interface, spoken from machine code that Numba makes.

XLA calls a handler with the address of a *call frame*, a C structure that names the arguments and
results (`xla/ffi/api/c_api.h` in `jax.ffi.include_dir()`). Its words of 64 bits are read here at
the places that version 0 of that interface gives them; fields are only ever added behind the last.
Nothing here touches Python objects, so handlers run without Python's lock.
"""

import ctypes
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

MAJOR, MINOR = 0, 3
"""The version of the interface that this is written for; XLA accepts older minor ones."""

_WORD = ir.IntType(64)
_MESSAGE = ctypes.create_string_buffer(
    b"sparsejax: XLA's call frame is not of the version that this handler reads"
)
_MESSAGE_ADDRESS = ctypes.addressof(_MESSAGE)
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL

# XLA_FFI_CallFrame: words.
_FRAME_WORDS = 21
_EXTENSION, _API, CONTEXT, _STAGE, _ARGS, _RETS, _RET_COUNT, _ARG_COUNT = 1, 2, 3, 4, 9, 14, 12, 7
_EXECUTE = 3
# XLA_FFI_Api: its version, and functions.
_API_WORDS = 19
_API_VERSION, _ERROR_CREATE, _ERROR_DESTROY, _SCHEDULE, _THREADS = 4, 6, 8, 17, 18
# XLA_FFI_Buffer.
_DATA, _RANK, _DIMENSIONS = 3, 4, 5
# XLA_FFI_*_Args: the longest that is used here.
_REQUEST_WORDS = 5
# The extension that asks a handler for its version, and the words of what it wants filled in.
_METADATA, _METADATA_VERSION, _METADATA_TRAITS = 1, 3, 4


def why_not() -> str | None:
    """Returns why the interface of this jaxlib cannot be spoken, or None if it can.

    >>> why_not() is None
    True
    """
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    if not header.exists():
        return f"jaxlib has no {header.name} that tells the version of its interface"
    text = header.read_text()
    found = [re.search(rf"#define XLA_FFI_API_{name} (\d+)", text) for name in ("MAJOR", "MINOR")]
    version = tuple(int(match[1]) for match in found if match)
    if len(version) != 2 or version[0] != MAJOR or version[1] < MINOR:
        spoken = ".".join(map(str, version)) or "an unknown version"
        return f"XLA's foreign function interface is {spoken}, not {MAJOR}.{MINOR}"
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return "this is no 64-bit machine"
    return None


def capsule(address: int) -> Any:
    """Returns a function's address as `jax.ffi.register_ffi_target` takes it."""
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    return new(address, None, None)


allocate = types.ExternalFunction("malloc", types.int64(types.int64))
release = types.ExternalFunction("free", types.void(types.int64))


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """The whole number as an address, for `carray`."""
    del typing_context, address

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def call(typing_context: Any, function: Any, argument: Any) -> Any:
    """Calls the C function at an address: one word in, one word out."""
    del typing_context, function, argument

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        kind = ir.FunctionType(_WORD, [_WORD]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])

    return types.int64(types.int64, types.int64), generate


@njit
def words(address: int, count: int) -> Any:
    """The memory at an address as whole numbers of 64 bits."""
    return carray(pointer(address), (count,), np.int64)


@njit
def wants_metadata(frame: int) -> bool:
    """Answers the question for the handler's version; whether that was all that XLA wanted."""
    extension = words(frame, _FRAME_WORDS)[_EXTENSION]
    if extension == 0 or words(extension, 4)[1] & 0xFFFFFFFF != _METADATA:
        return False
    metadata = words(extension, 4)[3]
    words(metadata, 4)[_METADATA_VERSION] = MAJOR | MINOR << 32
    carray(pointer(metadata + 8 * _METADATA_TRAITS), (1,), np.int32)[0] = 0
    return True


@njit
def error(frame: int) -> int:
    """Returns an error that says that the frame is not as expected, or 0 if it is."""
    head = words(frame, _FRAME_WORDS)
    api = words(head[_API], _API_WORDS)
    if (
        head[0] >= 8 * _FRAME_WORDS
        and api[0] >= 8 * _API_WORDS
        and api[_API_VERSION] & 0xFFFFFFFF == MAJOR
    ):
        return 0
    request = _request(32, _MESSAGE_ADDRESS, _INTERNAL, 0)
    failure = call(api[_ERROR_CREATE], request)
    release(request)
    return failure


@njit
def executes(frame: int) -> bool:
    """Whether XLA wants the result now, and not to prepare for it."""
    return words(frame, _FRAME_WORDS)[_STAGE] & 0xFFFFFFFF == _EXECUTE


@njit
def argument(frame: int, index: int) -> int:
    """The address of the structure of an argument."""
    head = words(frame, _FRAME_WORDS)
    return words(head[_ARGS], head[_ARG_COUNT])[index]


@njit
def result(frame: int, index: int) -> int:
    """The address of the structure of a result."""
    head = words(frame, _FRAME_WORDS)
    return words(head[_RETS], head[_RET_COUNT])[index]


@njit
def data(buffer: int) -> int:
    """The address of the entries of an argument or result."""
    return words(buffer, 6)[_DATA]


@njit
def size(buffer: int, axis: int) -> int:
    """The size of an axis of an argument or result."""
    return words(words(buffer, 6)[_DIMENSIONS], axis + 1)[axis]


@njit
def threads(frame: int) -> int:
    """How many threads XLA has for such work; 1 if it has none to lend."""
    head = words(frame, _FRAME_WORDS)
    api = words(head[_API], _API_WORDS)
    request = _request(32, head[CONTEXT], 0, 1)
    words(request, _REQUEST_WORDS)[3] = request + 8 * 4  # where the answer goes
    failure = call(api[_THREADS], request)
    count = words(request, _REQUEST_WORDS)[4]
    release(request)
    if failure != 0:
        _forget(api, failure)
        return 1
    return count


@njit
def schedule(frame: int, task: int, argument: int) -> bool:
    """Has one of XLA's threads call `task(argument)` at some time; whether it will."""
    head = words(frame, _FRAME_WORDS)
    api = words(head[_API], _API_WORDS)
    request = _request(40, head[CONTEXT], task, argument)
    failure = call(api[_SCHEDULE], request)
    release(request)
    if failure != 0:
        _forget(api, failure)
        return False
    return True


@njit
def _forget(api: Any, failure: int) -> None:
    request = _request(24, failure, 0, 0)
    call(api[_ERROR_DESTROY], request)
    release(request)


@njit
def _request(size: int, second: int, third: int, fourth: int) -> int:
    """The address of the structure that a function of XLA's takes: its size, and what it needs."""
    address = allocate(8 * _REQUEST_WORDS)
    request = words(address, _REQUEST_WORDS)
    request[0], request[1], request[2], request[3], request[4] = size, 0, second, third, fourth
    return address
