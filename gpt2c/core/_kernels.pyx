# cython: language_level=3
"""The C core, linked into this extension only, and what all compiled modules share: the tables of kernels, number
formats, aligned memory, packing, and the size of a team of threads.
"""

import math
import os
import warnings

import numpy as np

from gpt2c.errors import UnsupportedISAError

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromMemory

NUMERICS_VERSION = GPT2C_NUMERICS_VERSION
OWN_BFLOAT16 = ("avx512bf16", "amx")  # instruction sets that round sums of bfloat16 products in their own order
TEAMS = ("pool",) if gpt2c_team_choose(False) else ("openmp", "pool")
MOST_THREADS = GPT2C_MOST_THREADS  # of one call
BACKENDS = ("native", "blas")

cdef dict DTYPE_NUMBERS = {"float32": GPT2C_FLOAT32, "bfloat16": GPT2C_BFLOAT16, "int8": GPT2C_INT8, "int4": GPT2C_INT4}
DTYPES = tuple(DTYPE_NUMBERS)
cdef dict CACHE_DTYPE_NUMBERS = {
    "float32": GPT2C_CACHE_FLOAT32, "float16": GPT2C_CACHE_FLOAT16, "bfloat16": GPT2C_CACHE_BFLOAT16,
}
CACHE_DTYPES = tuple(CACHE_DTYPE_NUMBERS)
# The format of keys and values unless another is requested. float16 costs less than rounding weights to integers does,
# and results stay the same on every instruction set; bfloat16 goes with weights whose arithmetic differs anyway.
DEFAULT_CACHE_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "int8": "float16", "int4": "float16"}

FUNCTIONS = {
    "gelu_new": GPT2C_GELU_NEW,
    "gelu": GPT2C_GELU,
    "quick_gelu": GPT2C_QUICK_GELU,
    "relu": GPT2C_RELU,
    "silu": GPT2C_SILU,
    "tanh": GPT2C_TANH,
    "identity": GPT2C_IDENTITY,
    "exp": GPT2C_EXP,
    "erf": GPT2C_ERF,
    "sigmoid": GPT2C_SIGMOID,
}

# The places where an observer can stop a pass -> the name, and the buffer shown there.
PLACE_TABLE = {
    GPT2C_AT_EMBED: ("embed", "x"),
    GPT2C_AT_TYPES: ("token_type_embed", "branch"),
    GPT2C_AT_POSITIONS: ("pos_embed", "branch"),
    GPT2C_AT_LN_EMB: ("ln_emb", "norm"),
    GPT2C_AT_RESID_PRE: ("resid_pre", "x"),
    GPT2C_AT_ATTN_IN: ("attn_in", "x"),
    GPT2C_AT_LN_1: ("ln1", "norm"),
    GPT2C_AT_QKV: ("qkv", "qkv"),
    GPT2C_AT_SCORES: ("attn_scores", "scores"),
    GPT2C_AT_PATTERN: ("pattern", "pattern"),
    GPT2C_AT_Z: ("z", "attended"),
    GPT2C_AT_ATTN_OUT: ("attn_out", "branch"),
    GPT2C_AT_RESID_MID: ("resid_mid", "x"),
    GPT2C_AT_CROSS_PATTERN: ("cross_pattern", "cross"),
    GPT2C_AT_CROSS_OUT: ("cross_attn_out", "branch"),
    GPT2C_AT_RESID_CROSS: ("resid_mid_cross", "x"),
    GPT2C_AT_MLP_IN: ("mlp_in", "x"),
    GPT2C_AT_LN_2: ("ln2", "norm"),
    GPT2C_AT_PRE: ("pre", "pre"),
    GPT2C_AT_POST: ("post", "post"),
    GPT2C_AT_MLP_OUT: ("mlp_out", "branch"),
    GPT2C_AT_RESID_POST: ("resid_post", "x"),
    GPT2C_AT_LN_F: ("ln_final", "norm"),
}
assert sorted(PLACE_TABLE) == list(range(GPT2C_N_PLACES))
PLACES = dict(PLACE_TABLE[place] for place in range(GPT2C_N_PLACES))


