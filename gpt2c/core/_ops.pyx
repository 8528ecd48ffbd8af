# cython: language_level=3
"""One thin, checked function per kernel, for tests and benchmarks.

Arrays are float32; matrices may have any distance between rows, but elements of a row are adjacent. ``isa`` is the
name of an instruction set in ``gpt2c.core._engine.isas()`` (None: the engine's default), ``threads`` splits the work;
neither changes a bit of any result. ``out`` may be given; otherwise a new array is returned.
"""

import numpy as np

from gpt2c.core._kernels import FUNCTIONS, aligned_empty, mask_bits

from libc.stdint cimport int32_t, uint16_t

from gpt2c.core._kernels cimport (
    GPT2C_ATTENTION_SCRATCH, GPT2C_ENCODED, GPT2C_KEY_BLOCK, GPT2C_LANES, GPT2C_LINEAR_SCRATCH, GPT2C_PAD,
    GPT2C_PANEL, GPT2C_PANELS, GPT2C_QUERIES, GPT2C_SHIFTED, GPT2C_SIGNED, GPT2C_TOP_SCRATCH, GPT2C_WIDE,
    cache_dtype_of, dtype_of, find_kernels, gpt2c_cache_dtype, gpt2c_dense, gpt2c_epilogue, gpt2c_function,
    gpt2c_inputs, gpt2c_kernels, gpt2c_keys, gpt2c_norm, keys_bytes, memory_of, pack_panels, panel_size,
    parallel_for, threads_now, unpack_column, values_bytes,
)


cdef int check(bint fits, message) except -1:
    if not fits:
        raise ValueError(message)
    return 0


cdef ptrdiff_t row_distance(array, name) except -1:
    """Floats from one row to the next of a matrix whose rows are contiguous."""
    check(array.dtype == np.float32 and array.ndim == 2, f"{name} must be a float32 matrix")
    check(array.shape[1] <= 1 or array.strides[1] == 4, f"elements of a row of {name} must be adjacent")
    check(array.strides[0] >= 0 and array.strides[0] % 4 == 0, f"rows of {name} must be in ascending order")
    return array.strides[0] // 4


cdef float *address(array) except? NULL:
    return <float *><size_t>array.ctypes.data


cdef dict INPUTS = {"signed": GPT2C_SIGNED, "wide": GPT2C_WIDE, "shifted": GPT2C_SHIFTED}


cdef gpt2c_function function_of(name) except *:
    check(name in FUNCTIONS, f"function is {name!r}; allowed: {', '.join(FUNCTIONS)}")
    return FUNCTIONS[name]


cdef int in_parallel(threads, ptrdiff_t n, void (*body)(void *, ptrdiff_t, ptrdiff_t, int) noexcept nogil,
                     void *work) except -1:
    cdef int team = threads_now(threads)
    with nogil:
        parallel_for(team, n, body, work)
    return 0


cdef fresh(out, shape):
    if out is None:
        return np.empty(shape, np.float32)
    check(out.shape == shape and out.flags.writeable, f"out must be writable, with shape {shape}")
    return out


# ---- elementwise ----

cdef struct ApplyWork:
    const gpt2c_kernels *kernels
    float *out
    const float *x
    gpt2c_function function


cdef void apply_range(void *work, ptrdiff_t begin, ptrdiff_t end, int thread) noexcept nogil:
    cdef ApplyWork *w = <ApplyWork *>work
    w.kernels.apply(w.out + begin, w.x + begin, end - begin, w.function)


def apply(str name, const float[::1] x, float[::1] out=None, *, isa=None, int threads=1):
    """``name`` (an activation, or "exp", "tanh", "erf", "sigmoid") of every element of the vector ``x``."""
    cdef gpt2c_function function = function_of(name)
    result = np.empty(x.shape[0], np.float32) if out is None else np.asarray(out)
    cdef float[::1] y = result
    check(y.shape[0] == x.shape[0], "out must be as long as x")
    if x.shape[0] == 0:
        return result
    cdef ApplyWork work = ApplyWork(find_kernels(isa), &y[0], &x[0], function)
    in_parallel(threads, x.shape[0], apply_range, &work)
    return result


# ---- LayerNorm ----

cdef struct NormWork:
    const gpt2c_kernels *kernels
    float *out
    const float *x
    ptrdiff_t ld_out, ld_x, n
    gpt2c_norm norm
    float epsilon


