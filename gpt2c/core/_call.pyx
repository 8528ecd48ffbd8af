# cython: language_level=3
"""One call of the engine: its buffers, and how it is run."""

from functools import partial

import numpy as np

from gpt2c.core._kernels import PLACE_TABLE, aligned_empty
from gpt2c.errors import CacheInUseError, ContextLengthError

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t

from gpt2c.core._cache cimport KVCache
from gpt2c.core._kernels cimport (
    GPT2C_AT_ATTN_IN, GPT2C_AT_ATTN_OUT, GPT2C_AT_CROSS_PATTERN, GPT2C_AT_LN_1, GPT2C_AT_LN_2, GPT2C_AT_LN_EMB,
    GPT2C_AT_LN_F, GPT2C_AT_PATTERN, GPT2C_AT_SCORES, GPT2C_CHUNK, GPT2C_EDIT_PATTERN, GPT2C_EMBED, GPT2C_ENCODED,
    GPT2C_HEAD, GPT2C_OBSERVE_PATTERN, GPT2C_PAD, GPT2C_PARTIAL, GPT2C_QKV_STEPS, GPT2C_STOP, GPT2C_UNFUSED,
    gpt2c_cache, gpt2c_dense, gpt2c_model, gpt2c_step, gpt2c_workspace, key_blocks, memory_of, plan_qkv, plan_steps,
    rows_at, run_steps, scratch_size, step_dense, threads_now, warn_of_shortage,
)

UNFUSED, OBSERVE_PATTERN, EDIT_PATTERN = GPT2C_UNFUSED, GPT2C_OBSERVE_PATTERN, GPT2C_EDIT_PATTERN


cdef int poll_signals(void *pointer) noexcept with gil:
    call = <Call>pointer
    try:
        PyErr_CheckSignals()
        if call.deadline is not None:
            call.deadline.check()
    except BaseException as error:
        call.errors.append(error)
        return 1
    return 0