cdef rows_at(float *data, ptrdiff_t rows, ptrdiff_t n):
    """Memory of a call as an array, valid during one product."""
    memory = PyMemoryView_FromMemory(<char *>data, rows * n * sizeof(float), PyBUF_WRITE)
    return np.frombuffer(memory, np.float32).reshape(rows, n)


cdef gpt2c_dtype dtype_of(name) except *:
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}; allowed: {', '.join(map(repr, DTYPES))}")
    return DTYPE_NUMBERS[name]


cdef gpt2c_cache_dtype cache_dtype_of(name) except *:
    if name not in CACHE_DTYPES:
        raise ValueError(f"dtype of a cache is {name!r}; allowed: {', '.join(map(repr, CACHE_DTYPES))}")
    return CACHE_DTYPE_NUMBERS[name]


# ---- threads ----

def team():
    """What calls run in: "openmp", or "pool", a pool of POSIX threads (src/team.c)."""
    return gpt2c_team_kind().decode()


def choose_team(name):
    """Have calls run in one of `TEAMS` from now on."""
    if name not in TEAMS:
        raise ValueError(f"GPT2C_TEAM is {name!r}; allowed: {', '.join(map(repr, TEAMS))}")
    gpt2c_team_choose(name == "pool")


if os.environ.get("GPT2C_TEAM"):
    choose_team(os.environ["GPT2C_TEAM"])


# libgomp hangs when a forked child enters a region after its parent has used a team.
os.register_at_fork(after_in_child=lambda: choose_team("pool"))

cdef bint warned = False


cdef int warn_of_shortage() except -1:
    """Warn once if a call ran on fewer threads than it was to."""
    global warned
    cdef int found = gpt2c_team_short()
    if found and not warned:
        warned = True
        warnings.warn(f"no more threads could be started (a limit of the system, or memory): a call ran on {found}. "
                      "Results are the same; set threads to what there is room for", RuntimeWarning, stacklevel=2)
    return 0


cdef int threads_now(threads) except -1:
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads is {threads!r}; allowed: an integer from 1 to {MOST_THREADS}")
    return threads


# ---- instruction sets ----


cdef dict probed = {}  # probing the CPU takes a hundred microseconds on a virtual machine


cdef bint supported(ptrdiff_t i) except *:
    if i not in probed:
        probed[i] = bool(gpt2c_supported(gpt2c_compiled(i)))
    return probed[i]


def isas():
    """Names of the instruction sets that are compiled in and run on this CPU, from the plainest to the widest."""
    names = []
    cdef ptrdiff_t i = 0
    while gpt2c_compiled(i) != NULL:
        if supported(i):
            names.append(gpt2c_compiled(i).name.decode())
        i += 1
    return names


def default_isa():
    """The instruction set used unless one is named: that of the environment variable GPT2C_ISA, else the fastest.

    The fastest is the last of ``isas()``, except "avx512bf16" on Intel processors, whose instruction for bfloat16 is
    slower than two multiply-adds.
    """
    return find_kernels(None).name.decode()


cdef const gpt2c_kernels *find_kernels(object isa) except NULL:
    origin = "isa"
    if isa is None:
        isa = os.environ.get("GPT2C_ISA") or None
        origin = "GPT2C_ISA"
    cdef const gpt2c_kernels *fastest = NULL
    cdef ptrdiff_t i = 0
    compiled = []
    while gpt2c_compiled(i) != NULL:
        compiled.append(gpt2c_compiled(i).name.decode())
        if supported(i):
            if compiled[i] == isa:
                return gpt2c_compiled(i)
            if gpt2c_preferred(gpt2c_compiled(i)):
                fastest = gpt2c_compiled(i)
        i += 1
    if isa is None:
        return fastest
    problem = "this CPU does not support" if isa in compiled else "this build lacks"
    raise UnsupportedISAError(f"{origin} is {isa!r}, which {problem}; compiled in: {', '.join(compiled)}; "
                              f"usable here: {', '.join(isas())}")