cdef void norm_range(void *work, ptrdiff_t begin, ptrdiff_t end, int thread) noexcept nogil:
    cdef NormWork *w = <NormWork *>work
    w.kernels.layer_norm(w.out + begin * w.ld_out, w.ld_out, w.x + begin * w.ld_x, w.ld_x, &w.norm, w.epsilon,
                         end - begin, w.n)


def layer_norm(x, const float[::1] gain, const float[::1] bias, float epsilon, out=None, *, isa=None, int threads=1):
    """LayerNorm of each row of ``x`` [rows, n]."""
    rows, n = x.shape
    check(n >= 1 and gain.shape[0] == n and bias.shape[0] == n,
          f"gain and bias need the {n} columns of x, at least one")
    out = fresh(out, (rows, n))
    cdef NormWork work
    work.kernels = find_kernels(isa)
    work.out, work.ld_out = address(out), row_distance(out, "out")
    work.x, work.ld_x = address(x), row_distance(x, "x")
    work.norm.gain, work.norm.bias = &gain[0], &bias[0]
    work.epsilon, work.n = epsilon, n
    in_parallel(threads, rows, norm_range, &work)
    return out


# ---- dense layer ----

cdef struct LinearWork:
    const gpt2c_kernels *kernels
    float *out
    const void *x
    gpt2c_dense dense
    gpt2c_epilogue epilogue
    float *scratch
    ptrdiff_t ld_out, ld_x, row0, rows, scratch_size


cdef void linear_range(void *work, ptrdiff_t begin, ptrdiff_t end, int thread) noexcept nogil:
    cdef LinearWork *w = <LinearWork *>work
    cdef gpt2c_epilogue here = w.epilogue
    if here.residual != NULL:
        here.residual += begin * GPT2C_PANEL
    w.kernels.linear(w.out + begin * GPT2C_PANEL, w.ld_out, w.x, w.ld_x, w.row0, &w.dense, &here, w.rows, begin, end,
                     w.scratch + thread * w.scratch_size)