cdef class Call:
    """The buffers and the C struct of one call; private to it."""

    def __cinit__(self, Weights weights not None, sequences, threads, bint with_top=False, observer=None, start=None,
                  bint bidirectional=False, deadline=None, bint encoded=False):
        if len(sequences) == 0:
            raise ValueError("no sequences given; at least one (cache, ids) is needed")
        weights.guarded()
        self.weights, self.deadline, self.c.batch.encoded = weights, deadline, encoded
        self.caches, self.owned, self.named, self.named_aside = [], [], {}, {}
        self.c.model, self.c.kernels = &weights.model, weights.kernels
        self.c.external_gemm = weights.backend == "blas"
        # NumPy's BLAS has threads of its own; a second team would compete with them for the cores
        self.c.threads = 1 if self.c.external_gemm else threads_now(threads)
        bidirectional = bidirectional or weights.config.is_bert
        self.add_sequences(sequences, bidirectional)
        if weights.config.add_cross_attention and not encoded:
            self.add_cross()
        whole = observer is not None or start is not None or bidirectional
        self.c.workspace.chunk = self.rows if whole else min(self.rows, <ptrdiff_t>GPT2C_CHUNK)
        self.turns = None if deadline is None else deadline.turns
        if self.turns is not None and not whole:
            self.c.workspace.chunk = min(self.c.workspace.chunk, <ptrdiff_t>deadline.turn_rows)
        self.allocate(with_top)
        if start is not None:
            self.start_at(start)
        if observer is not None:
            self.watch(observer)
        cdef gpt2c_workspace *w = &self.c.workspace
        cdef const gpt2c_model *m = self.c.model
        w.key_blocks = key_blocks(&self.c)
        if w.key_blocks:
            w.partial = self.buffer(self.rows * m.n_head * w.key_blocks * GPT2C_PARTIAL(GPT2C_PAD(m.d_head)))

    # ---- buffers ----

    cdef void *own(self, array) except? NULL:
        """The address of the data of an array, which lives as long as the call."""
        self.owned.append(array)
        return memory_of(array)

    cdef float *buffer(self, ptrdiff_t size, name=None) except NULL:
        array = aligned_empty(size)
        if name is not None:
            self.named[name] = array
        return <float *>self.own(array)

    cdef shown(self, name):
        """A buffer as rows. The array owns its memory: an observer may keep it."""
        return self.named[name].reshape(self.c.workspace.chunk, -1)

    cdef int add_sequences(self, sequences, bint bidirectional) except -1:
        cdef KVCache cache
        cdef const gpt2c_model *m = self.c.model
        cdef ptrdiff_t i, n = len(sequences)
        structs = np.empty(n * sizeof(gpt2c_cache), np.uint8)
        cdef gpt2c_cache *cache_structs = <gpt2c_cache *>self.own(structs)
        starts, lengths, parts, types = [0], [], [], []
        for i in range(n):
            cache, ids, *rest = sequences[i]
            types.append(rest[0] if rest else None)
            if cache is None:
                raise TypeError("a sequence needs a KVCache")
            if cache.weights is not self.weights:
                raise ValueError("this KVCache was made by another model; use model.new_cache() of this one")
            if not isinstance(ids, np.ndarray) or ids.dtype != np.int32 or ids.ndim != 1:
                raise ValueError("token ids must be a one-dimensional int32 array")
            if ids.shape[0] == 0:
                raise ValueError("no token ids given; at least one is needed")
            if bidirectional and cache.length:
                raise ValueError("without a mask a text is computed as a whole: its cache must be empty")
            if cache.length + ids.shape[0] > cache.n_ctx:
                raise ContextLengthError(
                    f"{cache.length} positions in the cache and {ids.shape[0]} new tokens exceed its room for "
                    f"{cache.n_ctx} positions (the model has {m.n_ctx}); shorten the text")
            self.caches.append(cache)
            parts.append(np.asarray(ids))
            lengths.append(cache.length)
            starts.append(starts[i] + ids.shape[0])
            cache_structs[i] = cache.c
        self.row_start, self.lengths = np.array(starts, np.intp), np.array(lengths, np.intp)
        self.rows = starts[n]
        self.c.batch.n_sequences, self.c.batch.caches = n, cache_structs
        self.c.batch.lengths = <const ptrdiff_t *>self.own(self.lengths)
        self.c.batch.row_start = <const ptrdiff_t *>self.own(self.row_start)
        self.c.batch.bidirectional = bidirectional
        self.c.batch.ids = self.numbers(parts, m.n_vocab, "token id {} is outside the vocabulary")
        if any(each is not None for each in types):
            types = [np.zeros(len(ids), np.int32) if each is None else each for ids, each in zip(parts, types)]
            if [each.shape for each in types] != [ids.shape for ids in parts]:
                raise ValueError("every token needs one token type")
            self.c.batch.types = self.numbers(types, self.weights.config.n_types, "the model has no token type {}")
        return 0

    cdef const int32_t *numbers(self, parts, ptrdiff_t limit, problem) except NULL:
        """The numbers of all rows, each at least 0 and below the limit."""
        joined = np.concatenate(parts, dtype=np.int32)  # always a copy, as the caller may change the original meanwhile
        cdef const int32_t *found = <const int32_t *>self.own(joined)
        cdef ptrdiff_t i
        for i in range(self.rows):
            if not 0 <= found[i] < limit:
                raise ValueError(f"{problem.format(found[i])}; allowed: 0 to {limit - 1}")
        return found

    cdef int add_cross(self) except -1:
        """Set, for every sequence, the encoder output that it attends to."""
        cdef KVCache cache
        cdef ptrdiff_t i
        structs = np.empty(len(self.caches) * sizeof(gpt2c_cache), np.uint8)
        cdef gpt2c_cache *cross = <gpt2c_cache *>self.own(structs)
        for i, cache in enumerate(self.caches):
            if cache.cross is None or not cache.cross.length:
                raise ValueError("this model attends to the output of an encoder: pass that through cross_keys and "
                                 "give the cache the result, KVCache(weights, cross=...)")
            cross[i] = cache.cross.c
        self.cross_lengths = np.array([len(cache.cross) for cache in self.caches], np.intp)
        self.c.batch.cross, self.c.batch.cross_lengths = cross, <const ptrdiff_t *>self.own(self.cross_lengths)
        return 0

    cdef int allocate(self, bint with_top) except -1:
        """The workspace, except the parts that depend on everything else."""
        cdef const gpt2c_model *m = self.c.model
        cdef gpt2c_workspace *w = &self.c.workspace
        cdef ptrdiff_t n_qkv = m.n_embd + 2 * m.n_kv_head * m.d_head
        w.scratch_size = scratch_size(m, w.chunk, with_top)
        w.x = self.buffer(w.chunk * m.n_embd, "x")
        w.norm = self.buffer(w.chunk * m.n_embd, "norm")
        w.attended = self.buffer(w.chunk * m.n_embd, "attended")
        w.qkv = self.buffer(w.chunk * n_qkv, "qkv")
        w.hidden = self.buffer(GPT2C_ENCODED(w.chunk, m.n_inner))
        if self.weights.dtype != "float32":
            w.encoded = self.buffer(GPT2C_ENCODED(w.chunk, max(m.n_embd, m.n_inner)))
        w.scratch = self.buffer(self.c.threads * w.scratch_size)
        if self.c.external_gemm:
            w.gemm = self.buffer(w.chunk * max(n_qkv, m.n_inner))
        return 0

    cdef int start_at(self, start) except -1:
        layer, given = start
        if not 0 <= layer <= self.c.model.n_layer:
            raise ValueError(f"a pass cannot start at layer {layer}; allowed: 0 to {self.c.model.n_layer}")
        if given.shape != (self.rows, self.c.model.n_embd):
            raise ValueError(f"the given residual stream has the shape {given.shape}; "
                             f"needed: {(self.rows, self.c.model.n_embd)}")
        np.copyto(self.shown("x"), given)
        self.c.batch.started, self.c.batch.first_layer = 1, layer
        return 0

    cdef int watch(self, observer) except -1:
        cdef const gpt2c_model *m = self.c.model
        cdef ptrdiff_t chunk = self.c.workspace.chunk
        flags = np.array(observer.flags, np.uint8)  # a copy, as the caller may change it meanwhile
        if flags.shape != (m.n_layer + 1,):
            raise ValueError(f"an observer of {m.n_layer} layers needs {m.n_layer + 1} flags, not {flags.size}")
        self.observer = observer
        self.c.observer.flags = <const unsigned char *>self.own(flags)
        self.c.observer.branch = self.buffer(chunk * m.n_embd, "branch")
        self.c.observer.pre = self.buffer(chunk * m.n_inner, "pre")
        self.c.observer.post = self.buffer(chunk * m.n_inner, "post")
        if (flags & (GPT2C_OBSERVE_PATTERN | GPT2C_EDIT_PATTERN)).any():
            self.watch_patterns()
        return 0

    cdef int watch_patterns(self) except -1:
        cdef ptrdiff_t i, n = self.c.batch.n_sequences, n_head = self.c.model.n_head
        rows = np.diff(self.row_start)
        keys = rows + self.lengths
        starts = np.concatenate(([0], np.cumsum(n_head * rows * keys))).astype(np.intp, copy=False)
        changed = np.zeros(n_head * self.rows, np.uint8)
        self.c.observer.pattern_start = <const ptrdiff_t *>self.own(starts)
        self.c.observer.changed = <unsigned char *>self.own(changed)
        self.c.observer.scores = self.buffer(starts[-1], "scores")
        self.c.observer.pattern = self.buffer(starts[-1], "pattern")
        self.views = [[self.named[name][starts[i]:starts[i + 1]].reshape(n_head, rows[i], keys[i]) for i in range(n)]
                      for name in ("scores", "pattern")]
        ends = n_head * self.row_start
        self.views.append([changed[ends[i]:ends[i + 1]].reshape(n_head, rows[i]) for i in range(n)])
        if self.c.model.cross:
            keys = self.cross_lengths
            starts = np.concatenate(([0], np.cumsum(n_head * rows * keys))).astype(np.intp, copy=False)
            self.c.observer.cross_start = <const ptrdiff_t *>self.own(starts)
            self.c.observer.cross = self.buffer(starts[-1], "cross")
            self.views.append([self.named["cross"][starts[i]:starts[i + 1]].reshape(n_head, rows[i], keys[i])
                               for i in range(n)])
        return 0

    # ---- running it ----

    cdef ptrdiff_t plan(self, bytearray steps) except -1:
        """Write the steps, without stops that have nothing to show; returns their number."""
        cdef ptrdiff_t i, n, n_steps = plan_steps(&self.c, NULL)
        steps.extend(bytes(n_steps * sizeof(gpt2c_step)))
        cdef gpt2c_step *s = <gpt2c_step *>memory_of(steps)
        plan_steps(&self.c, s)
        if self.observer is None:
            return n_steps
        n = 0
        for i in range(n_steps):
            if s[i].phase != GPT2C_STOP or self.observer.wants(PLACE_TABLE[s[i].detail][0], s[i].layer):
                s[n] = s[i]
                n += 1
        return n

    cdef int run(self) except -1:
        """Run all steps; the caches grow only if all were completed."""
        cdef KVCache cache
        cdef ptrdiff_t i, n, acquired = 0
        self.errors = []
        self.c.poll, self.c.poll_argument = poll_signals, <void *>self
        if self.deadline is not None:
            self.deadline.begin()
            self.deadline.check()
        steps = bytearray()
        n = self.plan(steps)
        try:
            for cache in self.caches:
                cache.acquire_to_change()
                acquired += 1
                if cache.length != self.lengths[acquired - 1]:  # another call intervened since the checks
                    raise CacheInUseError("this KVCache was changed by another call while this one started; "
                                          "give every sequence its own cache, e.g. cache.fork()")
            if self.run_in_turns(<const gpt2c_step *>memory_of(steps), n):
                raise self.errors[0]
            warn_of_shortage()
            # otherwise the caches hold nothing that later tokens can use
            if self.c.batch.encoded or not (self.c.batch.started or self.c.batch.bidirectional):
                for i, cache in enumerate(self.caches):
                    cache.length += self.c.batch.row_start[i + 1] - self.c.batch.row_start[i]
        finally:
            for cache in self.caches[:acquired]:
                cache.release()
        return 0

    cdef int run_in_turns(self, const gpt2c_step *steps, ptrdiff_t n_steps) except -1:
        """Run all steps, one chunk per turn if callers take turns. Returns whether the call was abandoned."""
        cdef ptrdiff_t i = 0, n
        cdef int stopped = 0
        if self.turns is None:
            return self.run_all(steps, n_steps)
        self.turns.take()
        try:
            while i < n_steps and not stopped:
                if i:
                    self.turns.pass_on()
                    self.deadline.check()
                n = 1
                while i + n < n_steps and steps[i + n].phase != GPT2C_EMBED:
                    n += 1
                stopped = self.run_all(steps + i, n)
                i += n
        finally:
            self.turns.give()
        return stopped

    cdef int run_all(self, const gpt2c_step *steps, ptrdiff_t n_steps) except -1:
        """Run all steps, one region for those between two stops. Returns whether the call was abandoned."""
        cdef ptrdiff_t i = 0, n
        cdef int stopped = 0
        while i < n_steps and not stopped:
            n = 1
            if steps[i].phase == GPT2C_STOP:
                self.stop(&steps[i])
            elif self.c.external_gemm:
                stopped = self.run_with_blas(&steps[i])
            else:
                while i + n < n_steps and steps[i + n].phase != GPT2C_STOP:
                    n += 1
                with nogil:
                    stopped = run_steps(&self.c, steps + i, n)
            i += n
        return stopped

    cdef int run_with_blas(self, const gpt2c_step *step) except -1:
        cdef const float *source
        cdef float *target = self.c.workspace.gemm
        cdef const gpt2c_dense *dense = step_dense(&self.c, step, &source)
        cdef int stopped
        if dense != NULL:
            if step.phase == GPT2C_HEAD:
                target = self.c.output.logits
                if self.c.output.target_start == NULL:
                    target += step.row0 * dense.n_out
            np.matmul(rows_at(<float *>source, step.rows, dense.n_in), self.weights.matrices[step.phase, step.layer],
                      out=rows_at(target, step.rows, dense.n_out))
            if poll_signals(<void *>self):
                return 1
            if step.phase == GPT2C_HEAD:
                if dense.bias != NULL:
                    logits = rows_at(target, step.rows, dense.n_out)
                    logits += rows_at(<float *>dense.bias, 1, dense.n_out)
                return 0
        with nogil:
            stopped = run_steps(&self.c, step, 1)
        return stopped

    cdef int stop(self, const gpt2c_step *step) except -1:
        """Show the observer the results so far, as arrays that it may change."""
        place, buffer = PLACE_TABLE[step.detail]
        if step.detail in (GPT2C_AT_SCORES, GPT2C_AT_PATTERN):
            return self.stop_at_pattern(step, place)
        if step.detail == GPT2C_AT_CROSS_PATTERN:
            self.observer.see(place, step.layer, list(self.views[3]))
            return 0
        array = self.shown(buffer)[:step.rows]
        if step.detail in (GPT2C_AT_LN_EMB, GPT2C_AT_LN_1, GPT2C_AT_LN_2):
            self.observer.see(place, step.layer, array, self.shown("x"))
        elif step.detail == GPT2C_AT_ATTN_OUT or (step.detail == GPT2C_AT_LN_F and self.c.model.transform.n_out):
            self.observer.see(place, step.layer, array, self.shown("attended")[:step.rows])
        elif step.detail == GPT2C_AT_LN_F:
            wanted = [self.c.output.rows[i] for i in range(self.c.output.n_rows)]
            self.observer.see(place, step.layer, array, self.shown("x")[wanted])
        elif step.detail == GPT2C_AT_ATTN_IN:
            self.observer.see(place, step.layer, array, partial(self.project, step.layer))
        else:
            self.observer.see(place, step.layer, array)
        return 0

    def project(self, ptrdiff_t layer, inputs, rows, heads, parts):
        """Queries (part 0), keys (1) and values (2) of heads that read something other than the residual stream.

        For each pair of ``rows`` and ``heads``, computes ``parts`` from inputs[row, head]: [rows, heads, n_embd].
        Returns an array [pairs, parts, d_head].
        """
        cdef ptrdiff_t begin, n
        cdef const gpt2c_model *m = self.c.model
        cdef gpt2c_workspace own = self.c.workspace
        found = np.empty((len(rows), len(parts), m.d_head), np.float32)
        first = np.array([0, m.n_head, m.n_head + m.n_kv_head])[parts]  # offsets among the heads in a row of qkv
        named, self.named = self.named, self.named_aside
        try:
            if self.named_aside:
                self.c.workspace = self.aside
            else:
                self.c.workspace.chunk = min(m.n_head * self.rows, <ptrdiff_t>GPT2C_CHUNK)
                self.allocate(False)
                self.aside = self.c.workspace
            for begin in range(0, len(rows), self.aside.chunk):
                some = slice(begin, begin + self.aside.chunk)
                n = len(rows[some])
                self.project_block(layer, inputs[rows[some], heads[some]])
                qkv = self.shown("qkv")[:n].reshape(n, -1, m.d_head)
                found[some] = qkv[np.arange(n)[:, None], first + heads[some, None]]
        finally:
            self.c.workspace, self.named = own, named
        return found

    cdef int project_block(self, ptrdiff_t layer, rows) except -1:
        """LayerNorm and C_ATTN of some rows, into qkv."""
        cdef gpt2c_step[GPT2C_QKV_STEPS] steps
        self.shown("x")[:len(rows)] = rows
        if self.run_all(steps, plan_qkv(&self.c, layer, len(rows), steps)):
            raise self.errors[0]
        return 0

    cdef int stop_at_pattern(self, const gpt2c_step *step, place) except -1:
        """The same for scores or pattern; marks the heads whose bits have changed."""
        arrays = self.views[step.detail == GPT2C_AT_PATTERN]
        edits = self.c.observer.flags[step.layer] & GPT2C_EDIT_PATTERN
        before = [array.view(np.int32).copy() for array in arrays] if edits else []
        self.observer.see(place, step.layer, list(arrays))
        for old, array, changed in zip(before, arrays, self.views[2]):
            changed |= (old != array.view(np.int32)).any(axis=2)
        return 0
