# cython: language_level=3
"""The compiled engine: weights, caches, and one call that runs the model over the rows of any mix of sequences.

The only door between Python and the C core. Python owns every buffer; one call releases the GIL once (back end
``native``) and serves signals while it runs. Results of the native back end depend on the ids and the weights alone:
not on threads, chunks, the other sequences of a call, reuse of a cache, or the instruction set.
"""

import os

import numpy as np

from gpt2c.errors import CacheInUseError, CheckpointError, ContextLengthError, UnsupportedISAError

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport log

NUMERICS_VERSION = GPT2C_NUMERICS_VERSION
TEAM = gpt2c_team_kind().decode()
BACKENDS = ("native", "blas")

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

# libgomp hangs when a forked child enters a region after its parent has used a team: such a child works on one thread.
cdef bint team_used = False
cdef bint one_thread_only = False


def _after_fork_in_child():
    global one_thread_only
    one_thread_only = team_used and TEAM == "openmp"


os.register_at_fork(after_in_child=_after_fork_in_child)


cdef int threads_now(threads) except -1:
    global team_used
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= 1024:
        raise ValueError(f"threads is {threads!r}; allowed: a whole number from 1 to 1024")
    if one_thread_only:
        return 1
    if threads > 1:
        team_used = True
    return threads


# ---- instruction sets ----


def isas():
    """Names of the instruction sets that are compiled in and run on this CPU, from the plainest to the widest."""
    names = []
    cdef ptrdiff_t i = 0
    while gpt2c_compiled(i) != NULL:
        if gpt2c_supported(gpt2c_compiled(i)):
            names.append(gpt2c_compiled(i).name.decode())
        i += 1
    return names


def default_isa():
    """The instruction set used unless one is named: that of the environment variable GPT2C_ISA, else the widest."""
    return find_kernels(None).name.decode()


cdef const gpt2c_kernels *find_kernels(object isa) except NULL:
    usable = isas()
    origin = "isa"
    if isa is None:
        isa = os.environ.get("GPT2C_ISA") or usable[-1]
        origin = "GPT2C_ISA"
    cdef ptrdiff_t i = 0
    compiled = []
    while gpt2c_compiled(i) != NULL:
        name = gpt2c_compiled(i).name.decode()
        compiled.append(name)
        if name == isa:
            if name in usable:
                return gpt2c_compiled(i)
            raise UnsupportedISAError(f"{origin} is {isa!r}, which this CPU does not support; "
                                      f"usable here: {', '.join(usable)}")
        i += 1
    raise UnsupportedISAError(f"{origin} is {isa!r}, which this build does not have; "
                              f"compiled in: {', '.join(compiled)}; usable here: {', '.join(usable)}")


