/* The model as a list of phases, each split into items that any thread may take. An item's result does not depend on
 * who takes it or when, so results do not depend on the number of threads. */
#define _POSIX_C_SOURCE 200809L
#include "gpt2c.h"
#include "team.h"

#include <string.h>

enum { ROW_BLOCK = 96 }; /* rows that a thread takes through a panel at a time */

typedef struct {
    const gpt2c_call *call;
    const gpt2c_step *steps;
    ptrdiff_t n_steps;
    team_queue queue;
    atomic_int stopped; /* what poll returned */
    struct timespec polled;
} region;

static ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t d_pad_of(const gpt2c_model *m) { return (m->d_head + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES; }
static ptrdiff_t panels_of(ptrdiff_t n_out) { return (n_out + GPT2C_PANEL - 1) / GPT2C_PANEL; }

static struct timespec coarse_now(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return now;
}

/* Whether to go on. Thread 0 looks at the (coarse, cheap) clock and asks the caller every few milliseconds. After a
 * stop all items are still taken, with nothing done. */
static int go_on(region *r, int thread) {
    if (atomic_load_explicit(&r->stopped, memory_order_relaxed)) return 0;
    if (thread == 0 && r->call->poll) {
        const struct timespec now = coarse_now();
        const long long waited = (now.tv_sec - r->polled.tv_sec) * 1000000000LL + (now.tv_nsec - r->polled.tv_nsec);
        if (waited >= 4000000LL) {
            r->polled = now;
            const int answer = r->call->poll(r->call->poll_argument);
            if (answer) atomic_store(&r->stopped, answer);
            return !answer;
        }
    }
    return 1;
}

/* ---- the sequences behind the rows of a step ---- */

/* The sequence that row belongs to, searched from `sequence` on (rows come in ascending order). */
static ptrdiff_t sequence_of(const gpt2c_call *c, ptrdiff_t row, ptrdiff_t sequence) {
    while (row >= c->row_start[sequence + 1]) sequence++;
    return sequence;
}

/* The same for the first row of a range. */
static ptrdiff_t first_sequence(const gpt2c_call *c, ptrdiff_t row) {
    ptrdiff_t low = 0, high = c->n_sequences; /* row_start[low] <= row < row_start[high] */
    while (high - low > 1) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if (c->row_start[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static ptrdiff_t position_of(const gpt2c_call *c, ptrdiff_t row, ptrdiff_t sequence) {
    return c->lengths[sequence] + row - c->row_start[sequence];
}

static float *keys_of(const gpt2c_call *c, ptrdiff_t sequence, ptrdiff_t layer, ptrdiff_t head) {
    const gpt2c_cache *cache = &c->caches[sequence];
    return cache->k + (layer * c->model->n_head + head) * cache->capacity * c->model->d_head;
}

static float *values_of(const gpt2c_call *c, ptrdiff_t sequence, ptrdiff_t layer, ptrdiff_t head) {
    const gpt2c_cache *cache = &c->caches[sequence];
    return cache->v + (layer * c->model->n_head + head) * cache->capacity * d_pad_of(c->model);
}

/* ---- phases ---- */

/* x = wte[id] + wpe[position] for rows [begin, end) of the step. */
static void embed(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    const gpt2c_model *m = c->model;
    ptrdiff_t sequence = first_sequence(c, step->row0 + begin);
    for (ptrdiff_t r = begin; r < end; r++) {
        const ptrdiff_t row = step->row0 + r;
        sequence = sequence_of(c, row, sequence);
        const ptrdiff_t id = c->ids[row];
        const float *token = m->wte + id / GPT2C_PANEL * m->wte_panel + id % GPT2C_PANEL * m->wte_row;
        const float *place = m->wpe + position_of(c, row, sequence) * m->n_embd;
        float *x = c->x + r * m->n_embd;
        for (ptrdiff_t k = 0; k < m->n_embd; k++) x[k] = token[k * m->wte_col] + place[k];
    }
}

/* Keys and values of rows [begin, end) of the step into their caches. */
static void append(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t d = m->d_head, d_pad = d_pad_of(m);
    ptrdiff_t sequence = first_sequence(c, step->row0 + begin);
    for (ptrdiff_t r = begin; r < end; r++) {
        sequence = sequence_of(c, step->row0 + r, sequence);
        const ptrdiff_t position = position_of(c, step->row0 + r, sequence);
        for (ptrdiff_t head = 0; head < m->n_head; head++) {
            const float *k = c->qkv + r * 3 * m->n_embd + m->n_embd + head * d, *v = k + m->n_embd;
            float *to_k = keys_of(c, sequence, step->layer, head) + position / GPT2C_LANES * GPT2C_LANES * d +
                          position % GPT2C_LANES;
            float *to_v = values_of(c, sequence, step->layer, head) + position * d_pad;
            for (ptrdiff_t i = 0; i < d; i++) to_k[i * GPT2C_LANES] = k[i];
            memcpy(to_v, v, (size_t)d * sizeof *v);
            memset(to_v + d, 0, (size_t)(d_pad - d) * sizeof *v);
        }
    }
}

/* Rows [begin, end) of the step attend with one head; rows of one sequence go together. */
static void attend(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t begin, ptrdiff_t end,
                   float *scratch) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t d = m->d_head;
    ptrdiff_t sequence = first_sequence(c, step->row0 + begin);
    for (ptrdiff_t r = begin, rows; r < end; r += rows) {
        sequence = sequence_of(c, step->row0 + r, sequence);
        rows = smaller(end, c->row_start[sequence + 1] - step->row0) - r;
        c->kernels->attention(c->mixed + r * m->n_embd + head * d, m->n_embd, c->qkv + r * 3 * m->n_embd + head * d,
                              3 * m->n_embd, keys_of(c, sequence, step->layer, head),
                              values_of(c, sequence, step->layer, head), rows, position_of(c, step->row0 + r, sequence),
                              d, m->layers[step->layer].attn_scale, scratch);
    }
}

typedef struct {
    const gpt2c_dense *dense;
    const float *input;
    float *out;
    gpt2c_epilogue epilogue;
} dense_work;

static dense_work work_of(const gpt2c_call *c, const gpt2c_step *step) {
    const gpt2c_model *m = c->model;
    const gpt2c_layer *layer = &m->layers[step->layer];
    const gpt2c_epilogue plain = {GPT2C_IDENTITY, NULL}, activate = {m->activation, NULL}, add = {GPT2C_IDENTITY, c->x};
    switch (step->phase) {
    case GPT2C_C_ATTN:
        return (dense_work){&layer->c_attn, c->norm, c->qkv, plain};
    case GPT2C_ATTN_PROJ:
        return (dense_work){&layer->attn_proj, c->mixed, c->x, add};
    case GPT2C_C_FC:
        return (dense_work){&layer->c_fc, c->norm, c->hidden, activate};
    case GPT2C_MLP_PROJ:
        return (dense_work){&layer->mlp_proj, c->hidden, c->x, add};
    case GPT2C_HEAD: /* LN_F left its rows in order from the first wanted row of the chunk on */
        return (dense_work){&m->head, c->norm + (step->row0 - step->origin) * m->n_embd,
                            c->targets ? c->logits : c->logits + step->row0 * m->n_vocab, plain};
    default:
        return (dense_work){NULL, NULL, NULL, plain};
    }
}

const gpt2c_dense *gpt2c_step_dense(const gpt2c_call *call, const gpt2c_step *step, const float **input) {
    const dense_work work = work_of(call, step);
    *input = work.input;
    return work.dense;
}

static void dense_rows(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t panel, ptrdiff_t begin, ptrdiff_t end,
                       float *scratch) {
    const dense_work work = work_of(c, step);
    const ptrdiff_t n_in = work.dense->n_in, n_out = work.dense->n_out;
    float *out = work.out + begin * n_out;
    gpt2c_epilogue here = work.epilogue;
    if (here.residual) here.residual += begin * n_out;
    if (c->dense_done)
        c->kernels->epilogue(out, n_out, c->sums + begin * n_out, n_out, work.dense->bias, &here, end - begin, n_out);
    else
        c->kernels->linear(out, n_out, work.input + begin * n_in, n_in, work.dense, &here, end - begin, panel,
                           panel + 1, scratch);
}

static void score(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t r) {
    const float *logits = c->logits + r * c->model->n_vocab;
    const ptrdiff_t row = step->row0 + r;
    const float logit = logits[c->targets[row]];
    c->target_logit[row] = logit;
    c->greater[row] =
        c->kernels->log_sum(logits, c->model->n_vocab, logit, &c->maximum[row], &c->total[row], &c->moment[row]);
}

/* ---- items ---- */

/* How a phase is split: its items are (slice, part), a slice being a head or a panel, a part some of the rows. */
typedef struct {
    ptrdiff_t slices, parts;
} split;

static split split_of(const gpt2c_call *c, const gpt2c_step *step) {
    const ptrdiff_t tiles = (step->rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS;
    const float *unused;
    const gpt2c_dense *dense = gpt2c_step_dense(c, step, &unused);
    if (dense && !c->dense_done) return (split){panels_of(dense->n_out), (step->rows + ROW_BLOCK - 1) / ROW_BLOCK};
    if (step->phase == GPT2C_ATTENTION) return (split){c->model->n_head, tiles};
    if (step->phase == GPT2C_SCORE) return (split){1, step->rows};
    return (split){1, tiles};
}

static void run_item(const gpt2c_call *c, const gpt2c_step *step, split s, ptrdiff_t item, float *scratch) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t n = m->n_embd, slice = item / s.parts, part = item % s.parts;
    const ptrdiff_t begin = step->rows * part / s.parts, end = step->rows * (part + 1) / s.parts;
    switch (step->phase) {
    case GPT2C_EMBED:
        embed(c, step, begin, end);
        break;
    case GPT2C_LN_1:
    case GPT2C_LN_2:
        c->kernels->layer_norm(c->norm + begin * n, n, c->x + begin * n, n,
                               step->phase == GPT2C_LN_1 ? &m->layers[step->layer].ln_1 : &m->layers[step->layer].ln_2,
                               m->epsilon, end - begin, n);
        break;
    case GPT2C_LN_F: /* of the wanted rows only */
        for (ptrdiff_t i = begin; i < end; i++)
            c->kernels->layer_norm(c->norm + i * n, n, c->x + (c->out_rows[step->row0 + i] - step->origin) * n, n,
                                   &m->ln_f, m->epsilon, 1, n);
        break;
    case GPT2C_APPEND:
        append(c, step, begin, end);
        break;
    case GPT2C_ATTENTION:
        attend(c, step, slice, begin, end, scratch);
        break;
    case GPT2C_SCORE:
        score(c, step, part);
        break;
    default:
        dense_rows(c, step, slice, begin, end, scratch);
        break;
    }
}

static void run_steps(void *pointer, int thread, int threads) {
    region *r = pointer;
    const gpt2c_call *c = r->call;
    ptrdiff_t finished = 0, item;
    for (ptrdiff_t i = 0; i < r->n_steps; i++) {
        const split s = split_of(c, &r->steps[i]);
        const ptrdiff_t items = s.slices * s.parts;
        while ((item = team_take(&r->queue, i + 1, items, thread, threads)) >= 0) {
            if (go_on(r, thread)) run_item(c, &r->steps[i], s, item, c->scratch + thread * c->scratch_size);
            team_done(&r->queue);
        }
        finished += items;
        team_wait(&r->queue, finished);
    }
}

int gpt2c_run(const gpt2c_call *call, const gpt2c_step *steps, ptrdiff_t n_steps) {
    region r = {.call = call, .steps = steps, .n_steps = n_steps, .polled = coarse_now()};
    team_run(call->threads, run_steps, &r);
    return atomic_load(&r.stopped);
}

/* ---- the plan ---- */

ptrdiff_t gpt2c_scratch_size(const gpt2c_model *model, ptrdiff_t chunk) {
    const ptrdiff_t linear = 2 * smaller(chunk, ROW_BLOCK) * GPT2C_PANEL,
                    attention = GPT2C_ATTENTION_SCRATCH(d_pad_of(model));
    return ((linear > attention ? linear : attention) + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES;
}

ptrdiff_t gpt2c_plan(const gpt2c_call *call, gpt2c_step *steps) {
    const ptrdiff_t rows = call->row_start[call->n_sequences];
    ptrdiff_t n = 0, wanted = 0;
#define STEP(...)                                                                                                      \
    do {                                                                                                               \
        if (steps) steps[n] = (gpt2c_step){__VA_ARGS__};                                                               \
        n++;                                                                                                           \
    } while (0)
    for (ptrdiff_t row = 0; row < rows; row += GPT2C_CHUNK) {
        const ptrdiff_t count = smaller(rows - row, GPT2C_CHUNK);
        STEP(GPT2C_EMBED, 0, row, count, row);
        for (ptrdiff_t layer = 0; layer < call->model->n_layer; layer++)
            for (int phase = GPT2C_LN_1; phase <= GPT2C_MLP_PROJ; phase++) STEP(phase, layer, row, count, row);
        ptrdiff_t first = wanted;
        while (wanted < call->n_out && call->out_rows[wanted] < row + count) wanted++;
        if (wanted == first) continue;
        STEP(GPT2C_LN_F, 0, first, wanted - first, row);
        const ptrdiff_t block = call->targets ? call->score_block : wanted - first;
        for (ptrdiff_t out = first; out < wanted; out += block) {
            STEP(GPT2C_HEAD, 0, out, smaller(wanted - out, block), first);
            if (call->targets) STEP(GPT2C_SCORE, 0, out, smaller(wanted - out, block), out);
        }
    }
#undef STEP
    return n;
}

/* ---- helpers of tests and benchmarks ---- */

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

const char *gpt2c_team_kind(void) { return team_kind(); }
