/* team.h: the parallel region and its barrier. Two bodies, chosen when compiling: OpenMP (the default), or C11 threads
 * where the compiler has no OpenMP. Included by forward.c only. */
#ifndef GPT2C_TEAM_H
#define GPT2C_TEAM_H

#include <fenv.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
#include <threads.h>
#endif

typedef void (*team_body)(void *argument, int thread, int threads);

/* Every member waits until all have arrived. It spins for some microseconds (the usual wait), then yields, then sleeps,
 * so that more threads than free cores do not collapse. */
typedef struct {
    atomic_int arrived;
    atomic_uint generation;
} team_barrier;

static void team_wait(team_barrier *barrier, int threads) {
    if (threads == 1) return;
    const unsigned generation = atomic_load_explicit(&barrier->generation, memory_order_acquire);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) == threads - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->generation, generation + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&barrier->generation, memory_order_acquire) == generation; spins++) {
        if (spins < 1000) {
#if defined(__SSE__)
            _mm_pause();
#endif
        } else if (spins < 3000) {
            sched_yield();
        } else {
            const struct timespec nap = {0, 50000};
            nanosleep(&nap, NULL);
        }
    }
}

/* The body runs under the default floating-point state (another library may have set flush-to-zero or another rounding
 * in this thread); the state that was found is restored. */
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

static const char *team_kind(void) { return "openmp"; }

static void team_run(int threads, team_body body, void *argument) {
    if (threads <= 1) { /* not even a region of one: a forked child must not touch its parent's team */
        team_call(body, argument, 0, 1);
        return;
    }
#pragma omp parallel num_threads(threads)
    team_call(body, argument, omp_get_thread_num(), omp_get_num_threads());
}

#else

static const char *team_kind(void) { return "c11"; }

typedef struct {
    team_body body;
    void *argument;
    int thread;
    atomic_int *threads; /* 0 until it is known how many could be started */
} team_member;

static int team_member_main(void *pointer) {
    const team_member *member = pointer;
    int threads;
    while ((threads = atomic_load(member->threads)) == 0) sched_yield();
    team_call(member->body, member->argument, member->thread, threads);
    return 0;
}

static void team_run(int threads, team_body body, void *argument) {
    enum { MOST = 256 };
    thrd_t handles[MOST];
    team_member members[MOST];
    atomic_int known = 0;
    int started = 1;
    while (started < threads && started < MOST) {
        members[started] = (team_member){body, argument, started, &known};
        if (thrd_create(&handles[started], team_member_main, &members[started]) != thrd_success) break;
        started++;
    }
    atomic_store(&known, started);
    team_call(body, argument, 0, started);
    for (int i = 1; i < started; i++) thrd_join(handles[i], NULL);
}

#endif
#endif
