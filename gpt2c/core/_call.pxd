from libc.stdint cimport int32_t

from gpt2c.core._kernels cimport gpt2c_call, gpt2c_step, gpt2c_workspace
from gpt2c.core._weights cimport Weights


cdef class Call:
    cdef gpt2c_call c
    cdef Weights weights
    cdef list caches
    cdef list owned       # what the pointers point to
    cdef dict named       # the buffers that an observer may see
    cdef ptrdiff_t rows
    cdef object row_start  # intp [n_sequences + 1]
    cdef object lengths    # intp [n_sequences]
    cdef object cross_lengths  # the same for the encoder's outputs
    cdef object observer
    cdef object deadline
    cdef object turns     # those of the deadline, if it has any
    cdef list views       # of scores, pattern and changed: an array for each sequence
    cdef list errors      # what a signal raised during the call
    cdef gpt2c_workspace aside  # for rows outside of the call
    cdef dict named_aside       # its buffers

    cdef void *own(self, array) except? NULL
    cdef float *buffer(self, ptrdiff_t size, name=*) except NULL
    cdef shown(self, name)
    cdef int add_sequences(self, sequences, bint bidirectional) except -1
    cdef const int32_t *numbers(self, parts, ptrdiff_t limit, problem) except NULL
    cdef int add_cross(self) except -1
    cdef int allocate(self, bint with_top) except -1
    cdef int start_at(self, start) except -1
    cdef int watch(self, observer) except -1
    cdef int watch_patterns(self) except -1
    cdef ptrdiff_t plan(self, bytearray steps) except -1
    cdef int run(self) except -1
    cdef int run_in_turns(self, const gpt2c_step *steps, ptrdiff_t n_steps) except -1
    cdef int run_all(self, const gpt2c_step *steps, ptrdiff_t n_steps) except -1
    cdef int project_block(self, ptrdiff_t layer, rows) except -1
    cdef int run_with_blas(self, const gpt2c_step *step) except -1
    cdef int stop(self, const gpt2c_step *step) except -1
    cdef int stop_at_pattern(self, const gpt2c_step *step, place) except -1
