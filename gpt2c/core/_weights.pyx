# cython: language_level=3
"""The weights of a model, packed as the kernels read them."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np

from gpt2c.core._kernels import BACKENDS, FUNCTIONS
from gpt2c.errors import CheckpointError, shown

from cpython.mem cimport PyMem_Calloc, PyMem_Free

from gpt2c.core._kernels cimport (
    GPT2C_ATTN_PROJ, GPT2C_C_ATTN, GPT2C_C_FC, GPT2C_CROSS_KV, GPT2C_CROSS_PROJ, GPT2C_CROSS_Q, GPT2C_HEAD, GPT2C_INT4,
    GPT2C_INT8, GPT2C_MLP_PROJ, GPT2C_PANEL, GPT2C_PANELS, GPT2C_SHIFTED, GPT2C_TRANSFORM, GPT2C_WIDE, aligned_bytes,
    dtype_of, find_kernels, memory_of, pack_panels, panel_size, threads_now, unpack_column,
)

cdef ptrdiff_t HEAD_ROWS = 64 * GPT2C_PANEL  # rows of the head read and packed at a time


cdef tuple dense_layers(config):
    """(phase, name, (inputs, outputs)) of the dense layers of a block, in the order in which a pass reads them."""
    n, inner = config.n_embd, config.n_inner
    cross = (
        (GPT2C_CROSS_Q, "crossattention.q_attn", (n, n)),
        (GPT2C_CROSS_KV, "crossattention.c_attn", (n, 2 * n)),
        (GPT2C_CROSS_PROJ, "crossattention.c_proj", (n, n)),
    )
    return (
        (GPT2C_C_ATTN, "attn.c_attn", (n, config.n_qkv)),
        (GPT2C_ATTN_PROJ, "attn.c_proj", (n, n)),
        *(cross if config.add_cross_attention else ()),
        (GPT2C_C_FC, "mlp.c_fc", (n, inner)),
        (GPT2C_MLP_PROJ, "mlp.c_proj", (inner, n)),
    )


cdef gpt2c_dense *dense_of(gpt2c_layer *layer, int phase):
    if phase == GPT2C_C_ATTN:
        return &layer.c_attn
    if phase == GPT2C_ATTN_PROJ:
        return &layer.attn_proj
    if phase == GPT2C_CROSS_Q:
        return &layer.cross_q
    if phase == GPT2C_CROSS_KV:
        return &layer.cross_kv
    if phase == GPT2C_CROSS_PROJ:
        return &layer.cross_proj
    return &layer.c_fc if phase == GPT2C_C_FC else &layer.mlp_proj


cdef class Weights:
    """The weights of one model, packed for one back end and instruction set. Immutable; shared freely.

    A mapping of canonical names (those at the top of gpt2c/reference.py) to read-only float32 arrays of the
    checkpoint's shapes: ``weights["h.3.attn.c_attn.weight"]`` of a GPT-2 is [n_embd, 3 n_embd]. Packed weights are
    unpacked on access, into a new array: the numbers that passes multiply with, the checkpoint's in float32 and rounded
    in other formats. ``lm_head.weight`` exists only if the head is not tied to ``wte.weight``.

    Parameters
    ----------
    config : gpt2c.config.Config
    read : callable
        ``read(name)`` returns the tensor of that canonical name (see gpt2c.checkpoint.names), C-contiguous float32. It
        is called once per tensor; its result is released once a packed copy replaces it.
    read_rows : callable, optional
        ``read_rows(name, begin, end)`` returns rows of the head's matrix, which then never exists as a whole.
    panels : callable, optional
        ``panels(name)`` returns the weights of a dense layer, to be used in place, as ``packed`` of another Weights of
        this configuration and dtype holds them: uint8 [panels, bytes], aligned to 64 bytes. ``read`` has the rest.
    guard : callable, optional
        Called before each use of the weights; raises an error if their memory must not be touched.
    backend : {"native", "blas"}
        ``native``: gpt2c's own panels. ``blas``: NumPy's BLAS, without the guarantee of bit-equal results.
    dtype : {"float32", "bfloat16", "int8", "int4"}
        The number format of dense layers and the head (so of a tied embedding); formats other than float32 require
        ``native``. With int4 the head is int8. The rest of the model is float32.
    isa : str or None
        An instruction set in ``isas()``; None: GPT2C_ISA or the fastest.
    threads : int
        The number of threads that pack.

    Attributes
    ----------
    config, backend, dtype, isa : as given or chosen (a CPU without fused multiply-add hardware uses ``blas``)
    nbytes : int, the bytes held
    packed : read-only mapping
        Canonical name -> read-only array as it is held: first the panels (with ``native``) of dense layers and the
        head, in the order in which a pass reads them; then everything else, float32.
    """

    def __cinit__(self, config, read, *, read_rows=None, panels=None, guard=None, backend="native", dtype="float32",
                  isa=None, threads=1):
        self.layers = NULL
        self.config, self.read, self.read_rows, self.panels, self.guard = config, read, read_rows, panels, guard
        self.owned, self.named, self.matrices, self.dropped = [], {}, {}, []
        self.choose(backend, dtype, isa, threads)
        self.shape_model()
        if self.backend == "native" and panels is None:
            self.reserve_arena()
        cdef ptrdiff_t i
        for i in range(self.model.n_layer):
            self.read_layer(i)
        self.read_ends()
        self.read_head()
        if config.head is not None:
            for name, shape in config.head.shapes(config.n_embd).items():
                self.vector(name, shape)  # multiplied in Python: they are small
        self.read = self.read_rows = self.panels = None

    def __dealloc__(self):
        PyMem_Free(self.layers)

    cdef int guarded(self) except -1:
        if self.guard is not None:
            self.guard()
        return 0

    @property
    def packed(self):
        self.guarded()
        return MappingProxyType(self.named)

    # ---- making it ----

    cdef int choose(self, backend, dtype, isa, threads) except -1:
        """Back end, number format and kernels."""
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; allowed: {', '.join(map(repr, BACKENDS))}")
        self.kind = dtype_of(dtype)
        if backend == "blas" and dtype != "float32":
            raise ValueError(f"backend 'blas' multiplies float32 only; dtype {dtype!r} needs backend 'native'")
        if backend == "blas" and self.panels is not None:
            raise ValueError("backend 'blas' multiplies unpacked matrices; packed weights need backend 'native'")
        self.threads = threads_now(threads)
        self.dtype = dtype
        self.head_kind = GPT2C_INT8 if self.kind == GPT2C_INT4 else self.kind  # most of the loss, little of the size
        self.kernels = find_kernels(isa)
        self.isa = self.kernels.name.decode()
        chosen = isa is not None or bool(os.environ.get("GPT2C_ISA"))
        if self.isa == "generic" and dtype == "float32" and not chosen and self.panels is None:
            backend = "blas"  # exact emulation of fma is for verification, not for use
        self.backend = backend
        return 0

    cdef int shape_model(self) except -1:
        config = self.config
        cdef gpt2c_model *m = &self.model
        m.n_layer, m.n_head, m.n_kv_head, m.d_head = config.n_layer, config.n_head, config.n_kv_head, config.head_dim
        m.n_embd, m.n_inner, m.n_ctx, m.n_vocab = config.n_embd, config.n_inner, config.n_ctx, config.n_vocab
        m.post_norm, m.cross = config.is_bert, config.add_cross_attention
        m.activation = FUNCTIONS[config.activation]
        m.epsilon = config.layer_norm_epsilon
        self.layers = <gpt2c_layer *>PyMem_Calloc(m.n_layer, sizeof(gpt2c_layer))
        if self.layers == NULL:
            raise MemoryError
        m.layers = self.layers
        m.head.n_in, m.head.n_out, m.head.dtype = m.n_embd, m.n_vocab, self.head_kind
        m.head.inputs = GPT2C_SHIFTED
        return 0

    cdef int reserve_arena(self) except -1:
        """One block for all panels: large enough for huge pages, without which reading memory is half as fast."""
        cdef ptrdiff_t size = GPT2C_PANELS(self.model.n_vocab) * panel_size(self.head_kind, self.model.n_embd)
        for _, _, (n_in, n_out) in dense_layers(self.config):
            size += self.model.n_layer * GPT2C_PANELS(n_out) * panel_size(self.kind, n_in)
        if self.config.masked_head:
            size += GPT2C_PANELS(self.model.n_embd) * panel_size(self.kind, self.model.n_embd)
        self.arena = aligned_bytes(size)
        return 0

    cdef int read_layer(self, ptrdiff_t i) except -1:
        cdef gpt2c_layer *layer = &self.layers[i]
        prefix = f"h.{i}."
        self.norm(&layer.ln_1, prefix + "ln_1")
        self.norm(&layer.ln_2, prefix + "ln_2")
        if self.config.add_cross_attention:
            self.norm(&layer.ln_cross, prefix + "ln_cross_attn")
        for phase, name, shape in dense_layers(self.config):
            self.dense(dense_of(layer, phase), (phase, i), prefix + name, shape)
        # where 8 bits, or symmetric ones, would cost most (gpt2c_inputs in src/gpt2c.h)
        layer.c_attn.inputs = layer.cross_q.inputs = layer.cross_kv.inputs = GPT2C_WIDE
        layer.mlp_proj.inputs = GPT2C_SHIFTED
        layer.attn_scale = self.config.attention_scale(i)
        return 0

    cdef int read_ends(self) except -1:
        """The weights before the layers, and between them and the head's matrix."""
        config = self.config
        cdef gpt2c_model *m = &self.model
        m.wpe = self.vector("wpe.weight", (config.n_ctx, config.n_embd))
        if not config.is_bert:
            return self.norm(&m.ln_f, "ln_f")
        self.norm(&m.ln_emb, "ln_emb")
        if config.n_types:
            m.wtt = self.vector("wtt.weight", (config.n_types, config.n_embd))
        if config.masked_head:
            self.dense(&m.transform, (GPT2C_TRANSFORM, 0), "transform", (config.n_embd, config.n_embd))
            m.transform.inputs = GPT2C_WIDE
            self.norm(&m.ln_head, "ln_head")
            m.head.bias = self.vector("lm_head.bias", (config.n_vocab,))
        return 0

    cdef int read_head(self) except -1:
        cdef gpt2c_model *m = &self.model
        tied = self.config.tie_word_embeddings
        name = "wte.weight" if tied else "lm_head.weight"
        shape = (self.config.n_vocab, self.config.n_embd)
        m.wte = NULL  # no second copy of a tied embedding: it is read from the panels of the head
        if self.backend == "blas":
            matrix = self.retain(name, self.check(name, self.read(name), shape))
            self.matrices[GPT2C_HEAD, 0] = matrix.T
            m.wte = <const float *>memory_of(matrix)
        elif self.panels is not None:
            self.adopt(&m.head, name)
        elif self.read_rows is None:
            self.pack(&m.head, name, self.check(name, self.read(name), shape), True)
        else:
            self.pack_rows(&m.head, name)
        if not tied:
            m.wte = self.vector("wte.weight", shape)
        return 0

    cdef retain(self, name, array):
        """Own an array that C points to, and expose a read-only view of it."""
        array = array.view(np.ndarray)
        array.flags.writeable = False
        self.owned.append(array)
        self.named[name] = array.view()
        self.nbytes += array.nbytes
        return array

    cdef check(self, name, array, shape):
        if array.dtype != np.float32 or not array.flags.c_contiguous or array.shape != shape:
            raise CheckpointError(f"tensor {name} is {array.dtype}{list(array.shape)}; "
                                  f"needed: a contiguous float32{list(shape)}")
        return array

    cdef const float *vector(self, name, shape) except NULL:
        return <const float *>memory_of(self.retain(name, self.check(name, self.read(name), shape)))

    cdef int norm(self, gpt2c_norm *norm, name) except -1:
        norm.gain = self.vector(name + ".weight", (self.config.n_embd,))
        norm.bias = self.vector(name + ".bias", (self.config.n_embd,))
        return 0

    cdef int dense(self, gpt2c_dense *dense, key, name, shape) except -1:
        weight = name + ".weight"
        dense.n_in, dense.n_out, dense.dtype = shape[0], shape[1], self.kind
        if self.backend == "blas":
            self.matrices[key] = self.retain(weight, self.check(weight, self.read(weight), shape))
        elif self.panels is not None:
            self.adopt(dense, weight)
        else:
            self.pack(dense, weight, self.check(weight, self.read(weight), shape), False)
        dense.bias = self.vector(name + ".bias", (shape[1],))
        return 0

    cdef panels_shape(self, gpt2c_dense *dense):
        return GPT2C_PANELS(dense.n_out), panel_size(dense.dtype, dense.n_in)

    cdef int adopt(self, gpt2c_dense *dense, name) except -1:
        """Use panels that are already packed."""
        array = self.panels(name)
        shape = self.panels_shape(dense)
        if array.dtype != np.uint8 or not array.flags.c_contiguous or array.shape != shape:
            raise CheckpointError(f"the panels of {name} are {array.dtype}{list(array.shape)}; "
                                  f"needed: contiguous uint8{list(shape)}")
        dense.panels = memory_of(self.retain(name, array))
        if <ptrdiff_t>dense.panels % 64:
            raise CheckpointError(f"the panels of {name} are not aligned to 64 bytes")
        return 0

    cdef void *allot(self, gpt2c_dense *dense, name) except NULL:
        """The next part of the arena, for the panels of a dense layer."""
        shape = self.panels_shape(dense)
        cdef ptrdiff_t size = shape[0] * shape[1]
        cdef void *panels = memory_of(self.retain(name, self.arena[self.filled:self.filled + size].reshape(shape)))
        self.filled += size
        dense.panels = panels
        return panels

    cdef int pack(self, gpt2c_dense *dense, name, matrix, bint transposed) except -1:
        cdef void *target = self.allot(dense, name)
        cdef ptrdiff_t ld = matrix.shape[1]
        cdef const float *source = <const float *>memory_of(matrix)
        with nogil:
            pack_panels(dense, target, source, ld, transposed, self.threads)
        return 0

    cdef int pack_rows(self, gpt2c_dense *dense, name) except -1:
        """The head's matrix, a few rows at a time."""
        cdef char *target = <char *>self.allot(dense, name)
        cdef gpt2c_dense part = dense[0]
        cdef ptrdiff_t row, ld = dense.n_in, rows = dense.n_out
        cdef const float *source
        for row in range(0, rows, HEAD_ROWS):
            part.n_out = min(HEAD_ROWS, rows - row)
            block = self.check(name, self.read_rows(name, row, row + part.n_out), (part.n_out, ld))
            source = <const float *>memory_of(block)
            with nogil:
                pack_panels(&part, target, source, ld, True, self.threads)
            target += HEAD_ROWS // GPT2C_PANEL * panel_size(part.dtype, part.n_in)
        return 0

    cdef acquire_memory(self, size):
        """Memory for a cache: that of a dropped one, or new."""
        found = None
        # while this searches the list, no other caller can find the same memory
        dropped, self.dropped = self.dropped, []
        for array in dropped:
            if found is None and array.nbytes == size:
                found = array
            else:
                self.dropped.append(array)
        return aligned_bytes(size) if found is None else found

    # ---- reading it ----

    def __getitem__(self, name):
        if name not in self.named:
            raise KeyError(self.unknown(name))
        held = self.named[name]
        if held.dtype == np.float32:
            return held
        cdef gpt2c_dense *dense
        if name in ("wte.weight", "lm_head.weight"):
            found = self.columns(&self.model.head, range(self.model.n_vocab))
        else:
            dense = &self.model.transform
            if name != "transform.weight":
                _, layer, part = name.split(".", 2)
                [phase] = [phase for phase, other, _ in dense_layers(self.config) if part == other + ".weight"]
                dense = dense_of(&self.layers[<ptrdiff_t>int(layer)], phase)
            found = np.ascontiguousarray(self.columns(dense, range(dense.n_out)).T)
        found.flags.writeable = False
        return found

    cdef str unknown(self, name):
        """The message for an unknown name."""
        close = get_close_matches(name, self.named) if isinstance(name, str) else []
        if name == "lm_head.weight":
            hint = "the head is tied to 'wte.weight'"
        elif close:
            hint = f"did you mean {' or '.join(map(repr, close))}?"
        else:
            hint = f"names look like {', '.join(map(repr, list(self.named)[:3]))}; list(weights) has all"
        return f"this model has no tensor {shown(name)}; {hint}"

    def __repr__(self):
        return f"<Weights: {len(self)} tensors, {self.dtype}, {self.backend}>"

    def __iter__(self):
        return iter(self.named)

    def __len__(self):
        return len(self.named)

    def __contains__(self, name):
        return name in self.named

    keys, values, items, get = Mapping.keys, Mapping.values, Mapping.items, Mapping.get

    def unembedding(self, ids):
        """Rows of the head's matrix, as the panels encode them.

        Parameters
        ----------
        ids : int array [n]
            Tokens of the vocabulary.

        Returns
        -------
        float32 array [n, n_embd]
            A token's logit is the product of its row and the output of the last LayerNorm.
        """
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu" or ids.ndim != 1 or ((ids < 0) | (ids >= self.config.n_vocab)).any():
            raise ValueError(f"ids must be token ids from 0 to {self.config.n_vocab - 1}, not {ids.tolist()!r}")
        if self.backend == "blas":
            return self.matrices[GPT2C_HEAD, 0].T[ids]
        return self.columns(&self.model.head, ids.tolist())

    cdef columns(self, const gpt2c_dense *dense, which):
        """Some outputs of a dense layer: float32 [which, inputs]."""
        self.guarded()
        found = np.empty((len(which), dense.n_in), np.float32)
        cdef float *row = <float *>memory_of(found)
        cdef ptrdiff_t n
        for n in which:
            unpack_column(dense, n, row)
            row += dense.n_in
        return found


Mapping.register(Weights)
