from gpt2c.core._kernels cimport gpt2c_cache
from gpt2c.core._weights cimport Weights


cdef class KVCache:
    cdef readonly Weights weights
    cdef readonly Py_ssize_t n_ctx
    cdef readonly str dtype
    cdef gpt2c_cache c
    cdef Py_ssize_t length
    cdef object k, v      # [n_layer * n_kv_head, capacity / 16, bytes of 16 positions]
    cdef readonly KVCache cross
    cdef KVCache prefix   # what c.k0 and c.v0 belong to
    cdef readonly Py_ssize_t branches  # caches that have it as their prefix
    cdef object busy_in   # process id while a call uses it; a forked child starts with a free cache
    cdef object __weakref__

    cdef int acquire(self) except -1
    cdef void release(self)
    cdef int acquire_to_change(self) except -1
    cdef int adopt(self, KVCache prefix) except -1
    cdef int copy_groups(self, KVCache other, ptrdiff_t here, ptrdiff_t there, ptrdiff_t n) except -1
    cdef int copy_positions(self, KVCache other) except -1
    cdef int take_own(self, KVCache other, ptrdiff_t first, ptrdiff_t last) except -1