def aligned_empty(shape):
    """An uninitialised float32 array whose data starts on a cache line (64 bytes)."""
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    return aligned_bytes(4 * size).view(np.float32).reshape(shape)


cdef aligned_bytes(size):
    raw = np.empty(size + 64, np.uint8)
    cdef ptrdiff_t start = -<ptrdiff_t>memory_of(raw) % 64
    return raw[start:start + size]


cdef void *memory_of(array) except? NULL:
    """The address of a C-contiguous array's data. The caller keeps the array as long as C uses the pointer."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS)
    cdef void *found = view.buf
    PyBuffer_Release(&view)
    return found


def mask_bits(masks):
    """``masks``, bool [n, n_vocab], in the form that ``score`` takes: bits in words of 16, the first the lowest."""
    packed = np.packbits(masks, axis=1, bitorder="little")
    return np.pad(packed, ((0, 0), (0, packed.shape[1] % 2))).view("<u2").astype(np.uint16, copy=False)


# ---- the C core, for other modules ----


cdef struct PackWork:
    const gpt2c_dense *dense
    void *panels
    const float *source
    ptrdiff_t ld
    bint transposed


cdef void pack_range(void *work, ptrdiff_t begin, ptrdiff_t end, int thread) noexcept nogil:
    cdef PackWork *w = <PackWork *>work
    gpt2c_pack(w.dense, w.panels, w.source, w.ld, w.transposed, begin, end)


cdef void pack_panels(const gpt2c_dense *dense, void *panels, const float *source, ptrdiff_t ld, bint transposed,
                      int threads) noexcept nogil:
    cdef PackWork work = PackWork(dense, panels, source, ld, transposed)
    parallel_for(threads, GPT2C_PANELS(dense.n_out), pack_range, &work)


cdef void unpack_column(const gpt2c_dense *dense, ptrdiff_t n, float *out) noexcept nogil:
    gpt2c_unpack(dense, n, out)


cdef ptrdiff_t panel_size(gpt2c_dtype dtype, ptrdiff_t n_in) noexcept nogil:
    return gpt2c_panel_size(dtype, n_in)


cdef ptrdiff_t keys_bytes(gpt2c_cache_dtype dtype, ptrdiff_t d_head) noexcept nogil:
    return gpt2c_keys_size(dtype, d_head)


cdef ptrdiff_t values_bytes(gpt2c_cache_dtype dtype, ptrdiff_t d_head) noexcept nogil:
    return gpt2c_values_size(dtype, d_head)


cdef void parallel_for(int threads, ptrdiff_t n, void (*body)(void *, ptrdiff_t, ptrdiff_t, int) noexcept nogil,
                       void *argument) noexcept nogil:
    gpt2c_parallel_for(threads, n, body, argument)


cdef void empty_phases(int threads, ptrdiff_t phases) noexcept nogil:
    gpt2c_empty_phases(threads, phases)


cdef ptrdiff_t scratch_size(const gpt2c_model *model, ptrdiff_t chunk, bint with_top) noexcept nogil:
    return gpt2c_scratch_size(model, chunk, with_top)


cdef ptrdiff_t key_blocks(const gpt2c_call *call) noexcept nogil:
    return gpt2c_key_blocks(call)


cdef ptrdiff_t plan_steps(const gpt2c_call *call, gpt2c_step *steps) noexcept nogil:
    return gpt2c_plan(call, steps)


cdef ptrdiff_t plan_qkv(const gpt2c_call *call, ptrdiff_t layer, ptrdiff_t rows, gpt2c_step *steps) noexcept nogil:
    return gpt2c_plan_qkv(call, layer, rows, steps)


cdef const gpt2c_dense *step_dense(const gpt2c_call *call, const gpt2c_step *step,
                                   const float **source) noexcept nogil:
    return gpt2c_step_dense(call, step, source)


cdef int run_steps(const gpt2c_call *call, const gpt2c_step *steps, ptrdiff_t n) noexcept nogil:
    return gpt2c_run(call, steps, n)
