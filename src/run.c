/* The steps of a call, each split into items that any thread may claim. An item's result does not depend on who
 * computes it or when, so results do not depend on the number of threads. */
#define _POSIX_C_SOURCE 200809L
#include "pass.h"
#include "team.h"

#include <math.h>
#include <string.h>

/* ---- dense layers ---- */

/* A dense phase's operands, and the destination of its result. */
typedef struct {
    const gpt2c_dense *dense;
    const gpt2c_norm *norm; /* the LayerNorm of x that produces the input; NULL: something else does */
    const float *source;    /* the input in float32; NULL: written in the dense layer's format at once */
    const void *input;      /* in the dense layer's format, */
    ptrdiff_t row0;         /* from this row on, like source */
    float *out;
    gpt2c_epilogue epilogue;
} dense_work;

static dense_work work_of(const gpt2c_call *c, const gpt2c_step *step) {
    const gpt2c_model *m = c->model;
    const gpt2c_workspace *w = &c->workspace;
    const gpt2c_layer *layer = &m->layers[step->layer];
    const gpt2c_epilogue plain = {GPT2C_IDENTITY, NULL}, activate = {m->activation, NULL}, add = {GPT2C_IDENTITY, w->x};
    dense_work work = {.epilogue = plain};
    const gpt2c_norm *ln_1 = m->post_norm ? NULL : &layer->ln_1, *ln_2 = m->post_norm ? NULL : &layer->ln_2;
    const float *norm = m->post_norm ? w->x : w->norm;
    switch (step->phase) {
    case GPT2C_C_ATTN:
        work = (dense_work){&layer->c_attn, ln_1, norm, w->encoded, 0, w->qkv, plain};
        break;
    case GPT2C_CROSS_Q:
        work = (dense_work){&layer->cross_q, &layer->ln_cross, norm, w->encoded, 0, w->qkv, plain};
        break;
    case GPT2C_CROSS_KV:
        work = (dense_work){&layer->cross_kv, NULL, w->x, w->encoded, 0, w->qkv, plain};
        break;
    case GPT2C_CROSS_PROJ:
        work = (dense_work){&layer->cross_proj, NULL, w->attended, w->encoded, 0, w->x, add};
        break;
    case GPT2C_ATTN_PROJ:
        work = (dense_work){&layer->attn_proj, NULL, w->attended, w->encoded, 0, w->x, add};
        break;
    case GPT2C_C_FC:
        work = (dense_work){&layer->c_fc, ln_2, norm, w->encoded, 0, w->hidden, activate};
        if (step->unfused) work.out = c->observer.pre, work.epilogue = plain;
        break;
    case GPT2C_MLP_PROJ:
        work = (dense_work){&layer->mlp_proj, NULL, step->unfused ? c->observer.post : NULL, w->hidden, 0, w->x, add};
        if (gpt2c_is_integer(layer->mlp_proj.dtype)) {
            if (!step->unfused) work.source = w->hidden;
            work.input = w->encoded;
        }
        break;
    case GPT2C_TRANSFORM:
        work = (dense_work){&m->transform, NULL, w->norm, w->encoded, 0, w->attended, activate};
        break;
    case GPT2C_HEAD: /* LN_F left its rows in order from the first wanted row of the chunk on */
        work.dense = &m->head, work.norm = &m->ln_f;
        work.source = w->norm, work.input = w->encoded;
        work.row0 = step->fold ? 0 : step->row0 - step->origin;
        work.out = c->output.target_start ? c->output.logits : c->output.logits + step->row0 * m->n_vocab;
        break;
    default:
        return work;
    }
    if (step->unfused && work.out == w->x) work.out = c->observer.branch, work.epilogue = plain;
    if (work.source && work.dense->dtype == GPT2C_FLOAT32) work.input = work.source;
    return work;
}

const gpt2c_dense *gpt2c_step_dense(const gpt2c_call *call, const gpt2c_step *step, const float **input) {
    const dense_work work = work_of(call, step);
    *input = (const float *)work.input + work.row0 * (work.dense ? work.dense->n_in : 0);
    return work.dense;
}

/* The input of a folded dense phase, all rows of it, prepared in `scratch` (fold_layout) unless it is ready; returns
 * where it is. */
