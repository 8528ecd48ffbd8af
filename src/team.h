/* team.h: the queue of a parallel region's work, shared by its threads. The region itself: team.c. */
#ifndef GPT2C_TEAM_H
#define GPT2C_TEAM_H

#include "gpt2c.h"

#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

typedef void (*team_body)(void *argument, int thread, int threads);

/* Runs the body on up to `threads` threads, this one among them, and waits for all; on fewer where no more could be
 * started. */
void team_run(int threads, team_body body, void *argument);

/* The work of a region: phases of items. Every member first claims the items of its own share, which are adjacent in
 * memory, then the rest of the others' shares. No barrier is needed: a phase is over when its items are done, so a
 * member that the system has suspended holds up the others only if it was in the middle of an item. */
typedef struct {
    atomic_ptrdiff_t done;                          /* items, counted through all phases */
    atomic_uint_fast64_t share[GPT2C_MOST_THREADS]; /* phase << 32 | the next item; an older phase: none claimed */
} team_queue;

/* An unclaimed item of the `items` that phase number `phase` has, or -1. */
static inline ptrdiff_t team_claim(team_queue *queue, ptrdiff_t phase, ptrdiff_t items, int thread, int threads) {
    const uint_fast64_t now = (uint_fast64_t)phase << 32;
    for (int i = 0; i < threads; i++) {
        const int owner = (thread + i) % threads;
        const uint_fast64_t begin = now + (uint_fast64_t)(items * owner / threads);
        const uint_fast64_t end = now + (uint_fast64_t)(items * (owner + 1) / threads);
        uint_fast64_t found = atomic_load_explicit(&queue->share[owner], memory_order_relaxed);
        for (;;) {
            const uint_fast64_t next = found < begin ? begin : found;
            if (next >= end) break; /* all claimed, or a later phase has begun */
            if (atomic_compare_exchange_weak_explicit(&queue->share[owner], &found, next + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                return (ptrdiff_t)(next - now);
        }
    }
    return -1;
}

static inline void team_done(team_queue *queue) { atomic_fetch_add_explicit(&queue->done, 1, memory_order_release); }

/* One turn of a wait: it spins for some microseconds (the usual wait), then yields, then sleeps, so that more threads
 * than free cores do not collapse. */
enum { TEAM_YIELD = 1000, TEAM_SLEEP = 3000 };
static inline void team_relax(int spins) {
    if (spins < TEAM_YIELD) {
#if defined(__SSE__)
        _mm_pause();
#endif
    } else if (spins < TEAM_SLEEP) {
        sched_yield();
    } else {
        const struct timespec nap = {0, 50000};
        nanosleep(&nap, NULL);
    }
}

/* Waits until `end` items are done, and sees what they wrote. */
static inline void team_wait(team_queue *queue, ptrdiff_t end) {
    for (int spins = 0; atomic_load_explicit(&queue->done, memory_order_acquire) < end; spins++) team_relax(spins);
}

#endif
