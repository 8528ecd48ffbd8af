/* The parallel region: threads that run one body. Two implementations: OpenMP, and a pool of POSIX threads, chosen when
 * running; without OpenMP in the compiler there is only the pool. The model runs in the region (run.c), weights are
 * packed in it (gpt2c_parallel_for), and benchmarks measure it (gpt2c_empty_phases). */
#define _POSIX_C_SOURCE 200809L
#include "team.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#ifdef _OPENMP
#include <omp.h>
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

/* ---- the pool ---- */

/* Threads that wait for the next region. A call takes as many as are idle and starts what it lacks, so calls of several
 * threads have workers of their own. */

enum { POOL_STACK = 1 << 20 };

typedef struct {
    team_body body;
    void *argument;
    int threads;
    atomic_int running; /* members besides the caller that have not returned */
} team_job;

typedef struct {
    _Atomic(team_job *) job; /* NULL: idle */
    int thread;              /* its number in the job */
    int next;                /* of the idle workers; -1: the last */
    pthread_mutex_t lock;
    pthread_cond_t wake;
} team_worker;

static struct {
    pthread_mutex_t lock; /* of what follows */
    int started, idle;    /* workers; the first idle one or -1 */
    int watched;          /* whether forks are */
    team_worker workers[GPT2C_MOST_THREADS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .idle = -1};
static atomic_int shortage;

int gpt2c_team_short(void) { return atomic_load(&shortage); }

/* A forked child has none of the threads. */
static void pool_forked(void) {
    pthread_mutex_init(&pool.lock, NULL);
    pool.started = 0;
    pool.idle = -1;
}

static team_job *pool_next(team_worker *worker) {
    team_job *job;
    for (int spins = 0; spins < TEAM_SLEEP; spins++) {
        if ((job = atomic_load_explicit(&worker->job, memory_order_acquire)) != NULL) return job;
        team_relax(spins);
    }
    pthread_mutex_lock(&worker->lock);
    while ((job = atomic_load_explicit(&worker->job, memory_order_acquire)) == NULL)
        pthread_cond_wait(&worker->wake, &worker->lock);
    pthread_mutex_unlock(&worker->lock);
    return job;
}

static void *pool_worker(void *pointer) {
    team_worker *worker = pointer;
    for (;;) {
        team_job *job = pool_next(worker);
        team_call(job->body, job->argument, worker->thread, job->threads);
        atomic_store_explicit(&worker->job, NULL, memory_order_relaxed);
        atomic_fetch_sub_explicit(&job->running, 1, memory_order_release); /* the job may be gone now */
    }
    return NULL;
}

/* Starts one more worker, with all signals blocked: they are for the program's own threads. */
static int pool_start(void) {
    if (pool.started == GPT2C_MOST_THREADS) return -1;
    if (!pool.watched) pool.watched = pthread_atfork(NULL, NULL, pool_forked) == 0;
    team_worker *worker = &pool.workers[pool.started];
    atomic_init(&worker->job, NULL);
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->wake, NULL);
    pthread_attr_t attributes;
    pthread_t handle;
    sigset_t all, found;
    if (pthread_attr_init(&attributes) != 0) return -1;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, POOL_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &found);
    const int problem = pthread_create(&handle, &attributes, pool_worker, worker);
    pthread_sigmask(SIG_SETMASK, &found, NULL);
    pthread_attr_destroy(&attributes);
    return problem ? -1 : pool.started++;
}

/* Takes up to `wanted` workers; returns how many there were. */
static int pool_take(int wanted, int *taken) {
    int n = 0;
    pthread_mutex_lock(&pool.lock);
    for (; n < wanted; n++) {
        const int worker = pool.idle >= 0 ? pool.idle : pool_start();
        if (worker < 0) break;
        if (worker == pool.idle) pool.idle = pool.workers[worker].next;
        taken[n] = worker;
    }
    pthread_mutex_unlock(&pool.lock);
    return n;
}

static void pool_give(int n, const int *taken) {
    pthread_mutex_lock(&pool.lock);
    for (int i = n - 1; i >= 0; i--) { /* so that the next call takes them in the same order */
        pool.workers[taken[i]].next = pool.idle;
        pool.idle = taken[i];
    }
    pthread_mutex_unlock(&pool.lock);
}

static void pool_run(int threads, team_body body, void *argument) {
    int taken[GPT2C_MOST_THREADS];
    const int n = pool_take(threads - 1, taken);
    team_job job = {body, argument, n + 1, n};
    for (int i = 0; i < n; i++) {
        team_worker *worker = &pool.workers[taken[i]];
        worker->thread = i + 1;
        pthread_mutex_lock(&worker->lock);
        atomic_store_explicit(&worker->job, &job, memory_order_release);
        pthread_cond_signal(&worker->wake);
        pthread_mutex_unlock(&worker->lock);
    }
    team_call(body, argument, 0, n + 1);
    for (int spins = 0; atomic_load_explicit(&job.running, memory_order_acquire) > 0; spins++) team_relax(spins);
    pool_give(n, taken);
    if (n + 1 < threads) atomic_store(&shortage, n + 1);
}

/* ---- which of the two ---- */

#ifdef _OPENMP

static atomic_int chosen_pool;

int gpt2c_team_choose(int use_pool) {
    atomic_store(&chosen_pool, use_pool);
    return 0;
}

const char *gpt2c_team_kind(void) { return atomic_load(&chosen_pool) ? "pool" : "openmp"; }

static void *probe(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* Whether `more` threads can be started, all at once: GNU OpenMP ends the process where one cannot. */
static int can_start(int more) {
    pthread_t handles[GPT2C_MOST_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int n = 0;
    pthread_mutex_lock(&gate);
    while (n < more && pthread_create(&handles[n], NULL, probe, &gate) == 0) n++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < n; i++) pthread_join(handles[i], NULL);
    return n == more;
}

void team_run(int threads, team_body body, void *argument) {
    static _Thread_local int proven = 1; /* the largest team of this thread, whose members stay */
    if (threads <= 1) {                  /* not even a region of one: it would start a team */
        team_call(body, argument, 0, 1);
        return;
    }
    if (!atomic_load(&chosen_pool) && threads > proven) {
        if (can_start(threads - 1))
            proven = threads;
        else
            atomic_store(&chosen_pool, 1);
    }
    if (atomic_load(&chosen_pool)) {
        pool_run(threads, body, argument);
        return;
    }
#pragma omp parallel num_threads(threads)
    team_call(body, argument, omp_get_thread_num(), omp_get_num_threads());
}

#else

int gpt2c_team_choose(int use_pool) { return use_pool ? 0 : -1; }

const char *gpt2c_team_kind(void) { return "pool"; }

void team_run(int threads, team_body body, void *argument) {
    if (threads > 1)
        pool_run(threads, body, argument);
    else
        team_call(body, argument, 0, 1);
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