static const void *prepare(const gpt2c_call *c, const gpt2c_step *step, float *scratch) {
    const fold_layout layout = fold_layout_of(c->model);
    const dense_work work = work_of(c, step);
    const ptrdiff_t n = c->model->n_embd;
    if (!work.source) return work.input;
    const float *source = scratch;
    if (work.norm)
        for (ptrdiff_t r = 0; r < step->rows; r++) pass_normalise_row(c, step, work.norm, r, scratch + r * n);
    else if (step->phase == GPT2C_ATTN_PROJ && c->workspace.key_blocks > 0)
        pass_merge(c, step, scratch, scratch + layout.merging);
    else
        source = work.source;
    if (work.dense->dtype == GPT2C_FLOAT32) return source;
    float *encoded = scratch + layout.encoded;
    const ptrdiff_t n_in = work.dense->n_in;
    c->kernels->encode(work.dense, encoded, 0, source, n_in, step->rows, 0, n_in);
    return encoded;
}

/* The column among queries, keys and values that the first output of a step is, if these go to the caches at once; -1:
 * they do not. */
static ptrdiff_t first_column(const gpt2c_model *m, const gpt2c_step *step) {
    if (step->phase == GPT2C_CROSS_KV) return m->n_embd;
    return step->phase == GPT2C_C_ATTN && !step->unfused ? 0 : -1;
}

/* Rows [begin, end) of the products that the caller has computed. */
static void finish_rows(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    const dense_work work = work_of(c, step);
    const ptrdiff_t n_out = work.dense->n_out;
    float *out = work.out + begin * n_out;
    gpt2c_epilogue here = work.epilogue;
    if (here.residual) here.residual += begin * n_out;
    c->kernels->epilogue(out, n_out, c->workspace.gemm + begin * n_out, n_out, work.dense->bias, &here, end - begin,
                         n_out);
    const ptrdiff_t column = first_column(c->model, step);
    if (column >= 0) pass_append(c, step, out, n_out, column, column + n_out, begin, end);
}

/* Rows [begin, end) of one panel of a dense layer. */
static void multiply_rows(const gpt2c_call *c, const gpt2c_step *step, const void *input, ptrdiff_t panel,
                          ptrdiff_t begin, ptrdiff_t end, float *scratch) {
    const dense_work work = work_of(c, step);
    const gpt2c_dense *dense = work.dense, *next = &c->model->layers[step->layer].mlp_proj;
    const ptrdiff_t n_out = dense->n_out, rows = end - begin;
    const ptrdiff_t column = panel * GPT2C_PANEL, columns = smaller(n_out - column, GPT2C_PANEL);
    const int encodes = step->phase == GPT2C_C_FC && next->dtype == GPT2C_BFLOAT16 && !step->unfused;
    const ptrdiff_t column0 = first_column(c->model, step);
    const int appends = column0 >= 0;
    float *out = work.out + begin * n_out + column;
    ptrdiff_t ld = n_out;
    gpt2c_epilogue here = work.epilogue;
    if (here.residual) here.residual += begin * n_out + column;
    /* outputs that go elsewhere directly are never written to work.out */
    if (encodes || (appends && column0 + column >= c->model->n_embd)) {
        out = scratch + GPT2C_LINEAR_SCRATCH(rows);
        ld = GPT2C_PANEL;
    }
    c->kernels->linear(out, ld, input, dense->n_in, work.row0 + begin, dense, &here, rows, panel, panel + 1, scratch);
    if (appends) pass_append(c, step, out, ld, column0 + column, column0 + column + columns, begin, end);
    if (encodes) c->kernels->encode(next, c->workspace.hidden, begin, out, ld, rows, column, columns);
}

static void encode_rows(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    gpt2c_step next = *step;
    next.phase = step->detail;
    const dense_work work = work_of(c, &next);
    const ptrdiff_t n_in = work.dense->n_in;
    void *to = (void *)(uintptr_t)work.input;
    c->kernels->encode(work.dense, to, begin, work.source + begin * n_in, n_in, end - begin, 0, n_in);
}

/* ---- phases of unfused layers ---- */

static void add_rows(const gpt2c_call *c, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t n = c->model->n_embd;
    float *x = c->workspace.x + begin * n;
    const gpt2c_epilogue add = {GPT2C_IDENTITY, x};
    c->kernels->epilogue(x, n, c->observer.branch + begin * n, n, NULL, &add, end - begin, n);
}

static void copy_rows(const gpt2c_call *c, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t n = c->model->n_embd;
    memcpy(c->workspace.x + begin * n, c->workspace.norm + begin * n, (size_t)((end - begin) * n) * sizeof(float));
}

