# cython: language_level=3
"""The compiled engine: weights, caches, and one call that runs the model over the rows of any mix of sequences.

The only door between Python and the C core. Python owns every buffer; one call releases the GIL once (back end
``native``) and serves signals while it runs. Results of the native back end depend on the ids and the weights alone:
not on threads, chunks, the other sequences of a call, reuse of a cache, or the instruction set.
"""

import math
import os

import numpy as np

from gpt2c.errors import CacheInUseError, CheckpointError, ContextLengthError, UnsupportedISAError

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport log

NUMERICS_VERSION = GPT2C_NUMERICS_VERSION
OWN_BFLOAT16 = ("avx512bf16", "amx")  # instruction sets that round sums of bfloat16 products in their own way
TEAM = gpt2c_team_kind().decode()
BACKENDS = ("native", "blas")
DTYPES = ("float32", "bfloat16", "int8", "int4")
CACHE_DTYPES = ("float32", "float16")

# Where an observer can stop a pass, in the order of gpt2c_place, and the buffer that it is shown there.
PLACES = {"embed": "x", "pos_embed": "branch", "resid_pre": "x", "ln1": "norm", "qkv": "qkv", "attn_scores": "scores",
          "pattern": "pattern", "z": "mixed", "attn_out": "branch", "resid_mid": "x", "ln2": "norm", "pre": "pre",
          "post": "post", "mlp_out": "branch", "resid_post": "x", "ln_final": "norm"}
cdef list PLACE_NAMES = list(PLACES)
assert len(PLACES) == GPT2C_N_PLACES
APART, SEE_PATTERN, CHANGE_PATTERN = GPT2C_APART, GPT2C_SEE_PATTERN, GPT2C_CHANGE_PATTERN

cdef int SCORE_BLOCK = 64  # rows of logits that exist at a time while scoring

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

DTYPE_NUMBERS = {"float32": GPT2C_FLOAT32, "bfloat16": GPT2C_BFLOAT16, "int8": GPT2C_INT8, "int4": GPT2C_INT4}

# libgomp hangs when a forked child enters a region after its parent has used a team: such a child works on one thread.
cdef bint team_used = False
cdef bint one_thread_only = False


def _after_fork_in_child():
    global one_thread_only
    one_thread_only = team_used and TEAM == "openmp"


os.register_at_fork(after_in_child=_after_fork_in_child)


cdef int team_size(int threads) noexcept nogil:
    """How many of these threads a region may really use here; remembers that there was a team."""
    global team_used
    team_used = team_used or threads > 1
    return 1 if one_thread_only else threads


cdef int threads_now(threads) except -1:
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= 1024:
        raise ValueError(f"threads is {threads!r}; allowed: a whole number from 1 to 1024")
    return team_size(threads)


# ---- instruction sets ----


cdef dict probed = {}  # asking the CPU takes a hundred microseconds on a virtual machine


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

    That is the last of ``isas()``, but for "avx512bf16" on Intel processors, whose instruction for bfloat16 is slower
    than two multiply-adds.
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
    problem = "this CPU does not support" if isa in compiled else "this build does not have"
    raise UnsupportedISAError(f"{origin} is {isa!r}, which {problem}; compiled in: {', '.join(compiled)}; "
                              f"usable here: {', '.join(isas())}")


def aligned_empty(shape):
    """An uninitialised float32 array whose data starts on a cache line (64 bytes)."""
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    return aligned_bytes(4 * size).view(np.float32).reshape(shape)


cdef aligned_bytes(size):
    raw = np.empty(size + 64, np.uint8)
    cdef unsigned char[::1] view = raw
    start = -<ptrdiff_t>&view[0] % 64
    return raw[start:start + size]


cdef float *data_of(array) except? NULL:
    cdef float[::1] flat = array.reshape(-1)
    return &flat[0]


cdef void *bytes_of(array) except? NULL:
    cdef unsigned char[::1] flat = array
    return &flat[0]


cdef const float *floats(array) except? NULL:
    cdef const float[::1] flat = array.reshape(-1)
    return &flat[0]