def aligned_empty(shape):
    """An uninitialised float32 array whose data starts on a cache line (64 bytes)."""
    size = int(np.prod(shape))
    raw = np.empty(size + 16, np.float32)
    start = (-raw.ctypes.data // 4) % 16
    return raw[start:start + size].reshape(shape)


cdef float *data_of(array) except? NULL:
    cdef float[::1] flat = array.reshape(-1)
    return &flat[0]


cdef const float *floats(array) except? NULL:
    cdef const float[::1] flat = array.reshape(-1)
    return &flat[0]


# ---- what _ops.pyx shares, so that the C core exists once ----


cdef void pack_panels(float *panels, const float *source, ptrdiff_t ld, bint transposed, ptrdiff_t n_in,
                      ptrdiff_t n_out) noexcept nogil:
    gpt2c_pack(panels, source, ld, transposed, n_in, n_out, 0, (n_out + GPT2C_PANEL - 1) // GPT2C_PANEL)


cdef void parallel_for(int threads, ptrdiff_t n, void (*body)(void *, ptrdiff_t, ptrdiff_t, int) noexcept nogil,
                       void *argument) noexcept nogil:
    gpt2c_parallel_for(threads, n, body, argument)


# ---- weights ----


cdef class Weights:
    """The weights of one model, packed for one back end and instruction set. Immutable; shared freely.

    Parameters
    ----------
    config : gpt2c.config.Config
    read : callable
        ``read(name)`` gives the tensor of that canonical name (see gpt2c.checkpoint.names) as a C-contiguous float32
        array. It is called once per tensor, and nothing it returned is kept where a packed copy takes its place.
    backend : {"native", "blas"}
        ``native``: gpt2c's own panels. ``blas``: NumPy's BLAS, outside the promise of bit-equal results.
    isa : str or None
        An instruction set out of ``isas()``; None takes GPT2C_ISA or the widest.

    Attributes
    ----------
    config, backend, isa : as given or chosen (a CPU without fused multiply-add hardware takes ``blas``)
    nbytes : int
        Bytes held.
    """

    cdef gpt2c_model model
    cdef gpt2c_layer *layers
    cdef const gpt2c_kernels *kernels
    cdef readonly object config
    cdef readonly str backend
    cdef readonly str isa
    cdef readonly Py_ssize_t nbytes
    cdef list arrays      # keeps alive what the pointers point to
    cdef dict matrices    # blas: (phase, layer) -> [n_in, n_out]
    cdef object __weakref__

    def __cinit__(self, config, read, *, backend="native", isa=None):
        self.layers = NULL
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; allowed: {', '.join(map(repr, BACKENDS))}")
        self.kernels = find_kernels(isa)
        self.isa = self.kernels.name.decode()
        if self.isa == "generic" and isa is None and not os.environ.get("GPT2C_ISA"):
            backend = "blas"  # exact emulation of fma is a proof, not a product
        self.backend = backend
        self.config = config
        self.arrays = []
        self.matrices = {}
        self.layers = <gpt2c_layer *>PyMem_Calloc(config.n_layer, sizeof(gpt2c_layer))
        if self.layers == NULL:
            raise MemoryError

        cdef gpt2c_model *m = &self.model
        m.n_layer, m.n_head, m.d_head = config.n_layer, config.n_head, config.head_dim
        m.n_embd, m.n_inner, m.n_ctx, m.n_vocab = config.n_embd, config.n_inner, config.n_ctx, config.n_vocab
        m.activation = FUNCTIONS[config.activation]
        m.epsilon = config.layer_norm_epsilon
        m.layers = self.layers

        cdef gpt2c_layer *layer
        cdef ptrdiff_t i
        for i in range(config.n_layer):
            layer = &self.layers[i]
            prefix = f"h.{i}."
            self.norm(&layer.ln_1, read, prefix + "ln_1")
            self.norm(&layer.ln_2, read, prefix + "ln_2")
            self.dense(&layer.c_attn, read, prefix + "attn.c_attn", (GPT2C_C_ATTN, i))
            self.dense(&layer.attn_proj, read, prefix + "attn.c_proj", (GPT2C_ATTN_PROJ, i))
            self.dense(&layer.c_fc, read, prefix + "mlp.c_fc", (GPT2C_C_FC, i))
            self.dense(&layer.mlp_proj, read, prefix + "mlp.c_proj", (GPT2C_MLP_PROJ, i))
            layer.attn_scale = config.attention_scale(i)
        self.norm(&m.ln_f, read, "ln_f")
        m.wpe = self.vector(read, "wpe.weight", (config.n_ctx, config.n_embd))

        head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
        matrix = self.checked(read, head, (config.n_vocab, config.n_embd))
        self.fill(&m.head, matrix, True, (GPT2C_HEAD, 0))
        m.wte_panel, m.wte_row, m.wte_col = GPT2C_PANEL * m.n_embd, m.n_embd, 1
        if not config.tie_word_embeddings:
            m.wte = self.vector(read, "wte.weight", (config.n_vocab, config.n_embd))
        elif self.backend == "blas":
            m.wte = floats(self.keep(matrix))
        else:
            m.wte = m.head.panels  # no second copy: an embedding is gathered from the panels of the head
            m.wte_row, m.wte_col = 1, GPT2C_PANEL

    def __dealloc__(self):
        PyMem_Free(self.layers)

    cdef keep(self, array):
        self.arrays.append(array)
        self.nbytes += array.nbytes
        return array

    cdef checked(self, read, name, shape):
        array = read(name)
        if array.dtype != np.float32 or not array.flags.c_contiguous or array.shape != shape:
            raise CheckpointError(f"tensor {name} is {array.dtype}{list(array.shape)}; "
                                  f"needed: a contiguous float32{list(shape)}")
        return array

    cdef const float *vector(self, read, name, shape) except NULL:
        return floats(self.keep(self.checked(read, name, shape)))

    cdef int norm(self, gpt2c_norm *norm, read, name) except -1:
        norm.gain = self.vector(read, name + ".weight", (self.config.n_embd,))
        norm.bias = self.vector(read, name + ".bias", (self.config.n_embd,))
        return 0

    cdef int dense(self, gpt2c_dense *dense, read, name, key) except -1:
        c = self.config
        shape = {
            GPT2C_C_ATTN: (c.n_embd, 3 * c.n_embd),
            GPT2C_ATTN_PROJ: (c.n_embd, c.n_embd),
            GPT2C_C_FC: (c.n_embd, c.n_inner),
            GPT2C_MLP_PROJ: (c.n_inner, c.n_embd),
        }[key[0]]
        self.fill(dense, self.checked(read, name + ".weight", shape), False, key)
        dense.bias = self.vector(read, name + ".bias", (shape[1],))
        return 0

    cdef int fill(self, gpt2c_dense *dense, matrix, bint transposed, key) except -1:
        rows, columns = matrix.shape
        dense.n_in, dense.n_out = (columns, rows) if transposed else (rows, columns)
        if self.backend == "blas":
            self.matrices[key] = matrix.T if transposed else matrix
            if not transposed:
                self.keep(matrix)
            return 0
        cdef ptrdiff_t panels = (dense.n_out + GPT2C_PANEL - 1) // GPT2C_PANEL, ld = columns
        packed = self.keep(aligned_empty((panels, dense.n_in, GPT2C_PANEL)))
        cdef const float *source = floats(matrix)
        cdef float *target = data_of(packed)
        with nogil:
            pack_panels(target, source, ld, transposed, dense.n_in, dense.n_out)
        packed.flags.writeable = False
        dense.panels = target
        return 0


# ---- cache ----


cdef class KVCache:
    """Keys and values of one sequence, so that no earlier token is ever computed again.

    ``len(cache)`` is the number of positions filled.

    Parameters
    ----------
    weights : Weights
        The model it belongs to; other models refuse it.
    n_ctx : int or None
        Positions it has room for, 1 to the model's n_ctx (the default). Memory is taken as positions are filled.

    Attributes
    ----------
    n_ctx : int
    nbytes : int
        Bytes set aside (2 * n_layer * n_embd * 4 per position, n_ctx rounded up to 128).
    """

    cdef readonly Weights weights
    cdef readonly Py_ssize_t n_ctx
    cdef gpt2c_cache c
    cdef Py_ssize_t length
    cdef object k, v      # [n_layer * n_head, capacity / 16, d_head, 16], [n_layer * n_head, capacity, d_pad]
    cdef object busy_in   # process id while a call uses it; a forked child starts with a free cache
    cdef object __weakref__

    def __cinit__(self, Weights weights not None, n_ctx=None):
        config = weights.config
        if n_ctx is None:
            n_ctx = config.n_ctx
        if isinstance(n_ctx, bool) or not isinstance(n_ctx, (int, np.integer)) or not 1 <= n_ctx <= config.n_ctx:
            raise ValueError(f"n_ctx of a cache is {n_ctx!r}; allowed: 1 to {config.n_ctx}, the positions of the model")
        cdef ptrdiff_t d_head = config.head_dim
        cdef ptrdiff_t d_pad = (d_head + GPT2C_LANES - 1) // GPT2C_LANES * GPT2C_LANES
        cdef ptrdiff_t capacity = (n_ctx + GPT2C_KEY_BLOCK - 1) // GPT2C_KEY_BLOCK * GPT2C_KEY_BLOCK
        heads = config.n_layer * config.n_head
        self.weights = weights
        self.n_ctx = n_ctx
        self.k = aligned_empty((heads, capacity // GPT2C_LANES, d_head * GPT2C_LANES))
        self.v = aligned_empty((heads, capacity, d_pad))
        self.c.k, self.c.v, self.c.capacity = data_of(self.k), data_of(self.v), capacity

    def __len__(self):
        return self.length

    def __repr__(self):
        return f"KVCache({self.length} of {self.n_ctx} positions)"

    @property
    def nbytes(self):
        return self.k.nbytes + self.v.nbytes

    cdef int take(self) except -1:
        if self.busy_in is not None and self.busy_in == os.getpid():
            raise CacheInUseError("this KVCache is in use by another call (or given twice to one call); "
                                  "give every sequence a cache of its own, e.g. cache.fork()")
        self.busy_in = os.getpid()
        return 0

    cdef void give_back(self):
        self.busy_in = None

    def truncate(self, n):
        """Forget all but the first ``n`` positions, 0 <= n <= len(cache)."""
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 0 <= n <= self.length:
            raise ValueError(f"truncate({n!r}); allowed: 0 to {self.length}, the positions filled")
        self.take()
        self.length = n
        self.give_back()

    def fork(self, n_ctx=None):
        """A copy that goes its own way from here on.

        Parameters
        ----------
        n_ctx : int or None
            Positions that the copy has room for, at least len(cache); None: as many as this one.
        """
        cdef KVCache copy = KVCache(self.weights, self.n_ctx if n_ctx is None else n_ctx)
        if copy.n_ctx < self.length:
            raise ValueError(f"fork(n_ctx={n_ctx!r}); allowed: {self.length} (the positions filled) or more")
        self.take()
        try:
            groups = (self.length + GPT2C_LANES - 1) // GPT2C_LANES
            copy.k[:, :groups] = self.k[:, :groups]
            copy.v[:, :self.length] = self.v[:, :self.length]
            copy.length = self.length
        finally:
            self.give_back()
        return copy


# ---- one call ----


cdef int poll_signals(void *errors) noexcept with gil:
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<list>errors).append(error)
        return 1
    return 0


cdef class Call:
    """The buffers and the C struct of one call; private to it."""

    cdef gpt2c_call c
    cdef Weights weights
    cdef list caches
    cdef list buffers  # keeps alive what the pointers point to
    cdef ptrdiff_t rows
    cdef bytearray steps
    cdef ptrdiff_t n_steps

    def __cinit__(self, Weights weights not None, sequences, threads):
        cdef gpt2c_model *m = &weights.model
        cdef KVCache cache
        cdef ptrdiff_t i, j, n = len(sequences), row = 0
        cdef const int32_t[::1] one
        if n == 0:
            raise ValueError("no sequences given; at least one (cache, ids) is needed")
        self.weights = weights
        self.caches = []
        self.buffers = []
        # NumPy's BLAS has threads of its own; a second team would fight them for the cores
        self.c.threads = 1 if weights.backend == "blas" else threads_now(threads)

        starts = np.empty(n + 1, np.intp)
        lengths = np.empty(n, np.intp)
        structs = bytearray(n * sizeof(gpt2c_cache))
        cdef ptrdiff_t[::1] start_view = starts, length_view = lengths
        cdef unsigned char[::1] struct_view = structs
        cdef gpt2c_cache *cache_structs = <gpt2c_cache *>&struct_view[0]
        parts = []
        for i in range(n):
            cache, ids = sequences[i]
            if cache is None:
                raise TypeError("a sequence needs a KVCache")
            if cache.weights is not weights:
                raise ValueError("this KVCache was made by another model; use model.new_cache() of this one")
            one = ids
            if one.shape[0] == 0:
                raise ValueError("no token ids given; at least one is needed")
            for j in range(one.shape[0]):
                if not 0 <= one[j] < m.n_vocab:
                    raise ValueError(f"token id {one[j]} is outside the vocabulary; allowed: 0 to {m.n_vocab - 1}")
            if cache.length + one.shape[0] > cache.n_ctx:
                raise ContextLengthError(
                    f"{cache.length} positions in the cache and {one.shape[0]} new tokens are more than the "
                    f"{cache.n_ctx} there is room for (the model has {m.n_ctx} positions); shorten the text")
            self.caches.append(cache)
            parts.append(ids)
            start_view[i] = row
            length_view[i] = cache.length
            cache_structs[i] = cache.c
            row += one.shape[0]
        start_view[n] = row
        self.rows = row
        all_ids = parts[0] if n == 1 else np.concatenate(parts)
        cdef const int32_t[::1] id_view = all_ids
        self.buffers += [starts, lengths, structs, all_ids]

        cdef gpt2c_call *c = &self.c
        c.model, c.kernels = m, weights.kernels
        c.dense_done = weights.backend == "blas"
        c.n_sequences, c.caches, c.lengths = n, cache_structs, &length_view[0]
        c.row_start, c.ids = &start_view[0], &id_view[0]

        cdef ptrdiff_t chunk = min(row, <ptrdiff_t>GPT2C_CHUNK)
        c.scratch_size = gpt2c_scratch_size(m, chunk)
        c.x = self.buffer(chunk * m.n_embd)
        c.norm = self.buffer(chunk * m.n_embd)
        c.mixed = self.buffer(chunk * m.n_embd)
        c.qkv = self.buffer(chunk * 3 * m.n_embd)
        c.hidden = self.buffer(chunk * m.n_inner)
        c.scratch = self.buffer(c.threads * c.scratch_size)
        if c.dense_done:
            c.sums = self.buffer(chunk * max(3 * m.n_embd, m.n_inner))

    cdef float *buffer(self, ptrdiff_t size) except NULL:
        array = aligned_empty(size)
        self.buffers.append(array)
        return data_of(array)

    cdef int run(self) except -1:
        """Run all steps; the caches grow only if every one was done."""
        cdef KVCache cache
        cdef ptrdiff_t i, taken = 0
        cdef gpt2c_call *c = &self.c
        cdef gpt2c_step *steps
        cdef unsigned char[::1] view
        cdef int stopped = 0
        errors = []
        c.poll, c.poll_argument = poll_signals, <void *>errors
        self.n_steps = gpt2c_plan(c, NULL)
        self.steps = bytearray(self.n_steps * sizeof(gpt2c_step))
        view = self.steps
        steps = <gpt2c_step *>&view[0]
        gpt2c_plan(c, steps)
        try:
            for i in range(len(self.caches)):
                (<KVCache>self.caches[i]).take()
                taken += 1
            if c.dense_done:
                for i in range(self.n_steps):
                    stopped = self.run_with_blas(&steps[i])
                    if stopped:
                        break
            else:
                with nogil:
                    stopped = gpt2c_run(c, steps, self.n_steps)
            if stopped:
                raise errors[0]
            for i in range(len(self.caches)):
                cache = self.caches[i]
                cache.length += c.row_start[i + 1] - c.row_start[i]
        finally:
            for i in range(taken):
                (<KVCache>self.caches[i]).give_back()
        return 0

    cdef int run_with_blas(self, const gpt2c_step *step) except -1:
        cdef const float *source
        cdef float *target = self.c.sums
        cdef const gpt2c_dense *dense = gpt2c_step_dense(&self.c, step, &source)
        cdef int stopped
        cdef const gpt2c_call *c = &self.c
        if dense != NULL:
            if step.phase == GPT2C_HEAD:
                target = c.logits if c.targets != NULL else c.logits + step.row0 * dense.n_out
            np.matmul(np.asarray(<float[:step.rows, :dense.n_in]>(<float *>source)),
                      self.weights.matrices[step.phase, step.layer],
                      out=np.asarray(<float[:step.rows, :dense.n_out]>target))
            PyErr_CheckSignals()
            if step.phase == GPT2C_HEAD:
                return 0
        with nogil:
            stopped = gpt2c_run(c, step, 1)
        return stopped


cdef wanted_rows(Call call, keep):
    """Indices of the last ``keep`` rows of every sequence (0: all)."""
    if keep == 0 or call.c.n_sequences == call.rows:
        return np.arange(call.rows, dtype=np.intp)
    starts = np.asarray(<const ptrdiff_t[:call.c.n_sequences + 1]>call.c.row_start)
    return np.concatenate([np.arange(max(first, end - keep), end, dtype=np.intp)
                           for first, end in zip(starts[:-1], starts[1:])])


def forward(Weights weights, sequences, *, keep=0, threads=1):
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
    cdef Call call = Call(weights, sequences, threads)
    rows = wanted_rows(call, keep)
    cdef ptrdiff_t[::1] row_view = rows
    logits = np.empty((rows.shape[0], weights.config.n_vocab), np.float32)
    call.c.n_out, call.c.out_rows = rows.shape[0], &row_view[0]
    call.c.logits = data_of(logits)
    call.run()
    return logits


def score(Weights weights, sequences, targets, *, threads=1):
    """Log-probability, rank and entropy of given next tokens, without a rows × n_vocab array.

    Parameters
    ----------
    weights, sequences, threads : as for ``forward``
    targets : list of int32 arrays
        One per sequence, as long as its ids: the token that follows each row, or -1 where none is wanted.

    Returns
    -------
    logprobs : float32 array [wanted]
        Natural logarithms.
    ranks : int64 array [wanted]
        How many tokens have a strictly greater logit; 0 is the most probable.
    entropies : float32 array [wanted]
        Of the distribution that the token was drawn from, in nats.
    """
    cdef Call call = Call(weights, sequences, threads)
    if len(targets) != len(sequences) or any(len(t) != len(s[1]) for t, s in zip(targets, sequences)):
        raise ValueError("targets must have the lengths of the ids: one target, or -1, for each token")
    flat = np.concatenate(targets).astype(np.int32, copy=False)
    rows = np.flatnonzero(flat >= 0).astype(np.intp, copy=False)
    wanted = np.ascontiguousarray(flat[rows])
    n = rows.shape[0]
    if n == 0:
        raise ValueError("no targets given: every entry is -1, so there is nothing to score")
    if wanted.max() >= weights.config.n_vocab:
        raise ValueError(f"target id {wanted.max()} is outside the vocabulary; "
                         f"allowed: 0 to {weights.config.n_vocab - 1}")
    cdef ptrdiff_t[::1] row_view = rows
    cdef const int32_t[::1] target_view = wanted
    logits = aligned_empty((min(n, SCORE_BLOCK, GPT2C_CHUNK), weights.config.n_vocab))
    target_logit, maximum = np.empty(n, np.float32), np.empty(n, np.float32)
    total, moment, greater = np.empty(n), np.empty(n), np.empty(n, np.int64)
    cdef double[::1] total_view = total, moment_view = moment
    cdef int64_t[::1] greater_view = greater
    call.c.n_out, call.c.out_rows, call.c.targets = n, &row_view[0], &target_view[0]
    call.c.logits, call.c.score_block = data_of(logits), logits.shape[0]
    call.c.target_logit, call.c.maximum = data_of(target_logit), data_of(maximum)
    call.c.total, call.c.moment, call.c.greater = &total_view[0], &moment_view[0], &greater_view[0]
    call.run()
    log_total = np.log(total)
    logprobs = (target_logit.astype(np.float64) - maximum) - log_total
    return logprobs.astype(np.float32), greater, (log_total - moment / total).astype(np.float32)


def sample(const float[::1] logits not None, *, double temperature, Py_ssize_t top_k, double top_p, double min_p,
           double repetition_penalty, const int32_t[::1] seen not None, const int32_t[::1] bias_ids not None,
           const float[::1] bias_values not None, const int32_t[::1] forbidden not None, uint64_t seed, uint64_t stream,
           uint64_t position, isa=None):
    """Draw one token from a row of logits. Options are those of gpt2c.sampling, checked there.

    The order is: repetition penalty on ``seen`` ids, ``logit_bias`` added, ``forbidden`` ids removed, temperature,
    top_k, top_p, min_p; then one random number keyed by (seed, stream, position). temperature 0 takes the greatest.

    Returns
    -------
    (token_id, logprob) : (int, float)
        The log-probability is that of the raw logits.

    Raises
    ------
    ValueError
        If no token can be chosen: all are forbidden, or the logits hold NaN or infinities.
    """
    cdef ptrdiff_t n = logits.shape[0], i, chosen
    cdef gpt2c_sampling s
    cdef float maximum
    cdef double total, moment
    cdef const int32_t[::1] some
    for some in (seen, bias_ids, forbidden):
        for i in range(some.shape[0]):
            if not 0 <= some[i] < n:
                raise ValueError(f"token id {some[i]} is outside the vocabulary; allowed: 0 to {n - 1}")
    if bias_ids.shape[0] != bias_values.shape[0]:
        raise ValueError("bias_ids and bias_values differ in length")
    s.temperature, s.top_p, s.min_p, s.repetition_penalty = temperature, top_p, min_p, repetition_penalty
    s.top_k = top_k
    s.n_seen, s.n_bias, s.n_forbidden = seen.shape[0], bias_ids.shape[0], forbidden.shape[0]
    s.seen = &seen[0] if s.n_seen else NULL
    s.bias_ids = &bias_ids[0] if s.n_bias else NULL
    s.bias_values = &bias_values[0] if s.n_bias else NULL
    s.forbidden = &forbidden[0] if s.n_forbidden else NULL
    s.seed, s.stream, s.position = seed, stream, position
    cdef const gpt2c_kernels *kernels = find_kernels(isa)
    cdef float[::1] work = np.empty(n, np.float32)
    cdef int32_t[::1] ids = np.empty(n, np.int32)
    with nogil:
        chosen = kernels.sample(&logits[0], n, &s, &work[0], &ids[0])
        if chosen >= 0:
            kernels.log_sum(&logits[0], n, logits[chosen], &maximum, &total, &moment)
    if chosen < 0:
        raise ValueError("no token can be chosen: every one is forbidden, or the logits hold NaN or infinities")
    return chosen, <double>logits[chosen] - maximum - log(total)


def team_size(threads):
    """How many threads a call gets that asks for ``threads``."""
    return gpt2c_team_size(threads_now(threads))
