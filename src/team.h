/* team.h: the parallel region and the queue of its work. Two bodies, chosen when compiling: OpenMP (the default), or
 * C11 threads where the compiler has no OpenMP. Included by forward.c only. */
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

/* The work of a region: items numbered through all its phases. There is no barrier: a phase is over when its items are
 * done, so a member that the system has put aside holds up the others only if it was in the middle of an item. */
typedef struct {
    _Alignas(64) atomic_ptrdiff_t taken;
    _Alignas(64) atomic_ptrdiff_t done;
} team_queue;

/* The next item below `end` that nobody has taken, or -1. */
static ptrdiff_t team_take(team_queue *queue, ptrdiff_t end) {
    ptrdiff_t next = atomic_load_explicit(&queue->taken, memory_order_relaxed);
    while (next < end)
        if (atomic_compare_exchange_weak_explicit(&queue->taken, &next, next + 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return next;
    return -1;
}

static void team_done(team_queue *queue) { atomic_fetch_add_explicit(&queue->done, 1, memory_order_release); }

/* Waits until all items below `end` are done, and sees what they wrote. It spins for some microseconds (the usual
 * wait), then yields, then sleeps, so that more threads than free cores do not collapse. */
static void team_wait(team_queue *queue, ptrdiff_t end) {
    for (int spins = 0; atomic_load_explicit(&queue->done, memory_order_acquire) < end; spins++) {
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
