# Included by _engine.pyx: what a model keeps (Weights) and what a text keeps (KVCache).

cdef ptrdiff_t HEAD_ROWS = 64 * GPT2C_PANEL  # of the head that are read and packed at a time


cdef class Weights:
    """The weights of one model, packed for one back end and instruction set. Immutable; shared freely.

    Parameters
    ----------
    config : gpt2c.config.Config
    read : callable
        ``read(name)`` gives the tensor of that canonical name (see gpt2c.checkpoint.names) as a C-contiguous float32
        array. It is called once per tensor, and nothing it returned is kept where a packed copy takes its place.
    read_rows : callable, optional
        ``read_rows(name, begin, end)`` gives some rows of the head's matrix, the largest there is: then it never
        exists as a whole.
    panels : callable, optional
        ``panels(name)`` gives the weights of a dense layer as ``tensors`` of another Weights of this configuration
        and dtype holds them: uint8 [panels, bytes], C-contiguous, at a multiple of 64 bytes. They are used in place
        of packing, where they are; ``read`` is called for the rest.
    backend : {"native", "blas"}
        ``native``: gpt2c's own panels. ``blas``: NumPy's BLAS, outside the promise of bit-equal results.
    dtype : {"float32", "bfloat16", "int8", "int4"}
        How the weights of dense layers (the head and so a tied embedding among them) are kept; others than float32
        are for ``native`` only. With int4 the head is int8. The rest of the model is float32.
    isa : str or None
        An instruction set out of ``isas()``; None takes GPT2C_ISA or the fastest.
    threads : int
        How many threads pack.

    Attributes
    ----------
    config, backend, dtype, isa : as given or chosen (a CPU without fused multiply-add hardware takes ``blas``)
    nbytes : int
        Bytes held.
    tensors : dict
        Canonical name -> read-only array: of the head and the weights of dense layers the panels (with ``native``),
        in the order in which a pass reads them; of all else float32.
    """

    cdef gpt2c_model model
    cdef gpt2c_layer *layers
    cdef const gpt2c_kernels *kernels
    cdef readonly object config
    cdef readonly str backend
    cdef readonly str isa
    cdef readonly str dtype
    cdef readonly Py_ssize_t nbytes
    cdef object arena     # all panels, in the order in which a pass reads them
    cdef ptrdiff_t filled  # bytes of it
    cdef gpt2c_dtype kind, head_kind
    cdef int threads
    cdef readonly dict tensors  # keeps alive what the pointers point to
    cdef object panels
    cdef dict matrices    # blas: (phase, layer) -> [n_in, n_out]
    # Keys and values of the cache dropped last, for the next of that size: new memory is cleared by the system first,
    # which takes a tenth of the time of a prompt.
    cdef list dropped
    cdef object __weakref__

    def __cinit__(self, config, read, *, read_rows=None, panels=None, backend="native", dtype="float32", isa=None,
                  threads=1):
        self.layers = NULL
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; allowed: {', '.join(map(repr, BACKENDS))}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(map(repr, DTYPES))}")
        if backend == "blas" and dtype != "float32":
            raise ValueError(f"backend 'blas' multiplies float32 only; dtype {dtype!r} needs backend 'native'")
        if backend == "blas" and panels is not None:
            raise ValueError("backend 'blas' multiplies matrices as they are; packed weights need backend 'native'")
        self.threads = threads_now(threads)
        self.dtype = dtype
        self.kind = DTYPE_NUMBERS[dtype]
        self.head_kind = GPT2C_INT8 if dtype == "int4" else self.kind  # most of the loss, little of the size
        self.kernels = find_kernels(isa)
        self.isa = self.kernels.name.decode()
        chosen = isa is not None or bool(os.environ.get("GPT2C_ISA"))
        if self.isa == "generic" and dtype == "float32" and not chosen and panels is None:
            backend = "blas"  # exact emulation of fma is a proof, not a product
        self.backend = backend
        self.config = config
        self.tensors = {}
        self.panels = panels
        self.matrices = {}
        self.dropped = []
        self.layers = <gpt2c_layer *>PyMem_Calloc(config.n_layer, sizeof(gpt2c_layer))
        if self.layers == NULL:
            raise MemoryError

        cdef gpt2c_model *m = &self.model
        m.n_layer, m.n_head, m.d_head = config.n_layer, config.n_head, config.head_dim
        m.n_embd, m.n_inner, m.n_ctx, m.n_vocab = config.n_embd, config.n_inner, config.n_ctx, config.n_vocab
        m.activation = FUNCTIONS[config.activation]
        m.epsilon = config.layer_norm_epsilon
        m.layers = self.layers

        if self.backend == "native" and panels is None:
            # One block for all: large enough for huge pages, without which memory is read at half the speed here.
            self.arena = aligned_bytes(sum(
                count * self.panels_of(n_out) * panel_size(kind, n_in) for count, kind, n_in, n_out in (
                    (config.n_layer, self.kind, m.n_embd, 3 * m.n_embd),
                    (config.n_layer, self.kind, m.n_embd, m.n_embd),
                    (config.n_layer, self.kind, m.n_embd, m.n_inner), (config.n_layer, self.kind, m.n_inner, m.n_embd),
                    (1, self.head_kind, m.n_embd, m.n_vocab))))

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
        shape = (config.n_vocab, config.n_embd)
        self.shape_dense(&m.head, shape[1], shape[0], self.head_kind)
        if self.backend == "blas":
            matrix = self.checked(read, head, shape)
            self.keep(head, matrix)
            self.matrices[GPT2C_HEAD, 0] = matrix.T
        elif panels is not None:
            self.take(&m.head, head)
        elif read_rows is None:
            self.pack(&m.head, head, self.checked(read, head, shape), True)
        else:
            self.pack_rows(&m.head, head, read_rows, shape)
        if not config.tie_word_embeddings:
            m.wte = self.vector(read, "wte.weight", shape)
        elif self.backend == "blas":
            m.wte = floats(matrix)
        else:
            m.wte = NULL  # no second copy: an embedding is read from the panels of the head

    def __dealloc__(self):
        PyMem_Free(self.layers)

    cdef memory(self, size):
        for i, array in enumerate(self.dropped):
            if array.nbytes == size:
                return self.dropped.pop(i)
        return aligned_bytes(size)

    cdef keep(self, name, array):
        array = array.view()
        array.flags.writeable = False
        self.tensors[name] = array
        self.nbytes += array.nbytes
        return array

    cdef checked(self, read, name, shape):
        return self.check(name, read(name), shape)

    cdef check(self, name, array, shape):
        if array.dtype != np.float32 or not array.flags.c_contiguous or array.shape != shape:
            raise CheckpointError(f"tensor {name} is {array.dtype}{list(array.shape)}; "
                                  f"needed: a contiguous float32{list(shape)}")
        return array

    cdef const float *vector(self, read, name, shape) except NULL:
        return floats(self.keep(name, self.checked(read, name, shape)))

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
        weight = name + ".weight"
        self.shape_dense(dense, shape[0], shape[1], self.kind)
        if self.backend == "blas":
            self.matrices[key] = self.keep(weight, self.checked(read, weight, shape))
        elif self.panels is not None:
            self.take(dense, weight)
        else:
            self.pack(dense, weight, self.checked(read, weight, shape), False)
        dense.bias = self.vector(read, name + ".bias", (shape[1],))
        return 0

    def unembedding(self, ids):
        """Rows of the head's matrix, as the panels stand for them.

        Parameters
        ----------
        ids : int array [n]
            Tokens of the vocabulary.

        Returns
        -------
        float32 array [n, n_embd]
            A token's logit is the product of its row and what comes out of the last LayerNorm.
        """
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu" or ids.ndim != 1 or ((ids < 0) | (ids >= self.config.n_vocab)).any():
            raise ValueError(f"ids must be a list of token ids from 0 to {self.config.n_vocab - 1}; "
                             f"got {ids.tolist()!r}")
        if self.backend == "blas":
            return self.matrices[GPT2C_HEAD, 0].T[ids]
        return self.columns(&self.model.head, ids.astype(np.intp))

    def output_projection(self, layer):
        """What each head's result is made with: float32 [n_head, d_head, n_embd].

        A head adds to the residual stream the product of its values, weighted and summed, and its matrix; the bias of
        the layer is added once.
        """
        c = self.config
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)) or not 0 <= layer < c.n_layer:
            raise ValueError(f"layer is {layer!r}; allowed: 0 to {c.n_layer - 1}")
        if self.backend == "blas":
            matrix = self.matrices[GPT2C_ATTN_PROJ, layer].copy()
        else:
            columns = self.columns(&self.layers[<ptrdiff_t>layer].attn_proj, np.arange(c.n_embd, dtype=np.intp))
            matrix = np.ascontiguousarray(columns.T)
        return matrix.reshape(c.n_head, c.head_dim, c.n_embd)

    cdef columns(self, const gpt2c_dense *dense, const ptrdiff_t[::1] which):
        """Some outputs of a dense layer: float32 [which, inputs]."""
        found = np.empty((which.shape[0], dense.n_in), np.float32)
        cdef float[:, ::1] rows = found
        cdef ptrdiff_t i
        for i in range(which.shape[0]):
            unpack_column(dense, which[i], &rows[i, 0])
        return found

    @staticmethod
    def panels_of(n_out):
        return (n_out + GPT2C_PANEL - 1) // GPT2C_PANEL

    cdef void shape_dense(self, gpt2c_dense *dense, ptrdiff_t n_in, ptrdiff_t n_out, gpt2c_dtype dtype):
        dense.n_in, dense.n_out, dense.dtype = n_in, n_out, dtype

    cdef int take(self, gpt2c_dense *dense, name) except -1:
        """Panels that somebody else has packed."""
        array = self.panels(name)
        shape = (self.panels_of(dense.n_out), panel_size(dense.dtype, dense.n_in))
        if array.dtype != np.uint8 or not array.flags.c_contiguous or array.shape != shape:
            raise CheckpointError(f"the panels of {name} are {array.dtype}{list(array.shape)}; "
                                  f"needed: contiguous uint8{list(shape)}")
        cdef const unsigned char[:, ::1] view = self.keep(name, array)
        if <ptrdiff_t>&view[0, 0] % 64:
            raise CheckpointError(f"the panels of {name} do not begin at a multiple of 64 bytes")
        dense.panels = &view[0, 0]
        return 0

    cdef void *room(self, gpt2c_dense *dense, name) except NULL:
        """The next part of the arena, for the panels of a dense layer."""
        shape = (self.panels_of(dense.n_out), panel_size(dense.dtype, dense.n_in))
        cdef ptrdiff_t size = shape[0] * shape[1]
        part = self.arena[self.filled:self.filled + size]
        cdef unsigned char[::1] view = part
        self.filled += size
        self.keep(name, part.reshape(shape))
        dense.panels = &view[0]
        return &view[0]

    cdef int pack(self, gpt2c_dense *dense, name, matrix, bint transposed) except -1:
        cdef void *target = self.room(dense, name)
        cdef ptrdiff_t ld = matrix.shape[1]
        cdef const float *source = floats(matrix)
        with nogil:
            pack_panels(dense, target, source, ld, transposed, self.threads)
        return 0

    cdef int pack_rows(self, gpt2c_dense *dense, name, read_rows, shape) except -1:
        """The head's matrix, a few rows at a time."""
        cdef char *target = <char *>self.room(dense, name)
        cdef gpt2c_dense part = dense[0]
        cdef ptrdiff_t row, ld = dense.n_in, rows = dense.n_out
        cdef const float *source
        for row in range(0, rows, HEAD_ROWS):
            part.n_out = min(HEAD_ROWS, rows - row)
            block = self.check(name, read_rows(name, row, row + part.n_out), (part.n_out, shape[1]))
            source = floats(block)
            with nogil:
                pack_panels(&part, target, source, ld, True, self.threads)
            target += HEAD_ROWS // GPT2C_PANEL * panel_size(part.dtype, part.n_in)
        return 0