static void activate_rows(const gpt2c_call *c, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t n = c->model->n_inner;
    c->kernels->apply(c->observer.post + begin * n, c->observer.pre + begin * n, (end - begin) * n,
                      c->model->activation);
}

/* ---- scores ---- */

/* The wanted outputs of one row of logits. */
static void score(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t r, float *scratch) {
    const gpt2c_kernels *kernels = c->kernels;
    const gpt2c_output *o = &c->output;
    const ptrdiff_t n = c->model->n_vocab, row = step->row0 + r;
    const ptrdiff_t first = o->target_start[row], last = o->target_start[row + 1];
    const float *logits = o->logits + r * n;
    for (ptrdiff_t t = first; t < last; t++) o->target_logit[t] = o->targets[t] < 0 ? NAN : logits[o->targets[t]];
    o->greater[first] = kernels->log_sum(logits, n, o->target_logit[first], &o->maximum[row], &o->total[row],
                                         &o->moment[row], &o->variance[row]);
    for (ptrdiff_t t = first + 1; t < last; t++) o->greater[t] = kernels->count_greater(logits, n, o->target_logit[t]);
    for (ptrdiff_t i = row * o->n_masks; i < (row + 1) * o->n_masks; i++)
        kernels->subset_sum(logits, n, o->masks + i % o->n_masks * GPT2C_MASK_WORDS(n), &o->mask_maximum[i],
                            &o->mask_total[i]);
    if (o->top == 0) return;
    int32_t *ids = o->top_ids + row * o->top;
    float *greatest = o->top_logits + row * o->top;
    if (!isnan(o->total[row])) {
        kernels->top(ids, greatest, logits, o->n_text, o->top, scratch);
        return;
    }
    for (ptrdiff_t i = 0; i < o->top; i++) {
        ids[i] = -1;
        greatest[i] = NAN;
    }
}

/* ---- items ---- */

/* How a phase is split: its items are (slice, part), a slice being a set of heads, a panel or a block of keys of a set
 * of heads, a part some of the rows. */
typedef struct {
    ptrdiff_t slices, parts;
} split;