def pack(weight, *, bint transposed=False, str dtype="float32", int threads=1):
    """Panels of ``weight`` [n_in, n_out] (transposed: [n_out, n_in]) in a number format.

    Returns
    -------
    array [n_out / 64 rounded up, …]
        float32: [n_in, 64] floats in each panel; other formats: the bytes of each panel (laid out in gpt2c.h).
    """
    cdef ptrdiff_t ld = row_distance(weight, "weight")
    cdef gpt2c_dense dense
    cdef ptrdiff_t size
    dense.n_in, dense.n_out = weight.shape[::-1] if transposed else weight.shape
    dense.dtype = dtype_of(dtype)
    count = GPT2C_PANELS(dense.n_out)
    size = panel_size(dense.dtype, dense.n_in)
    panels = aligned_empty((count, size // 4))
    pack_panels(&dense, address(panels), address(weight), ld, transposed, threads)
    return panels.reshape(count, dense.n_in, GPT2C_PANEL) if dtype == "float32" else panels.view(np.uint8)


cdef check_panels(panels, dtype, ptrdiff_t n_in, ptrdiff_t n_out):
    cdef ptrdiff_t size = panel_size(dtype_of(dtype), n_in)
    check(panels.flags.c_contiguous and panels.nbytes == GPT2C_PANELS(n_out) * size,
          f"panels must come from pack() of a weight of {n_in} inputs and {n_out} outputs, with dtype={dtype!r}")


def unpack(panels, ptrdiff_t n_in, ptrdiff_t n_out, str dtype="float32"):
    """The weight [n_in, n_out] that the panels encode."""
    check_panels(panels, dtype, n_in, n_out)
    cdef gpt2c_dense dense
    cdef float[:, ::1] rows = np.empty((n_out, n_in), np.float32)
    cdef ptrdiff_t n
    dense.panels, dense.n_in, dense.n_out, dense.dtype = address(panels), n_in, n_out, dtype_of(dtype)
    for n in range(n_out):
        unpack_column(&dense, n, &rows[n, 0])
    return np.ascontiguousarray(np.asarray(rows).T)


def encode(x, str dtype, *, inputs="signed", ptrdiff_t row0=0, isa=None):
    """The rows of ``x`` [rows, n] in the form that a dense layer of this dtype multiplies: bytes, flat.

    ``inputs`` are "signed", "wide" or "shifted" (gpt2c_inputs). The rows start at ``row0`` of a matrix.
    """
    rows, n = x.shape
    cdef const gpt2c_kernels *kernels = find_kernels(isa)
    cdef gpt2c_dense dense
    dense.dtype, dense.inputs, dense.n_in = dtype_of(dtype), <gpt2c_inputs><int>INPUTS[inputs], n
    check(dtype != "float32", "float32 is multiplied without encoding")
    out = aligned_empty((1, GPT2C_ENCODED(row0 + rows, n)))
    kernels.encode(&dense, address(out), row0, address(x), row_distance(x, "x"), rows, 0, n)
    return out.view(np.uint8)[0]


def linear(x, panels, ptrdiff_t n_out, const float[::1] bias=None, str function="identity", residual=None, out=None, *,
           str dtype="float32", inputs="signed", ptrdiff_t row0=0, n_in=None, isa=None, int threads=1):
    """``residual + function(x @ weight + bias)`` for rows of ``x`` [rows, n_in], with ``panels`` from ``pack``.

    A residual must have the shape of the result and the row distance of ``out``, and may be ``out`` itself. For dtypes
    other than float32 the rows of x are encoded first, unless ``x`` is the result of ``encode`` for as many rows of
    ``n_in`` columns as ``out`` has.
    """
    encoded = x.dtype == np.uint8
    check(not encoded or not (out is None or n_in is None or dtype == "float32"),
          "encoded rows need out, n_in and a dtype other than float32")
    rows, n_in = (len(out), n_in) if encoded else x.shape
    check_panels(panels, dtype, n_in, n_out)
    check(bias is None or bias.shape[0] == n_out, f"bias needs {n_out} elements")
    out = fresh(out, (rows, n_out))
    check(residual is None or (residual.shape == out.shape and residual.strides == out.strides),
          "residual must have the shape and strides of out")
    cdef LinearWork work
    work.kernels = find_kernels(isa)
    work.out, work.ld_out = address(out), row_distance(out, "out")
    work.row0, work.ld_x = 0, n_in if encoded else row_distance(x, "x")
    if dtype != "float32" and not encoded:
        x = encode(x, dtype, inputs=inputs, row0=row0, isa=isa)
        work.row0 = row0
    work.x = address(x)
    work.dense.panels, work.dense.n_in, work.dense.n_out = address(panels), n_in, n_out
    work.dense.dtype, work.dense.inputs = dtype_of(dtype), <gpt2c_inputs><int>INPUTS[inputs]
    work.dense.bias = &bias[0] if bias is not None else NULL
    work.epilogue.function, work.epilogue.residual = function_of(function), NULL
    if residual is not None:
        work.epilogue.residual = address(residual)
    scratch = np.empty(max(1, threads) * GPT2C_LINEAR_SCRATCH(max(1, rows)), np.float32)
    work.rows, work.scratch, work.scratch_size = rows, address(scratch), GPT2C_LINEAR_SCRATCH(max(1, rows))
    in_parallel(threads, panels.shape[0], linear_range, &work)
    return out


# ---- attention ----

cdef struct AttentionWork:
    const gpt2c_kernels *kernels
    float *out
    const float *q
    gpt2c_keys keys
    float scale
    float *scratch
    ptrdiff_t ld_out, ld_q, rows, tile, first, advance, d_head, scratch_size


cdef void attention_range(void *work, ptrdiff_t begin, ptrdiff_t end, int thread) noexcept nogil:
    cdef AttentionWork *w = <AttentionWork *>work
    cdef ptrdiff_t i, row, height
    for i in range(begin, end):
        row = i * w.tile
        height = min(w.tile, w.rows - row)
        w.kernels.attention(w.out + row * w.ld_out, w.ld_out, w.q + row * w.ld_q, w.ld_q, &w.keys, height,
                            w.first + row * w.advance, w.advance, w.d_head, w.scale,
                            w.scratch + thread * w.scratch_size)


def store(kind, group, dtype, ptrdiff_t lane, ptrdiff_t first, ptrdiff_t d_head, x, *, isa=None):
    """The rows of ``x`` [rows, n] as inputs from ``first`` on of "keys" or "values" from position ``lane`` on.

    ``group`` is uint8, the memory of 16 positions in a cache of ``dtype``.
    """
    rows, n = x.shape
    cdef gpt2c_cache_dtype number = cache_dtype_of(dtype)
    size = keys_bytes(number, d_head) if kind == "keys" else values_bytes(number, d_head)
    check(group.dtype == np.uint8 and group.shape == (size,) and group.flags.carray and lane >= 0 <= first and
          1 <= rows <= GPT2C_LANES - lane and 1 <= n <= min(GPT2C_PANEL, d_head - first),
          f"needed: {size} writable, contiguous uint8; 1 to {GPT2C_PANEL} inputs of 1 to {GPT2C_LANES} positions")
    store_kind = find_kernels(isa).store_keys if kind == "keys" else find_kernels(isa).store_values
    store_kind(memory_of(group), number, lane, first, d_head, address(x), row_distance(x, "x"), rows, n)


cdef lay_out(gpt2c_keys *to, k, v, dtype, beyond, ptrdiff_t shared, isa):
    """Keys and values of one head as a cache holds them; returns the arrays that must stay alive."""
    positions, d = k.shape
    cdef gpt2c_cache_dtype number = cache_dtype_of(dtype)
    n_groups = -(-positions // GPT2C_KEY_BLOCK) * (GPT2C_KEY_BLOCK // GPT2C_LANES)
    anything, made = np.array([beyond], "f2" if dtype == "float16" else "f4"), []
    anything = anything.view("u2")[1:] if dtype == "bfloat16" else anything  # its upper half
    for kind, x, size in ("keys", k, keys_bytes(number, d)), ("values", v, values_bytes(number, d)):
        empty = np.full(size // anything.itemsize, anything).view(np.uint8)
        groups = np.tile(empty, (n_groups, 1))
        for i in range(0, positions, GPT2C_LANES):
            for c in range(0, d, GPT2C_PANEL):
                some = x[i:i + GPT2C_LANES, c:c + GPT2C_PANEL]
                store(kind, groups[i // GPT2C_LANES], dtype, 0, c, d, some, isa=isa)
        made += [groups.copy(), groups[shared // GPT2C_LANES:].copy()]
        made[-2][shared // GPT2C_LANES:] = empty
    to.dtype, to.next, to.shared, to.k0, to.k = number, NULL, shared, memory_of(made[0]), memory_of(made[1])
    to.v0, to.v = memory_of(made[2]), memory_of(made[3])
    return made


def attention(q, k, v, float scale, out=None, *, ptrdiff_t tile=GPT2C_QUERIES, float beyond=float("nan"),
              ptrdiff_t shared=0, bint one_position=False, dtype="float32", isa=None, int threads=1, int repeats=1):
    """Causal attention of one head: the rows of ``q`` [rows, d] are the last queries over ``k``, ``v`` [positions, d].

    The first query is at position ``positions - rows``; or all of them are at the last one, as those of several heads
    that share keys. ``tile`` (1 to 24) queries are handled together, ``beyond`` is the content of unwritten positions
    of the cache, which is of ``dtype``; ``shared`` positions (a multiple of 16 before the first query) are in another
    cache. Repeated ``repeats`` times, to be timed without laying out the keys.
    """
    (rows, d), positions = q.shape, k.shape[0]
    check(d >= 1 and k.shape == v.shape and k.shape[1] == d, "q, k and v need the same number of columns, at least one")
    first = positions - 1 if one_position else positions - rows
    check(first >= 0, "there must be at least as many keys as queries")
    check(1 <= tile <= GPT2C_QUERIES, f"tile is {tile}; allowed: 1 to {GPT2C_QUERIES}")
    check(0 <= shared <= first and shared % GPT2C_LANES == 0,
          f"shared is {shared}; allowed: multiples of {GPT2C_LANES} up to {first}, the position of the first query")
    out = fresh(out, (rows, d))
    cdef AttentionWork work
    work.kernels, work.out, work.ld_out = find_kernels(isa), address(out), row_distance(out, "out")
    work.q, work.ld_q, work.advance = address(q), row_distance(q, "q"), not one_position
    _alive = lay_out(&work.keys, k, v, dtype, beyond, shared, isa)
    work.rows, work.tile, work.first, work.d_head, work.scale = rows, tile, first, d, scale
    scratch = np.empty(max(1, threads) * GPT2C_ATTENTION_SCRATCH(GPT2C_PAD(d)), np.float32)
    work.scratch, work.scratch_size = address(scratch), GPT2C_ATTENTION_SCRATCH(GPT2C_PAD(d))
    for _ in range(repeats):
        in_parallel(threads, (rows + tile - 1) // tile, attention_range, &work)
    return out


def attention_scores(q, k, float scale, *, float beyond=float("nan"), ptrdiff_t shared=0, dtype="float32",
                     isa=None):
    """Scores of the queries ``q`` [positions, d] with the keys ``k`` [positions, d], -inf for later ones."""
    positions, d = q.shape
    check(q.shape == k.shape and d >= 1, "q and k need the same shape, and at least one column")
    row_distance(q, "q")
    out = np.empty((positions, positions), np.float32)
    scratch = np.empty(GPT2C_ATTENTION_SCRATCH(GPT2C_PAD(d)), np.float32)
    cdef gpt2c_keys keys
    cdef ptrdiff_t i, n = positions, d_head = d
    _alive = lay_out(&keys, k, k, dtype, beyond, shared, isa)
    cdef const gpt2c_kernels *kernels = find_kernels(isa)
    for i in range(n):
        kernels.attention_scores(address(out[i]), address(q[i:i + 1]), &keys, i, n, d_head, scale, address(scratch))
    return out


def softmax(const float[::1] x, *, isa=None):
    """exp(x - maximum) / sum."""
    out = np.empty(x.shape[0], np.float32)
    check(len(out) >= 1, "at least one number is needed")
    find_kernels(isa).softmax(address(out), &x[0], x.shape[0])
    return out


def attention_values(pattern, v, *, float beyond=float("nan"), ptrdiff_t shared=0, dtype="float32", isa=None):
    """The values ``v`` [positions, d] weighted by each row of ``pattern`` [rows, positions], summed: [rows, d]."""
    (rows, positions), d = pattern.shape, v.shape[1]
    row_distance(pattern, "pattern")
    check(v.shape[0] == positions and d >= 1, "pattern needs a column for each row of v")
    out = np.empty((rows, d), np.float32)
    scratch = np.empty(GPT2C_ATTENTION_SCRATCH(GPT2C_PAD(d)), np.float32)
    cdef gpt2c_keys keys
    cdef ptrdiff_t n = positions, d_head = d
    _alive = lay_out(&keys, v, v, dtype, beyond, shared, isa)
    cdef const gpt2c_kernels *kernels = find_kernels(isa)
    for i in range(rows):
        kernels.attention_values(address(out[i]), address(pattern[i:i + 1]), &keys, n, d_head, address(scratch))
    return out


# ---- rows of logits (to draw from one: gpt2c.core._engine.sample) ----

def log_sum(const float[::1] logits, float threshold, *, isa=None):
    """(maximum, sum of exp(l - maximum), the same times (l - maximum), variance, number above threshold)."""
    check(logits.shape[0] >= 1, "at least one logit is needed")
    cdef float maximum
    cdef double total, moment, variance
    greater = find_kernels(isa).log_sum(&logits[0], logits.shape[0], threshold, &maximum, &total, &moment,
                                        &variance)
    return maximum, total, moment, variance, greater


def subset_sum(const float[::1] logits, mask, *, isa=None):
    """(maximum, sum of exp(l - maximum)) of the logits that ``mask``, bool [n], selects."""
    check(logits.shape[0] >= 1 and np.shape(mask) == (logits.shape[0],), "a mask as long as the logits is needed")
    cdef const uint16_t[:, ::1] bits = mask_bits(np.asarray(mask, bool)[None])
    cdef float maximum
    cdef double total
    find_kernels(isa).subset_sum(&logits[0], logits.shape[0], &bits[0, 0], &maximum, &total)
    return maximum, total


def count_greater(const float[::1] logits, float threshold, *, isa=None):
    """The number of logits above ``threshold``."""
    check(logits.shape[0] >= 1, "at least one logit is needed")
    return find_kernels(isa).count_greater(&logits[0], logits.shape[0], threshold)


def top(const float[::1] logits, ptrdiff_t k, *, isa=None):
    """(ids, values) of the ``k`` greatest logits, the lowest ids among equals; ids ascend."""
    check(1 <= k <= logits.shape[0], f"k is {k}; allowed: 1 to {logits.shape[0]}")
    check(np.max(logits) < np.inf, "the logits must hold neither NaN nor +inf")
    cdef int32_t[::1] ids = np.empty(k, np.int32)
    cdef float[::1] value = np.empty(k, np.float32), scratch = np.empty(GPT2C_TOP_SCRATCH(logits.shape[0]), np.float32)
    find_kernels(isa).top(&ids[0], &value[0], &logits[0], logits.shape[0], k, &scratch[0])
    return np.asarray(ids), np.asarray(value)