@cython.no_gc_clear  # __dealloc__ needs its attributes
cdef class KVCache:
    """Keys and values of one sequence, so that no earlier token is ever computed again.

    ``len(cache)`` is the number of positions filled.

    Parameters
    ----------
    weights : Weights
        The model it belongs to; other models refuse it. It keeps the memory of the cache dropped last for the next.
    n_ctx : int or None
        Positions it has room for, 1 to the model's n_ctx (the default). Memory is taken as positions are filled.
    dtype : {"float32", "float16"}
        How keys and values are kept. float16 takes half the memory and rounds them (to nearest, beyond 65520 to
        infinity); sums are float32 in both.
    prefix : KVCache or None
        The text goes on from that of this cache, whose positions are read where they are instead of copied (but for up
        to 15). From then on it is frozen: it may be the prefix of others, but neither grow nor shrink.

    Attributes
    ----------
    n_ctx : int
    nbytes : int
        Bytes set aside: 2 * n_layer * n_embd * 4 (float16: * 2) per position, n_ctx rounded up to 16 or 128;
        some more where the width of a head is no multiple of 16.
    """

    cdef readonly Weights weights
    cdef readonly Py_ssize_t n_ctx
    cdef readonly str dtype
    cdef gpt2c_cache c
    cdef Py_ssize_t length
    cdef object k, v      # [n_layer * n_head, capacity / 16, d_head, 16], [n_layer * n_head, capacity, d_pad]
    cdef KVCache prefix   # what c.k0 and c.v0 belong to
    cdef bint frozen      # whether it is the prefix of another
    cdef object busy_in   # process id while a call uses it; a forked child starts with a free cache
    cdef object __weakref__

    def __cinit__(self, Weights weights not None, n_ctx=None, dtype="float32", KVCache prefix=None):
        config = weights.config
        if n_ctx is None:
            n_ctx = config.n_ctx
        if isinstance(n_ctx, bool) or not isinstance(n_ctx, (int, np.integer)) or not 1 <= n_ctx <= config.n_ctx:
            raise ValueError(f"n_ctx of a cache is {n_ctx!r}; allowed: 1 to {config.n_ctx}, the positions of the model")
        if dtype not in CACHE_DTYPES:
            raise ValueError(f"dtype of a cache is {dtype!r}; allowed: {', '.join(map(repr, CACHE_DTYPES))}")
        cdef ptrdiff_t d_head = config.head_dim
        cdef ptrdiff_t d_pad = (d_head + GPT2C_LANES - 1) // GPT2C_LANES * GPT2C_LANES
        cdef ptrdiff_t shared = 0
        if prefix is not None:
            if prefix.weights is not weights or prefix.dtype != dtype or prefix.prefix is not None:
                raise ValueError("the prefix of a cache must be of the same model and dtype, and have none itself")
            if n_ctx < prefix.length:
                raise ValueError(f"n_ctx of a cache is {n_ctx!r}, but its prefix has {prefix.length} positions")
            shared = prefix.length - prefix.length % GPT2C_LANES
        # Few sizes, so that memory is used again, but small ones for the many caches of short texts.
        cdef ptrdiff_t own = max(1, n_ctx - shared), step = GPT2C_LANES if own < GPT2C_KEY_BLOCK else GPT2C_KEY_BLOCK
        cdef ptrdiff_t capacity = (own + step - 1) // step * step
        heads = config.n_layer * config.n_head
        self.weights = weights
        self.n_ctx = n_ctx
        self.dtype = dtype
        size = np.dtype(dtype).itemsize
        keys = weights.memory(heads * capacity * d_head * size)
        values = weights.memory(heads * capacity * d_pad * size)
        self.k = keys.view(dtype).reshape(heads, capacity // GPT2C_LANES, d_head * GPT2C_LANES)
        self.v = values.view(dtype).reshape(heads, capacity, d_pad)
        self.c.k, self.c.v, self.c.capacity = bytes_of(keys), bytes_of(values), capacity
        self.c.half = dtype == "float16"
        if prefix is not None:
            prefix.take()
            try:
                prefix.frozen = True
                self.prefix, self.length = prefix, shared
                self.c.k0, self.c.v0, self.c.capacity0 = prefix.c.k, prefix.c.v, prefix.c.capacity
                self.c.shared = shared
                self.copy_positions(prefix)
            finally:
                prefix.give_back()

    def __dealloc__(self):
        if self.v is not None:  # else its making failed
            self.weights.dropped = [array.view(np.uint8).reshape(-1) for array in (self.k, self.v)]

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

    cdef int change(self) except -1:
        if self.frozen:
            raise ValueError("this KVCache is the prefix of others and cannot change any more; use a fork() of it")
        return self.take()

    cdef int copy_positions(self, KVCache other) except -1:
        """Take over the positions of ``other`` from one's own length on."""
        cdef ptrdiff_t mine = self.length // GPT2C_LANES, groups = (other.length + GPT2C_LANES - 1) // GPT2C_LANES
        cdef ptrdiff_t here = self.c.shared, there = other.c.shared
        self.k[:, mine - here // GPT2C_LANES:groups - here // GPT2C_LANES] = \
            other.k[:, mine - there // GPT2C_LANES:groups - there // GPT2C_LANES]
        self.v[:, self.length - here:other.length - here] = other.v[:, self.length - there:other.length - there]
        self.length = other.length
        return 0

    def truncate(self, n):
        """Forget all but the first ``n`` positions, 0 <= n <= len(cache); not less than are read from a prefix."""
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not self.c.shared <= n <= self.length:
            raise ValueError(f"truncate({n!r}); allowed: {self.c.shared} to {self.length}, the positions filled"
                             f"{' (a prefix has the others)' if self.c.shared else ''}")
        self.change()
        self.length = n
        self.give_back()

    def follow(self, KVCache other not None, n):
        """Become what ``other`` is; the two agree in the first ``n`` positions, which are not copied.

        Both must have the same prefix, or none; ``n`` is at most the length of either.
        """
        if other is self or other.weights is not self.weights or other.dtype != self.dtype or \
                other.prefix is not self.prefix or other.length > self.n_ctx:
            raise ValueError("a cache can follow another of the same model, dtype and prefix, if it has the room")
        if not self.c.shared <= n <= min(self.length, other.length):
            raise ValueError(f"n is {n}; allowed: {self.c.shared} to {min(self.length, other.length)}")
        self.change()
        try:
            other.take()
            try:
                self.length = n
                self.copy_positions(other)
            finally:
                other.give_back()
        finally:
            self.give_back()

    def branch(self, n_ctx):
        """A text that goes on from this one's, with room for ``n_ctx`` positions: this is its ``prefix``."""
        return KVCache(self.weights, n_ctx, self.dtype, self)

    def fork(self, n_ctx=None):
        """A copy that goes its own way from here on.

        Parameters
        ----------
        n_ctx : int or None
            Positions that the copy has room for, at least len(cache); None: as many as this one.
        """
        cdef KVCache copy = KVCache(self.weights, self.n_ctx if n_ctx is None else n_ctx, self.dtype, self.prefix)
        if copy.n_ctx < self.length:
            raise ValueError(f"fork(n_ctx={n_ctx!r}); allowed: {self.length} (the positions filled) or more")
        self.take()
        try:
            copy.length = self.c.shared
            copy.copy_positions(self)
        finally:
            self.give_back()
        return copy