static split split_of(const gpt2c_call *c, const gpt2c_step *step) {
    const gpt2c_dense *dense = work_of(c, step).dense;
    if (dense && !c->external_gemm) {
        const ptrdiff_t panels = GPT2C_PANELS(dense->n_out), wanted = (4 * c->threads + panels - 1) / panels;
        const ptrdiff_t fewest = (step->rows + ROW_BLOCK - 1) / ROW_BLOCK;
        const ptrdiff_t most = (step->rows + ROW_LEAST - 1) / ROW_LEAST;
        return (split){panels, wanted < fewest ? fewest : smaller(wanted, most)};
    }
    switch (step->phase) {
    case GPT2C_ATTENTION: {
        const attention_split attention = attention_split_of(c, step->rows);
        return (split){attention.slices * larger(c->workspace.key_blocks, 1), attention.parts};
    }
    case GPT2C_CROSS_ATTENTION:
    case GPT2C_SCORES:
    case GPT2C_SOFTMAX:
    case GPT2C_CROSS_PATTERN:
    case GPT2C_VALUES:
        return (split){c->model->n_head, query_tiles(step->rows)};
    case GPT2C_SCORE:
        return (split){1, step->rows};
    default:
        return (split){1, (step->rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS};
    }
}

/* Large parts begin with a block of 32 rows, as kernels read them best. */
static ptrdiff_t part_begin(ptrdiff_t rows, ptrdiff_t part, ptrdiff_t parts) {
    enum { TOGETHER = 32 };
    if (rows < TOGETHER * parts) return rows * part / parts;
    return smaller(rows, (rows + TOGETHER - 1) / TOGETHER * part / parts * TOGETHER);
}

/* input: the result of `prepare`, for a folded phase. */
static void run_item(const gpt2c_call *c, const gpt2c_step *step, split s, ptrdiff_t item, const void *input,
                     float *scratch) {
    const ptrdiff_t slice = item / s.parts, part = item % s.parts, n_qkv = n_qkv_of(c->model);
    const ptrdiff_t begin = part_begin(step->rows, part, s.parts), end = part_begin(step->rows, part + 1, s.parts);
    switch (step->phase) {
    case GPT2C_EMBED:
    case GPT2C_POSITIONS:
    case GPT2C_TYPES:
        pass_embed(c, step, begin, end);
        break;
    case GPT2C_LN_EMB:
    case GPT2C_LN_1:
    case GPT2C_LN_CROSS:
    case GPT2C_LN_2:
    case GPT2C_LN_F:
    case GPT2C_LN_HEAD:
        pass_normalise(c, step, begin, end);
        break;
    case GPT2C_ATTENTION:
        pass_attend(c, step, slice, begin, end, scratch);
        break;
    case GPT2C_CROSS_ATTENTION:
        pass_attend_cross(c, step, slice, begin, end, scratch);
        break;
    case GPT2C_ENCODE:
        encode_rows(c, step, begin, end);
        break;
    case GPT2C_ADD:
        add_rows(c, begin, end);
        break;
    case GPT2C_COPY:
        copy_rows(c, begin, end);
        break;
    case GPT2C_APPEND:
        pass_append(c, step, c->workspace.qkv + begin * n_qkv, n_qkv, 0, n_qkv, begin, end);
        break;
    case GPT2C_SCORES:
    case GPT2C_SOFTMAX:
    case GPT2C_CROSS_PATTERN:
    case GPT2C_VALUES:
        pass_attend_unfused(c, step, slice, begin, end, scratch);
        break;
    case GPT2C_ACTIVATE:
        activate_rows(c, begin, end);
        break;
    case GPT2C_SCORE:
        score(c, step, part, scratch);
        break;
    default:
        if (c->external_gemm)
            finish_rows(c, step, begin, end);
        else
            multiply_rows(c, step, input, slice, begin, end, scratch);
        break;
    }
}

/* ---- the region ---- */

typedef struct {
    const gpt2c_call *call;
    const gpt2c_step *steps;
    ptrdiff_t n_steps;
    team_queue queue;
    atomic_int stopped; /* the result of poll */
    struct timespec polled;
} region;

static struct timespec coarse_now(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return now;
}

/* Whether to continue. Thread 0 reads a (coarse, cheap) clock and asks the caller every few milliseconds. After a stop
 * all items are still claimed, but not computed. */
static int go_on(region *r, int thread) {
    if (atomic_load_explicit(&r->stopped, memory_order_relaxed)) return 0;
    if (thread != 0 || !r->call->poll) return 1;
    const struct timespec now = coarse_now();
    const long long waited = (now.tv_sec - r->polled.tv_sec) * 1000000000LL + (now.tv_nsec - r->polled.tv_nsec);
    if (waited < 4000000LL) return 1;
    r->polled = now;
    const int answer = r->call->poll(r->call->poll_argument);
    if (answer) atomic_store(&r->stopped, answer);
    return !answer;
}

static void run_steps(void *pointer, int thread, int threads) {
    region *r = pointer;
    const gpt2c_call *c = r->call;
    float *scratch = c->workspace.scratch + thread * c->workspace.scratch_size;
    const fold_layout layout = fold_layout_of(c->model);
    float *fold_scratch = scratch + c->workspace.scratch_size - layout.size;
    const float *gaps[] = {fold_scratch - GAP, fold_scratch + layout.encoded - GAP, fold_scratch + layout.merging - GAP,
                           fold_scratch + layout.size - GAP};
    ptrdiff_t finished = 0, item;
    for (int i = 0; i < 4; i++) gap_close(gaps[i]);
    for (ptrdiff_t i = 0; i < r->n_steps; i++) {
        const gpt2c_step *step = &r->steps[i];
        const split s = split_of(c, step);
        const ptrdiff_t items = s.slices * s.parts;
        const void *input = step->fold ? NULL : work_of(c, step).input;
        while ((item = team_claim(&r->queue, i + 1, items, thread, threads)) >= 0) {
            if (go_on(r, thread)) {
                if (step->fold && !input) input = prepare(c, step, fold_scratch);
                run_item(c, step, s, item, input, scratch);
            }
            team_done(&r->queue);
        }
        finished += items;
        team_wait(&r->queue, finished);
    }
    for (int i = 0; i < 4; i++) gap_open(gaps[i]);
}

int gpt2c_run(const gpt2c_call *call, const gpt2c_step *steps, ptrdiff_t n_steps) {
    region r = {.call = call, .steps = steps, .n_steps = n_steps, .polled = coarse_now()};
    team_run(call->threads, run_steps, &r);
    return atomic_load(&r.stopped);
}
