# Included by _engine.pyx: one call of the engine, its buffers, and how it is run.

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
    cdef dict named    # those that an observer may see
    cdef ptrdiff_t rows
    cdef bytearray steps
    cdef ptrdiff_t n_steps
    cdef object observer
    cdef list views       # of scores, of pattern and of changed: an array of each sequence

    def __cinit__(self, Weights weights not None, sequences, threads, bint with_top=False, observer=None, start=None,
                  bint both_ways=False):
        cdef gpt2c_model *m = &weights.model
        cdef KVCache cache
        cdef ptrdiff_t i, n = len(sequences), row = 0
        cdef const int32_t[::1] one
        if n == 0:
            raise ValueError("no sequences given; at least one (cache, ids) is needed")
        self.weights = weights
        self.caches = []
        self.buffers = []
        self.named = {}
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
            if both_ways and cache.length:
                raise ValueError("without a mask all of a text is computed at once: its cache must be empty")
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
        all_ids = np.concatenate(parts)  # a copy, even of one: whoever owns the ids may change them meanwhile
        cdef const int32_t[::1] id_view = all_ids
        for i in range(row):
            if not 0 <= id_view[i] < m.n_vocab:
                raise ValueError(f"token id {id_view[i]} is outside the vocabulary; allowed: 0 to {m.n_vocab - 1}")
        self.buffers += [starts, lengths, structs, all_ids]

        cdef gpt2c_call *c = &self.c
        c.model, c.kernels = m, weights.kernels
        c.dense_done = weights.backend == "blas"
        c.n_sequences, c.caches, c.lengths = n, cache_structs, &length_view[0]
        c.row_start, c.ids = &start_view[0], &id_view[0]

        cdef ptrdiff_t chunk = min(row, <ptrdiff_t>GPT2C_CHUNK)
        if observer is not None or start is not None or both_ways:
            chunk = row
        c.chunk, c.both_ways = chunk, both_ways
        c.scratch_size = gpt2c_scratch_size(m, chunk, with_top)
        c.x = self.buffer(chunk * m.n_embd, "x")
        c.norm = self.buffer(chunk * m.n_embd, "norm")
        c.mixed = self.buffer(chunk * m.n_embd, "mixed")
        c.qkv = self.buffer(chunk * 3 * m.n_embd, "qkv")
        c.hidden = self.buffer(chunk * (m.n_inner + GPT2C_GROUP))  # encoded rows are never larger, but padded
        c.coded = self.buffer(chunk * (m.n_embd + GPT2C_GROUP)) if weights.dtype != "float32" else NULL
        if start is not None:
            self.start_at(start)
        if observer is not None:
            self.watch(observer)
        c.key_blocks = gpt2c_key_blocks(c)
        if c.key_blocks:
            c.partial = self.buffer(row * m.n_head * c.key_blocks * (m.d_head + 2 * GPT2C_LANES))
        c.scratch = self.buffer(c.threads * c.scratch_size)
        if c.dense_done:
            c.sums = self.buffer(chunk * max(3 * m.n_embd, m.n_inner))

    cdef int start_at(self, start) except -1:
        layer, given = start
        if not 0 <= layer <= self.c.model.n_layer:
            raise ValueError(f"a pass cannot begin before layer {layer}; allowed: 0 to {self.c.model.n_layer}")
        if given.shape != (self.rows, self.c.model.n_embd):
            raise ValueError(f"the residual stream given has the shape {given.shape}; "
                             f"needed: {(self.rows, self.c.model.n_embd)}")
        np.copyto(self.shown("x"), given)
        self.c.started, self.c.first_layer = 1, layer
        return 0

    cdef int watch(self, observer) except -1:
        cdef gpt2c_call *c = &self.c
        cdef const gpt2c_model *m = c.model
        cdef const unsigned char[::1] flags = observer.flags
        cdef ptrdiff_t[::1] start_view
        cdef unsigned char[::1] changed_view
        cdef ptrdiff_t i
        if flags.shape[0] != m.n_layer + 1:
            raise ValueError(f"an observer of {m.n_layer} layers needs one flag more, not {flags.shape[0]}")
        self.observer = observer
        c.watched = &flags[0]
        c.branch = self.buffer(c.chunk * m.n_embd, "branch")
        c.pre = self.buffer(c.chunk * m.n_inner, "pre")
        c.post = self.buffer(c.chunk * m.n_inner, "post")
        rows = np.diff(np.asarray(<const ptrdiff_t[:c.n_sequences + 1]>c.row_start))
        keys = rows + np.asarray(<const ptrdiff_t[:c.n_sequences]>c.lengths)
        starts = np.concatenate(([0], np.cumsum(m.n_head * rows * keys))).astype(np.intp, copy=False)
        changed = np.zeros(m.n_head * self.rows, np.uint8)
        start_view, changed_view = starts, changed
        c.pattern_start, c.changed = &start_view[0], &changed_view[0]
        self.buffers += [observer.flags, starts, changed]
        self.views = []
        if any(flag & GPT2C_SEE_PATTERN for flag in observer.flags):
            c.scores, c.pattern = self.buffer(starts[-1]), self.buffer(starts[-1])
            for whole in self.buffers[-2:]:
                self.views.append([whole[starts[i]:starts[i + 1]].reshape(m.n_head, rows[i], keys[i])
                                   for i in range(c.n_sequences)])
            ends = m.n_head * np.cumsum(rows)
            self.views.append([changed[ends[i] - m.n_head * rows[i]:ends[i]].reshape(m.n_head, rows[i])
                               for i in range(c.n_sequences)])
        return 0

    cdef int stop(self, const gpt2c_step *step) except -1:
        """Show the observer what has been computed, as arrays that it may change."""
        cdef gpt2c_call *c = &self.c
        place = PLACE_NAMES[step.detail]
        if step.detail in (GPT2C_AT_SCORES, GPT2C_AT_PATTERN):
            arrays = self.views[step.detail == GPT2C_AT_PATTERN]
            changes = c.watched[step.layer] & GPT2C_CHANGE_PATTERN
            before = [array.view(np.int32).copy() for array in arrays] if changes else []
            self.observer.see(place, step.layer, arrays)
            for old, array, changed in zip(before, arrays, self.views[2]):
                changed |= (old != array.view(np.int32)).any(axis=2)
            return 0
        array = self.shown(PLACES[place])[:step.rows]
        if step.detail in (GPT2C_AT_LN_1, GPT2C_AT_LN_2):
            self.observer.see(place, step.layer, array, self.shown("x"))
        elif step.detail == GPT2C_AT_LN_F:
            wanted = np.asarray(<const ptrdiff_t[:c.n_out]>c.out_rows)
            self.observer.see(place, step.layer, array, self.shown("x")[wanted])
        elif step.detail == GPT2C_AT_ATTN_OUT:
            self.observer.see(place, step.layer, array, self.shown("mixed"))
        else:
            self.observer.see(place, step.layer, array)
        return 0

    cdef shown(self, name):
        """A buffer as rows. The array owns its memory: whoever sees it may keep it."""
        return self.named[name].reshape(self.c.chunk, -1)

    cdef float *buffer(self, ptrdiff_t size, name=None) except NULL:
        array = aligned_empty(size)
        self.buffers.append(array)
        if name is not None:
            self.named[name] = array
        return data_of(array)

    cdef int run(self) except -1:
        """Run all steps; the caches grow only if every one was done."""
        cdef KVCache cache
        cdef ptrdiff_t i, n, taken = 0
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
        if self.observer is not None:  # leave out the stops at which there is nothing to see
            n = 0
            for i in range(self.n_steps):
                if steps[i].phase != GPT2C_STOP or self.observer.wants(PLACE_NAMES[steps[i].detail], steps[i].layer):
                    steps[n] = steps[i]
                    n += 1
            self.n_steps = n
        try:
            for i in range(len(self.caches)):
                cache = self.caches[i]
                cache.change()
                taken += 1
                if cache.length != c.lengths[i]:  # another call came between the checks and here
                    raise CacheInUseError("this KVCache was changed by another call while this one began; "
                                          "give every sequence a cache of its own, e.g. cache.fork()")
            i = 0
            while i < self.n_steps and not stopped:
                n = 1
                if steps[i].phase == GPT2C_STOP:
                    self.stop(&steps[i])
                elif c.dense_done:
                    stopped = self.run_with_blas(&steps[i])
                else:
                    while i + n < self.n_steps and steps[i + n].phase != GPT2C_STOP:
                        n += 1
                    with nogil:
                        stopped = gpt2c_run(c, steps + i, n)
                i += n
            if stopped:
                raise errors[0]
            if not (c.started or c.both_ways):  # else the caches have got what no later token could use
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
                target = c.logits if c.target_start != NULL else c.logits + step.row0 * dense.n_out
            np.matmul(np.asarray(<float[:step.rows, :dense.n_in]>(<float *>source)),
                      self.weights.matrices[step.phase, step.layer],
                      out=np.asarray(<float[:step.rows, :dense.n_out]>target))
            PyErr_CheckSignals()
            if step.phase == GPT2C_HEAD:
                return 0
        with nogil:
            stopped = gpt2c_run(c, step, 1)
        return stopped
