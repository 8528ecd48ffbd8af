/* The parallel region: threads that run one body. Two implementations, chosen when compiling: OpenMP (the default), or
 * C11 threads where the compiler has no OpenMP. The model runs in it (run.c), weights are packed in it
 * (gpt2c_parallel_for), and benchmarks measure it (gpt2c_empty_phases). */
#define _POSIX_C_SOURCE 200809L
#include "team.h"

#include <fenv.h>
#ifdef _OPENMP
#include <omp.h>
#else
#include <threads.h>
#endif

/* The body runs under the default floating-point state (another library may have set flush-to-zero or another rounding
 * in this thread); the previous state is restored. */
static void team_call(team_body body, void *argument, int thread, int threads) {
    fenv_t found;
    fegetenv(&found);
    fesetenv(FE_DFL_ENV);
#if defined(__SSE__)
    _mm_setcsr(0x1F80U); /* FE_DFL_ENV may leave flush-to-zero as it was */
#endif
    body(argument, thread, threads);
    fesetenv(&found);
}

#ifdef _OPENMP

const char *gpt2c_team_kind(void) { return "openmp"; }

void team_run(int threads, team_body body, void *argument) {
    if (threads <= 1) { /* not even a region of one: a forked child must not touch its parent's team */
        team_call(body, argument, 0, 1);
        return;
    }
#pragma omp parallel num_threads(threads)
    team_call(body, argument, omp_get_thread_num(), omp_get_num_threads());
}

#else

const char *gpt2c_team_kind(void) { return "c11"; }

typedef struct {
    team_body body;
    void *argument;
    int thread;
    atomic_int *threads; /* 0 until the number of started threads is known */
} team_member;

static int team_member_main(void *pointer) {
    const team_member *member = pointer;
    int threads;
    while ((threads = atomic_load(member->threads)) == 0) sched_yield();
    team_call(member->body, member->argument, member->thread, threads);
    return 0;
}

void team_run(int threads, team_body body, void *argument) {
    thrd_t handles[GPT2C_MOST_THREADS];
    team_member members[GPT2C_MOST_THREADS];
    atomic_int known = 0;
    int started = 1;
    while (started < threads && started < GPT2C_MOST_THREADS) {
        members[started] = (team_member){body, argument, started, &known};
        if (thrd_create(&handles[started], team_member_main, &members[started]) != thrd_success) break;
        started++;
    }
    atomic_store(&known, started);
    team_call(body, argument, 0, started);
    for (int i = 1; i < started; i++) thrd_join(handles[i], NULL);
}

#endif

/* ---- loops, and regions without work ---- */

typedef struct {
    ptrdiff_t n;
    void (*body)(void *, ptrdiff_t, ptrdiff_t, int);
    void *argument;
} loop;

static void run_loop(void *pointer, int thread, int threads) {
    const loop *l = pointer;
    l->body(l->argument, l->n * thread / threads, l->n * (thread + 1) / threads, thread);
}

void gpt2c_parallel_for(int threads, ptrdiff_t n, void (*body)(void *, ptrdiff_t, ptrdiff_t, int), void *argument) {
    loop l = {n, body, argument};
    team_run(threads, run_loop, &l);
}

typedef struct {
    ptrdiff_t phases;
    team_queue queue;
} empty_region;

static void run_empty(void *pointer, int thread, int threads) {
    empty_region *r = pointer;
    for (ptrdiff_t i = 1; i <= r->phases; i++) {
        while (team_claim(&r->queue, i, threads, thread, threads) >= 0) team_done(&r->queue);
        team_wait(&r->queue, i * threads);
    }
}

void gpt2c_empty_phases(int threads, ptrdiff_t phases) {
    empty_region r = {.phases = phases};
    team_run(threads, run_empty, &r);
}
