from gpt2c.core._kernels cimport gpt2c_dense, gpt2c_dtype, gpt2c_kernels, gpt2c_layer, gpt2c_model, gpt2c_norm


cdef class Weights:
    cdef gpt2c_model model
    cdef gpt2c_layer *layers
    cdef const gpt2c_kernels *kernels
    cdef readonly object config
    cdef readonly str backend
    cdef readonly str isa
    cdef readonly str dtype
    cdef readonly Py_ssize_t nbytes
    cdef list owned       # what the pointers point to
    cdef dict named       # canonical name -> read-only view of it
    cdef dict matrices    # blas: (phase, layer) -> [n_in, n_out]
    cdef object arena     # all panels, in the order in which a pass reads them
    cdef ptrdiff_t filled  # bytes of it in use
    cdef gpt2c_dtype kind
    cdef gpt2c_dtype head_kind
    cdef int threads
    cdef object read
    cdef object read_rows
    cdef object panels
    cdef object guard
    # Keys and values of the cache dropped last, for the next one of that size: the system clears new memory first,
    # which takes a tenth of the time of a prompt.
    cdef list dropped
    cdef object __weakref__

    cdef acquire_memory(self, size)
    cdef int guarded(self) except -1
    cdef int choose(self, backend, dtype, isa, threads) except -1
    cdef int shape_model(self) except -1
    cdef int reserve_arena(self) except -1
    cdef int read_layer(self, ptrdiff_t i) except -1
    cdef int read_ends(self) except -1
    cdef int read_head(self) except -1
    cdef retain(self, name, array)
    cdef check(self, name, array, shape)
    cdef const float *vector(self, name, shape) except NULL
    cdef int norm(self, gpt2c_norm *norm, name) except -1
    cdef int dense(self, gpt2c_dense *dense, key, name, shape) except -1
    cdef panels_shape(self, gpt2c_dense *dense)
    cdef int adopt(self, gpt2c_dense *dense, name) except -1
    cdef void *allot(self, gpt2c_dense *dense, name) except NULL
    cdef int pack(self, gpt2c_dense *dense, name, matrix, bint transposed) except -1
    cdef int pack_rows(self, gpt2c_dense *dense, name) except -1
    cdef str unknown(self, name)
    cdef columns(self, const gpt2c_dense *dense, which)
