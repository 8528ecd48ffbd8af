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

/* The work of a region: phases of items. Every member first takes the items of its own share, which lie together in
 * memory, then what is left of the others' shares. There is no barrier: a phase is over when its items are done, so a
 * member that the system has put aside holds up the others only if it was in the middle of an item. */
enum { TEAM_MOST = 1024 };

typedef struct {
    atomic_ptrdiff_t done;                 /* items, counted through all phases */
    atomic_uint_fast64_t share[TEAM_MOST]; /* phase << 32 | the next item; an older phase: nothing taken yet */
} team_queue;

/* An item that nobody has taken, of the `items` that phase number `phase` has, or -1. */
static ptrdiff_t team_take(team_queue *queue, ptrdiff_t phase, ptrdiff_t items, int thread, int threads) {
    const uint_fast64_t now = (uint_fast64_t)phase << 32;
    for (int i = 0; i < threads; i++) {
        const int owner = (thread + i) % threads;
        const uint_fast64_t begin = now + (uint_fast64_t)(items * owner / threads);
        const uint_fast64_t end = now + (uint_fast64_t)(items * (owner + 1) / threads);
        uint_fast64_t found = atomic_load_explicit(&queue->share[owner], memory_order_relaxed);
        for (;;) {
            const uint_fast64_t next = found < begin ? begin : found;
            if (next >= end) break; /* all taken, or a later phase has begun */
            if (atomic_compare_exchange_weak_explicit(&queue->share[owner], &found, next + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                return (ptrdiff_t)(next - now);
        }
    }
    return -1;
}

static void team_done(team_queue *queue) { atomic_fetch_add_explicit(&queue->done, 1, memory_order_release); }

/* Waits until `end` items are done, and sees what they wrote. It spins for some microseconds (the usual
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
    thrd_t handles[TEAM_MOST];
    team_member members[TEAM_MOST];
    atomic_int known = 0;
    int started = 1;
    while (started < threads && started < TEAM_MOST) {
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