# ---- what _ops.pyx shares, so that the C core exists once ----


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
    parallel_for(threads, (dense.n_out + GPT2C_PANEL - 1) // GPT2C_PANEL, pack_range, &work)


cdef void unpack_column(const gpt2c_dense *dense, ptrdiff_t n, float *out) noexcept nogil:
    gpt2c_unpack(dense, n, out)


cdef ptrdiff_t panel_size(gpt2c_dtype dtype, ptrdiff_t n_in) noexcept nogil:
    return gpt2c_panel_size(dtype, n_in)


cdef void parallel_for(int threads, ptrdiff_t n, void (*body)(void *, ptrdiff_t, ptrdiff_t, int) noexcept nogil,
                       void *argument) noexcept nogil:
    gpt2c_parallel_for(team_size(threads), n, body, argument)


cdef void empty_phases(int threads, ptrdiff_t phases) noexcept nogil:
    gpt2c_empty_phases(team_size(threads), phases)


include "_weights.pxi"
include "_call.pxi"


# ---- what Python calls ----


cdef wanted_rows(Call call, keep):
    """Indices of the last ``keep`` rows of every sequence (0: all)."""
    if keep == 0 or call.c.n_sequences == call.rows:
        return np.arange(call.rows, dtype=np.intp)
    starts = np.asarray(<const ptrdiff_t[:call.c.n_sequences + 1]>call.c.row_start).tolist()
    return np.concatenate([np.arange(max(first, end - keep), end, dtype=np.intp)
                           for first, end in zip(starts[:-1], starts[1:])])


def forward(Weights weights, sequences, *, keep=0, threads=1, observer=None, start=None, both_ways=False):
    """Logits of the rows of several sequences, all in one call.

    Parameters
    ----------
    weights : Weights
    sequences : list of (KVCache, ids)
        ``ids``: int32, one dimension, at least one. They follow what the cache holds, and the cache grows by them.
        Each cache may appear once.
    keep : int
        How many last rows of each sequence are wanted; 0: all.
    threads : int
    observer : object, optional
        Is shown what the pass computes, and may change it. ``flags``, uint8 [n_layer + 1]: what is watched of each
        layer, and of what lies outside of layers: 0, or APART and besides SEE_PATTERN and CHANGE_PATTERN;
        ``wants(place, layer)``: whether it wants to see the place, one of PLACES; ``see(place, layer, array)``: called
        there with an array [rows of all sequences, width] that is the engine's own, or, for scores and pattern, a list
        of arrays [n_head, rows, keys], one per sequence; of LayerNorm and "attn_out" also with their input.
    start : (int, float32 array [rows, n_embd]), optional
        The residual stream of all rows before a layer (n_layer: after the last), from which the pass goes on. The
        caches keep their length.
    both_ways : bool
        Every row attends to all rows of its sequence. The caches must be empty, and stay so.

    Returns
    -------
    float32 array [rows wanted, n_vocab]

    Raises
    ------
    ContextLengthError, CacheInUseError, ValueError
        Nothing was computed and the caches are as they were; so they are after KeyboardInterrupt.
    """
    if isinstance(keep, bool) or not isinstance(keep, (int, np.integer)) or keep < 0:
        raise ValueError(f"keep is {keep!r}; allowed: 0 (all rows) or a positive whole number")
    cdef Call call = Call(weights, sequences, threads, False, observer, start, both_ways)
    rows = wanted_rows(call, int(keep))
    cdef ptrdiff_t[::1] row_view = rows
    logits = np.empty((rows.shape[0], weights.config.n_vocab), np.float32)
    call.c.n_out, call.c.out_rows = rows.shape[0], &row_view[0]
    call.c.logits = data_of(logits)
    call.run()
    return logits


def mask_bits(masks):
    """What ``score`` takes for ``masks``, bool [n, n_vocab]: their bits in words of 16, the first the lowest."""
    packed = np.packbits(masks, axis=1, bitorder="little")
    return np.pad(packed, ((0, 0), (0, packed.shape[1] % 2))).view("<u2").astype(np.uint16, copy=False)


def score(Weights weights, sequences, wanted, *, top=0, n_text=None, masks=None, threads=1,
          start=None):
    """What the model holds of given next tokens, and of all of them, without a rows × n_vocab array.

    Parameters
    ----------
    weights, sequences, threads, start : as for ``forward``
    wanted : list of (rows, targets)
        One pair per sequence: indices of its ids, ascending, a row any number of times (or never), and for each the
        token that follows, or -1 for no token in particular. A row is computed once, however often it is named.
    top : int
        How many of the most probable next tokens are wanted.
    n_text : int or None
        The top is taken from the first ``n_text`` ids; None: from all.
    masks : uint16 array [n_masks, n_vocab / 16 rounded up], or None
        Subsets of the vocabulary, from ``mask_bits``.

    Returns
    -------
    logprobs : float32 array [n]
        Natural logarithms; NaN where there is no target. n is how many pairs are wanted of all sequences.
    ranks : int64 array [n]
        How many tokens have a strictly greater logit; 0 is the most probable.
    entropies : float32 array [n]
        Of the distribution that the token was drawn from, in nats.
    top_ids, top_logprobs : int32 and float32 arrays [n, top]
        The most probable first, equal ones by id. Where logits are not finite, ids may be -1.
    masses : float32 array [n, n_masks]
        Logarithm of the probability that the next token is one of the subset.
    """
    config = weights.config
    n_text = config.n_vocab if n_text is None else n_text
    if not 0 <= top <= n_text <= config.n_vocab:
        raise ValueError(f"top is {top} of {n_text} ids; allowed: 0 to n_text, and that up to {config.n_vocab}")
    cdef Call call = Call(weights, sequences, threads, top > 0, None, start)
    starts = np.asarray(<const ptrdiff_t[:call.c.n_sequences + 1]>call.c.row_start)
    if len(wanted) != len(sequences):
        raise ValueError(f"wanted has {len(wanted)} items; needed is one (rows, targets) for each of the "
                         f"{len(sequences)} sequences")
    parts = []
    for (some, these), begin, end in zip(wanted, starts[:-1], starts[1:]):
        some = np.asarray(some, np.intp) + begin
        if some.shape != these.shape or some.ndim != 1:
            raise ValueError(f"rows have the shape {some.shape}, targets {these.shape}; needed: a target for each row")
        if some.size and not (begin <= some[0] and some[-1] < end and (some[1:] >= some[:-1]).all()):
            raise ValueError(f"rows must ascend from 0 to {end - begin - 1}, the last of the sequence")
        parts.append(some)
    flat_rows = np.concatenate(parts)
    targets = np.concatenate([these for _, these in wanted], dtype=np.int32, casting="safe")
    cdef ptrdiff_t n = targets.shape[0], n_out
    if n == 0:
        raise ValueError("nothing is wanted of any row, so there is nothing to score")
    if targets.max() >= config.n_vocab or targets.min() < -1:
        raise ValueError(f"target ids from {targets.min()} to {targets.max()} are outside the vocabulary; "
                         f"allowed: 0 to {config.n_vocab - 1}, or -1 for none")
    if masks is None:
        masks = np.empty((0, (config.n_vocab + GPT2C_LANES - 1) // GPT2C_LANES), np.uint16)
    cdef const uint16_t[:, ::1] mask_view = masks
    if mask_view.shape[1] != (config.n_vocab + GPT2C_LANES - 1) // GPT2C_LANES:
        raise ValueError(f"masks have {mask_view.shape[1]} words each; mask_bits makes those of {config.n_vocab} ids")

    first = np.flatnonzero(np.diff(flat_rows, prepend=-1)).astype(np.intp, copy=False)  # of each row
    rows, ends = flat_rows[first], np.append(first, n)
    n_out = rows.shape[0]
    logits = aligned_empty((min(n_out, SCORE_BLOCK, GPT2C_CHUNK), config.n_vocab))
    target_logit, greater = np.empty(n, np.float32), np.empty(n, np.int64)
    maximum, total, moment = np.empty(n_out, np.float32), np.empty(n_out), np.empty(n_out)
    top_ids, top_logits = np.empty((n_out, top), np.int32), np.empty((n_out, top), np.float32)
    mask_maximum, mask_total = np.empty((n_out, len(masks)), np.float32), np.empty((n_out, len(masks)))
    cdef const ptrdiff_t[::1] row_view = rows, end_view = ends
    cdef const int32_t[::1] target_view = targets
    cdef int64_t[::1] greater_view = greater
    cdef double[::1] total_view = total, moment_view = moment
    cdef int32_t[:, ::1] top_view = top_ids
    cdef double[:, ::1] mask_total_view = mask_total
    call.c.n_out, call.c.out_rows = n_out, &row_view[0]
    call.c.target_start, call.c.targets = &end_view[0], &target_view[0]
    call.c.logits, call.c.score_block = data_of(logits), logits.shape[0]
    call.c.target_logit, call.c.greater = data_of(target_logit), &greater_view[0]
    call.c.maximum, call.c.total, call.c.moment = data_of(maximum), &total_view[0], &moment_view[0]
    call.c.top, call.c.n_text, call.c.n_masks = top, n_text, len(masks)
    if top:
        call.c.top_ids, call.c.top_logits = &top_view[0, 0], data_of(top_logits)
    if len(masks):
        call.c.masks, call.c.mask_maximum = &mask_view[0, 0], data_of(mask_maximum)
        call.c.mask_total = &mask_total_view[0, 0]
    call.run()

    log_total = np.log(total)
    entropies = (log_total - moment / total).astype(np.float32)
    order = np.argsort(-top_logits, axis=1, kind="stable")  # ids ascend
    top_ids, top_logits = np.take_along_axis(top_ids, order, 1), np.take_along_axis(top_logits, order, 1)
    with np.errstate(divide="ignore"):  # a subset without probability
        log_mask_total = np.log(mask_total)

    def logprob(logits, maximum, log_total):
        return ((logits.astype(np.float64) - maximum) - log_total).astype(np.float32)

    top_logprobs = logprob(top_logits, maximum[:, None], log_total[:, None])
    masses = ((mask_maximum.astype(np.float64) - maximum[:, None]) + (log_mask_total - log_total[:, None]))
    found = maximum, log_total, entropies, top_ids, top_logprobs, masses.astype(np.float32)
    if n_out < n:
        each = np.repeat(np.arange(n_out), np.diff(ends))
        found = tuple(array[each] for array in found)
    maximum, log_total, *others = found
    return logprob(target_logit, maximum, log_total), greater, *others


def log_sum_exp(const float[::1] logits not None):
    """The logarithm of the sum of exp(logits): log-probabilities are logits minus this number.

    Raises
    ------
    ValueError
        If it is not finite: the logits hold NaN or infinities.
    """
    cdef float maximum
    cdef double total, moment, result
    find_kernels(None).log_sum(&logits[0], logits.shape[0], 0, &maximum, &total, &moment)
    result = maximum + log(total)
    if not math.isfinite(result):
        raise ValueError("the logits hold NaN or infinities: no token can be chosen")
    return result


def top(const float[::1] values not None, Py_ssize_t n):
    """Indices of the ``n`` greatest, int32: the greatest first, equal ones in ascending order. None of -inf."""
    n = min(n, values.shape[0])
    cdef int32_t[::1] ids = np.empty(n, np.int32)
    cdef float[::1] greatest = np.empty(n, np.float32)
    cdef float[::1] scratch = np.empty(GPT2C_TOP_SCRATCH(values.shape[0]), np.float32)
    find_kernels(None).top(&ids[0], &greatest[0], &values[0], values.shape[0], n, &scratch[0])
    order = np.argsort(-np.asarray(greatest), kind="stable")
    order = order[:np.count_nonzero(np.asarray(ids) >= 0)]
    return np.asarray(ids)[order]


def sample(const float[::1] logits not None, const float[::1] processed=None, *, double temperature, Py_ssize_t top_k,
           double top_p, double min_p, uint64_t seed, uint64_t stream, uint64_t position, isa=None):
    """Draw one token from a row of logits. Options are those of gpt2c.generation.options, checked there.

    ``processed``, if given, is what the token is drawn from instead. The order is: temperature, top_k, top_p, min_p;
    then one random number keyed by (seed, stream, position). temperature 0 takes the greatest.

    Returns
    -------
    (token_id, logprob) : (int, float)
        The log-probability is that of ``logits``.

    Raises
    ------
    ValueError
        If no token can be chosen: all are forbidden (-inf), or there is NaN or +inf among them.
    """
    cdef const float[::1] row = logits if processed is None else processed
    cdef ptrdiff_t n = logits.shape[0], chosen = -1
    cdef gpt2c_sampling s
    cdef float maximum, other
    cdef double total, moment, sound = 0.0, unused
    if row.shape[0] != n:
        raise ValueError(f"processed has {row.shape[0]} logits, but there are {n}")
    s.temperature, s.top_p, s.min_p, s.top_k = temperature, top_p, min_p, top_k
    s.seed, s.stream, s.position = seed, stream, position
    cdef const gpt2c_kernels *kernels = find_kernels(isa)
    cdef ptrdiff_t n_work = 2 * n + 16
    cdef float[::1] work = np.empty(n_work + n, np.float32)  # few of its pages are touched; the ids lie at the end
    with nogil:
        kernels.log_sum(&logits[0], n, 0, &maximum, &total, &moment)
        if processed is not None:
            kernels.log_sum(&row[0], n, 0, &other, &sound, &unused)
        if total == total and sound == sound:  # else NaN or +inf is among them
            chosen = kernels.sample(&row[0], n, &s, &work[0], <int32_t *>&work[n_work])
    if chosen < 0:
        raise ValueError("no token can be chosen: every one is forbidden, or the logits hold NaN or infinities")
    return chosen, <double>logits[chosen] - maximum - log(total)
