/* Preloaded: makes the k-th allocation, or the k-th write to a file, of this process fail. See helpers/faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, ALLOCATIONS, WRITES };

static atomic_int armed;
static atomic_long count;
static long at;             /* the number of the one that fails, from 1 */
static int sticky;          /* all later ones fail, too */
static int number;          /* errno of a write that fails */
static int others;          /* only in threads other than the one that armed */
static pthread_t owner;
static uintptr_t exempt[64][3]; /* callers [from, to) whose allocations up to so many bytes never fail */
static int n_exempt;

void faults_exempt(uintptr_t from, uintptr_t to, size_t size) {
    if (n_exempt < 64) {
        exempt[n_exempt][0] = from;
        exempt[n_exempt][1] = to;
        exempt[n_exempt++][2] = size;
    }
}

void faults_arm(int what, long k, int later_too, int error, int only_others) {
    atomic_store(&armed, NOTHING);
    atomic_store(&count, 0);
    at = k;
    sticky = later_too;
    number = error;
    others = only_others;
    owner = pthread_self();
    atomic_store(&armed, what);
}

/* Disarm; the number of allocations or writes since faults_arm. */
long faults_disarm(void) {
    atomic_store(&armed, NOTHING);
    return atomic_load(&count);
}

static int fails(int what, const void *caller, size_t size) {
    if (atomic_load(&armed) != what || (others && pthread_equal(owner, pthread_self()))) return 0;
    for (int i = 0; i < n_exempt; i++)
        if ((uintptr_t)caller >= exempt[i][0] && (uintptr_t)caller < exempt[i][1] && size <= exempt[i][2])
            return 0;
    long k = atomic_fetch_add(&count, 1) + 1;
    if (k == at && getenv("FAULTS_SHOW")) {
        Dl_info found = {0};
        if (!dladdr(caller, &found)) found.dli_fname = "?";
        dprintf(2, "number %ld, %zu bytes, in %s (%s)\n", k, size, found.dli_fname,
                found.dli_sname ? found.dli_sname : "a static function");
    }
    return sticky ? k >= at : k == at;
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

#define ALLOCATION(size, failed)                                          \
    if (fails(ALLOCATIONS, __builtin_return_address(0), size)) {       \
        errno = ENOMEM;                                             \
        return failed;                                              \
    }

void *malloc(size_t size) {
    ALLOCATION(size, NULL)
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
    ALLOCATION(n * size, NULL)
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size) {
    ALLOCATION(size, NULL)
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    ALLOCATION(size, NULL)
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **found, size_t alignment, size_t size) {
    ALLOCATION(size, ENOMEM)
    *found = __libc_memalign(alignment, size);
    return *found ? 0 : ENOMEM;
}

/* Only regular files, folders count for fsync: messages to terminals and pipes get through. */
static int write_fails(int fd, const void *caller) {
    struct stat found;
    if (atomic_load(&armed) != WRITES || fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)))
        return 0;
    if (!fails(WRITES, caller, SIZE_MAX)) return 0;
    errno = number;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);
#define WRITE \
    if (write_fails(fd, __builtin_return_address(0))) return -1;

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write)
    WRITE
    return real(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    REAL(pwrite64)
    WRITE
    return real(fd, data, size, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev)
    WRITE
    return real(fd, parts, n);
}

int fsync(int fd) {
    REAL(fsync)
    WRITE
    return real(fd);
}

int ftruncate64(int fd, off_t size) {
    REAL(ftruncate64)
    WRITE
    return real(fd, size);
}
