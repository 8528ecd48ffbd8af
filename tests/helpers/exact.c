/* Memory for NumPy's arrays of exactly the size that was asked for, at a cache line, and never one that was used
 * before: NumPy itself keeps small blocks for the next array, where no sanitizer sees who writes beyond its own. */
#define _GNU_SOURCE
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <Python.h>
#include <malloc.h>
#include <numpy/arrayobject.h>
#include <stdlib.h>
#include <string.h>

static void *take(void *context, size_t size) {
    void *found = NULL;
    (void)context;
    return posix_memalign(&found, 64, size) == 0 ? found : NULL;
}

static void *take_zeros(void *context, size_t n, size_t size) {
    void *found = take(context, n * size);
    return found ? memset(found, 0, n * size) : NULL;
}

static void give(void *context, void *memory, size_t size) {
    (void)context, (void)size;
    free(memory);
}

static void *take_again(void *context, void *memory, size_t size) {
    const size_t before = memory ? malloc_usable_size(memory) : 0;
    void *found = take(context, size);
    if (found && memory) memcpy(found, memory, before < size ? before : size);
    if (found) free(memory);
    return found;
}

static PyDataMem_Handler handler = {"exact", 1, {NULL, take, take_zeros, take_again, give}};

/* From now on, in this thread. Returns -1 if NumPy refuses. */
int use_exact_memory(void) {
    import_array1(-1);
    PyObject *capsule = PyCapsule_New(&handler, "mem_handler", NULL);
    PyObject *before = capsule ? PyDataMem_SetHandler(capsule) : NULL;
    Py_XDECREF(before);
    Py_XDECREF(capsule);
    return before ? 0 : -1;
}
