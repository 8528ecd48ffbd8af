/* The model as a list of phases, each split into items that any thread may take. An item's result does not depend on
 * who takes it or when, so results do not depend on the number of threads. */
#define _POSIX_C_SOURCE 200809L
#include "gpt2c.h"
#include "team.h"

#include <math.h>
#include <string.h>

enum {
    ROW_BLOCK = 256, /* rows that a thread takes through a panel at a time at most, */
    ROW_LEAST = 48,  /* and at least, if that keeps more threads busy */
    FOLD_ROWS = 8    /* so few rows of input every thread prepares for itself, rather than wait for another phase */
};

typedef struct {
    const gpt2c_call *call;
    const gpt2c_step *steps;
    ptrdiff_t n_steps;
    team_queue queue;
    atomic_int stopped; /* what poll returned */
    struct timespec polled;
} region;

static ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t larger(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
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

/* Floats in which a thread prepares the input of a folded phase: rows in float32, the same encoded (never larger, but
 * padded), and room for merging. */
static ptrdiff_t fold_size(const gpt2c_model *m) {
    return FOLD_ROWS * (2 * m->n_embd + GPT2C_GROUP) + GPT2C_PARTIAL(d_pad_of(m));
}

/* Keys and values of one head of a layer. */
static gpt2c_keys keys_of(const gpt2c_call *c, ptrdiff_t sequence, ptrdiff_t layer, ptrdiff_t head) {
    const gpt2c_cache *cache = &c->caches[sequence];
    const ptrdiff_t size = cache->half ? (ptrdiff_t)sizeof(uint16_t) : (ptrdiff_t)sizeof(float);
    const ptrdiff_t before = (layer * c->model->n_head + head) * size, d = c->model->d_head, d_pad = d_pad_of(c->model);
    gpt2c_keys keys = {.k = (const char *)cache->k + before * cache->capacity * d,
                       .v = (const char *)cache->v + before * cache->capacity * d_pad,
                       .half = cache->half};
    if (cache->shared) {
        keys.k0 = (const char *)cache->k0 + before * cache->capacity0 * d;
        keys.v0 = (const char *)cache->v0 + before * cache->capacity0 * d_pad;
        keys.shared = cache->shared;
    }
    return keys;
}

static const void *first_keys(const gpt2c_call *c, ptrdiff_t sequence, ptrdiff_t layer, ptrdiff_t head) {
    const gpt2c_keys keys = keys_of(c, sequence, layer, head);
    return keys.shared ? keys.k0 : keys.k;
}

/* The keys of a sequence, those of this call among them. */
static ptrdiff_t keys_seen_by(const gpt2c_call *c, ptrdiff_t sequence) {
    return c->lengths[sequence] + c->row_start[sequence + 1] - c->row_start[sequence];
}

static float *partial_of(const gpt2c_call *c, ptrdiff_t row, ptrdiff_t head, ptrdiff_t block) {
    return c->partial + ((row * c->model->n_head + head) * c->key_blocks + block) * GPT2C_PARTIAL(d_pad_of(c->model));
}

/* ---- phases ---- */

/* x = wte[id] + wpe[position] for rows [begin, end) of the step; apart: x = wte[id], or branch = wpe[position]. */
static void embed(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    const gpt2c_model *m = c->model;
    const size_t size = (size_t)m->n_embd * sizeof(float);
    ptrdiff_t sequence = first_sequence(c, step->row0 + begin);
    for (ptrdiff_t r = begin; r < end; r++) {
        const ptrdiff_t row = step->row0 + r;
        sequence = sequence_of(c, row, sequence);
        const float *place = m->wpe + position_of(c, row, sequence) * m->n_embd;
        float *x = c->x + r * m->n_embd;
        if (step->phase == GPT2C_POSITIONS) {
            memcpy(c->branch + r * m->n_embd, place, size);
            continue;
        }
        if (m->wte)
            memcpy(x, m->wte + c->ids[row] * m->n_embd, size);
        else
            gpt2c_unpack(&m->head, c->ids[row], x);
        if (!step->apart)
            for (ptrdiff_t k = 0; k < m->n_embd; k++) x[k] += place[k];
    }
}

/* to[i][r] or, not transposed, to[r][i] = from[r][i] for r < rows <= 16, i < width <= 64, in the cache's format. */
static void store(const gpt2c_kernels *kernels, void *to, int half, int transposed, ptrdiff_t ld_to, const float *from,
                  ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t width) {
    uint16_t halves[GPT2C_LANES][GPT2C_PANEL];
    float *floats = to;
    if (half)
        for (ptrdiff_t r = 0; r < rows; r++) kernels->narrow(halves[r], from + r * ld, width);
    if (!transposed)
        for (ptrdiff_t r = 0; r < rows; r++) {
            if (half)
                memcpy((uint16_t *)to + r * ld_to, halves[r], (size_t)width * sizeof halves[r][0]);
            else
                memcpy(floats + r * ld_to, from + r * ld, (size_t)width * sizeof *floats);
        }
    else if (half)
        for (ptrdiff_t i = 0; i < width; i++)
            for (ptrdiff_t r = 0; r < rows; r++) ((uint16_t *)to)[i * ld_to + r] = halves[r][i];
    else
        for (ptrdiff_t i = 0; i < width; i++)
            for (ptrdiff_t r = 0; r < rows; r++) floats[i * ld_to + r] = from[r * ld + i];
}

/* Keys and values among columns [column0, column1) of C_ATTN's output for rows [begin, end) of the step, into their
 * caches. qkv is where the first column of the first row is, ld the distance of rows. */
static void append(const gpt2c_call *c, const gpt2c_step *step, const float *qkv, ptrdiff_t ld, ptrdiff_t column0,
                   ptrdiff_t column1, ptrdiff_t begin, ptrdiff_t end) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t n = m->n_embd, d = m->d_head, d_pad = d_pad_of(m), first = first_sequence(c, step->row0 + begin);
    for (ptrdiff_t column = column0 > n ? column0 : n, next; column < column1; column = next) {
        const ptrdiff_t head = column % n / d, i0 = column % n % d;
        next = smaller(smaller(column1, column - i0 + d), column + GPT2C_PANEL);
        const ptrdiff_t width = next - column;
        ptrdiff_t sequence = first;
        for (ptrdiff_t r = begin, rows; r < end; r += rows) { /* up to 16 rows, which share the lines of the keys */
            sequence = sequence_of(c, step->row0 + r, sequence);
            const ptrdiff_t position = position_of(c, step->row0 + r, sequence), lane = position % GPT2C_LANES;
            rows = smaller(smaller(end, c->row_start[sequence + 1] - step->row0) - r, GPT2C_LANES - lane);
            const float *from = qkv + (r - begin) * ld + column - column0;
            const gpt2c_keys to = keys_of(c, sequence, step->layer, head);
            const ptrdiff_t size = to.half ? (ptrdiff_t)sizeof(uint16_t) : (ptrdiff_t)sizeof(float);
            const ptrdiff_t own = position - to.shared;
            if (column < 2 * n) {
                char *k = (char *)(uintptr_t)to.k + ((own - lane) * d + i0 * GPT2C_LANES + lane) * size;
                store(c->kernels, k, to.half, 1, GPT2C_LANES, from, ld, rows, width);
            } else {
                char *v = (char *)(uintptr_t)to.v + own * d_pad * size;
                store(c->kernels, v + i0 * size, to.half, 0, d_pad, from, ld, rows, width);
                if (i0 + width == d) /* a zero has the same bytes in both formats */
                    for (ptrdiff_t row = 0; row < rows; row++)
                        memset(v + (row * d_pad + d) * size, 0, (size_t)((d_pad - d) * size));
            }
        }
    }
}

/* Rows [begin, end) of the step attend with one head: to all keys, or to one block of them. Rows of one sequence go
 * together, if each sees its own past only. */
static void attend(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t block, ptrdiff_t begin,
                   ptrdiff_t end, float *scratch) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t d = m->d_head;
    ptrdiff_t sequence = first_sequence(c, step->row0 + begin);
    for (ptrdiff_t r = begin, rows; r < end; r += rows) {
        sequence = sequence_of(c, step->row0 + r, sequence);
        rows = c->both_ways ? 1 : smaller(end, c->row_start[sequence + 1] - step->row0) - r;
        const float *q = c->qkv + r * 3 * m->n_embd + head * d, scale = m->layers[step->layer].attn_scale;
        gpt2c_keys keys = keys_of(c, sequence, step->layer, head);
        if (r + rows < end)
            keys.next = first_keys(c, sequence_of(c, step->row0 + r + rows, sequence), step->layer, head);
        else if (head + 1 < m->n_head)
            keys.next = first_keys(c, first_sequence(c, step->row0 + begin), step->layer, head + 1);
        const ptrdiff_t first = c->both_ways ? keys_seen_by(c, sequence) - 1 : position_of(c, step->row0 + r, sequence);
        if (c->key_blocks == 0)
            c->kernels->attention(c->mixed + r * m->n_embd + head * d, m->n_embd, q, 3 * m->n_embd, &keys, rows, first,
                                  d, scale, scratch);
        else if (block * GPT2C_KEY_BLOCK < first + rows)
            c->kernels->attention_block(partial_of(c, r, head, block), partial_of(c, 1, 0, 0) - c->partial, q,
                                        3 * m->n_embd, &keys, rows, first, d, scale, block, scratch);
    }
}

/* Of rows [begin, end) and one head what somebody looks at: scores, their softmax, or values by a changed pattern. */
static void attend_apart(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t begin, ptrdiff_t end,
                         float *scratch) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t d = m->d_head;
    ptrdiff_t sequence = first_sequence(c, begin);
    for (ptrdiff_t r = begin; r < end; r++) {
        sequence = sequence_of(c, r, sequence);
        const ptrdiff_t start = c->row_start[sequence], rows = c->row_start[sequence + 1] - start;
        const ptrdiff_t n_keys = keys_seen_by(c, sequence), i = head * rows + r - start;
        const ptrdiff_t at = c->pattern_start[sequence] + i * n_keys;
        const gpt2c_keys keys = keys_of(c, sequence, step->layer, head);
        if (step->phase == GPT2C_SCORES)
            c->kernels->attention_scores(c->scores + at, c->qkv + r * 3 * m->n_embd + head * d, &keys,
                                         c->both_ways ? n_keys - 1 : position_of(c, r, sequence), n_keys, d,
                                         m->layers[step->layer].attn_scale, scratch);
        else if (step->phase == GPT2C_SOFTMAX)
            c->kernels->softmax(c->pattern + at, c->scores + at, n_keys);
        else if (c->changed[m->n_head * start + i]) {
            c->changed[m->n_head * start + i] = 0;
            c->kernels->attention_values(c->mixed + r * m->n_embd + head * d, c->pattern + at, &keys, n_keys, d,
                                         scratch);
        }
    }
}

typedef struct {
    const gpt2c_dense *dense;
    const gpt2c_norm *norm; /* what the input comes from x by; NULL: something else */
    const float *source;    /* the input in float32; NULL: written in the dense layer's format at once */
    const void *input;      /* in the dense layer's format */
    float *out;
    gpt2c_epilogue epilogue;
} dense_work;

static ptrdiff_t row_size(const gpt2c_call *c, const gpt2c_dense *dense) {
    if (dense->dtype == GPT2C_FLOAT32) return dense->n_in * (ptrdiff_t)sizeof(float);
    return (dense->n_in + GPT2C_GROUP - 1) / GPT2C_GROUP * c->kernels->encoded_group[dense->dtype];
}

static dense_work work_of(const gpt2c_call *c, const gpt2c_step *step) {
    const gpt2c_model *m = c->model;
    const gpt2c_layer *layer = &m->layers[step->layer];
    const gpt2c_epilogue plain = {GPT2C_IDENTITY, NULL}, activate = {m->activation, NULL}, add = {GPT2C_IDENTITY, c->x};
    dense_work work = {.epilogue = plain};
    switch (step->phase) {
    case GPT2C_C_ATTN:
        work = (dense_work){&layer->c_attn, &layer->ln_1, c->norm, c->coded, c->qkv, plain};
        break;
    case GPT2C_ATTN_PROJ:
        work = (dense_work){&layer->attn_proj, NULL, c->mixed, c->coded, c->x, add};
        break;
    case GPT2C_C_FC:
        work = (dense_work){&layer->c_fc, &layer->ln_2, c->norm, c->coded, c->hidden, activate};
        if (step->apart) work.out = c->pre, work.epilogue = plain;
        break;
    case GPT2C_MLP_PROJ:
        work = (dense_work){&layer->mlp_proj, NULL, step->apart ? c->post : NULL, c->hidden, c->x, add};
        break;
    case GPT2C_HEAD: { /* LN_F left its rows in order from the first wanted row of the chunk on */
        const ptrdiff_t first = step->fold ? 0 : step->row0 - step->origin;
        work = (dense_work){&m->head,
                            &m->ln_f,
                            c->norm + first * m->n_embd,
                            (const char *)c->coded + first * row_size(c, &m->head),
                            c->target_start ? c->logits : c->logits + step->row0 * m->n_vocab,
                            plain};
        break;
    }
    default:
        return work;
    }
    if (step->apart && work.out == c->x) work.out = c->branch, work.epilogue = plain;
    if (work.source && work.dense->dtype == GPT2C_FLOAT32) work.input = work.source;
    return work;
}

const gpt2c_dense *gpt2c_step_dense(const gpt2c_call *call, const gpt2c_step *step, const float **input) {
    const dense_work work = work_of(call, step);
    *input = work.input;
    return work.dense;
}

/* LayerNorm of row `r` of a step, into `out`. */
static void normalise(const gpt2c_call *c, const gpt2c_step *step, const gpt2c_norm *norm, ptrdiff_t r, float *out) {
    const ptrdiff_t n = c->model->n_embd;
    const int wanted_only = step->phase == GPT2C_LN_F || step->phase == GPT2C_HEAD;
    const ptrdiff_t row = wanted_only ? c->out_rows[step->row0 + r] - step->origin : r;
    c->kernels->layer_norm(out, n, c->x + row * n, n, norm, c->model->epsilon, 1, n);
}

/* A phase that writes norm and, in the format of the dense layers that follow, coded. */
static void normalise_rows(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    const gpt2c_model *m = c->model;
    const gpt2c_norm *norm = step->phase == GPT2C_LN_1   ? &m->layers[step->layer].ln_1
                             : step->phase == GPT2C_LN_2 ? &m->layers[step->layer].ln_2
                                                         : &m->ln_f;
    const gpt2c_dense *dense = step->phase == GPT2C_LN_F ? &m->head : &m->layers[step->layer].c_attn;
    const ptrdiff_t n = m->n_embd, size = row_size(c, dense);
    for (ptrdiff_t r = begin; r < end; r++) {
        normalise(c, step, norm, r, c->norm + r * n);
        if (dense->dtype != GPT2C_FLOAT32 && !step->apart)
            c->kernels->encode(dense->dtype, (char *)c->coded + r * size, size, c->norm + r * n, n, 1, n);
    }
}

/* The input of a folded dense phase, all rows of it, prepared in `scratch` (fold_size) where it takes
 * preparing; returns where it is. */
static const void *prepare(const gpt2c_call *c, const gpt2c_step *step, float *scratch) {
    const gpt2c_model *m = c->model;
    const dense_work work = work_of(c, step);
    const ptrdiff_t n = m->n_embd;
    if (!work.source) return work.input;
    const float *source = scratch;
    if (work.norm)
        for (ptrdiff_t r = 0; r < step->rows; r++) normalise(c, step, work.norm, r, scratch + r * n);
    else if (c->key_blocks > 0) {
        ptrdiff_t sequence = first_sequence(c, step->row0);
        for (ptrdiff_t r = 0; r < step->rows; r++) {
            sequence = sequence_of(c, step->row0 + r, sequence);
            const ptrdiff_t blocks = position_of(c, step->row0 + r, sequence) / GPT2C_KEY_BLOCK + 1;
            for (ptrdiff_t head = 0; head < m->n_head; head++)
                c->kernels->attention_merge(scratch + r * n + head * m->d_head, partial_of(c, r, head, 0), blocks,
                                            m->d_head, scratch + fold_size(m) - GPT2C_PARTIAL(d_pad_of(m)));
        }
    } else
        source = work.source;
    if (work.dense->dtype == GPT2C_FLOAT32) return source;
    float *coded = scratch + FOLD_ROWS * n;
    c->kernels->encode(work.dense->dtype, coded, row_size(c, work.dense), source, n, step->rows, n);
    return coded;
}

/* Rows [begin, end) of one panel of a dense layer, or with dense_done of all of them. */
static void dense_rows(const gpt2c_call *c, const gpt2c_step *step, const void *input, ptrdiff_t panel, ptrdiff_t begin,
                       ptrdiff_t end, float *scratch) {
    const dense_work work = work_of(c, step);
    const gpt2c_dense *dense = work.dense;
    const ptrdiff_t n_out = dense->n_out, rows = end - begin, size = row_size(c, dense);
    float *out = work.out + begin * n_out;
    gpt2c_epilogue here = work.epilogue;
    if (here.residual) here.residual += begin * n_out;
    if (c->dense_done) {
        c->kernels->epilogue(out, n_out, c->sums + begin * n_out, n_out, dense->bias, &here, rows, n_out);
        if (step->phase == GPT2C_C_ATTN && !step->apart) append(c, step, out, n_out, 0, n_out, begin, end);
        return;
    }
    input = (const char *)input + begin * size;
    out += panel * GPT2C_PANEL;
    if (here.residual) here.residual += panel * GPT2C_PANEL;
    const ptrdiff_t column = panel * GPT2C_PANEL, columns = smaller(n_out - column, GPT2C_PANEL);
    const gpt2c_dense *next = &c->model->layers[step->layer].mlp_proj;
    const int encodes = step->phase == GPT2C_C_FC && next->dtype != GPT2C_FLOAT32 && !step->apart;
    const int appends = step->phase == GPT2C_C_ATTN && !step->apart;
    ptrdiff_t ld = n_out;
    if (encodes || (appends && column >= c->model->n_embd)) { /* the output goes elsewhere at once */
        out = scratch + GPT2C_LINEAR_SCRATCH(rows);
        ld = GPT2C_PANEL;
    }
    c->kernels->linear(out, ld, input, size, dense, &here, rows, panel, panel + 1, scratch);
    if (appends) append(c, step, out, ld, column, column + columns, begin, end);
    if (encodes) { /* 64 outputs are a group of the next layer's inputs */
        const ptrdiff_t next_size = row_size(c, next);
        char *to = (char *)c->hidden + begin * next_size + panel * c->kernels->encoded_group[next->dtype];
        c->kernels->encode(next->dtype, to, next_size, out, ld, rows, columns);
    }
}

static void score(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t r, float *scratch) {
    const gpt2c_kernels *kernels = c->kernels;
    const ptrdiff_t n = c->model->n_vocab, words = (n + GPT2C_LANES - 1) / GPT2C_LANES, row = step->row0 + r;
    const ptrdiff_t first = c->target_start[row], last = c->target_start[row + 1];
    const float *logits = c->logits + r * n;
    for (ptrdiff_t t = first; t < last; t++) c->target_logit[t] = c->targets[t] < 0 ? NAN : logits[c->targets[t]];
    c->greater[first] =
        kernels->log_sum(logits, n, c->target_logit[first], &c->maximum[row], &c->total[row], &c->moment[row]);
    for (ptrdiff_t t = first + 1; t < last; t++) c->greater[t] = kernels->count_greater(logits, n, c->target_logit[t]);
    for (ptrdiff_t i = row * c->n_masks; i < (row + 1) * c->n_masks; i++)
        kernels->subset_sum(logits, n, c->masks + i % c->n_masks * words, &c->mask_maximum[i], &c->mask_total[i]);
    if (c->top == 0) return;
    int32_t *ids = c->top_ids + row * c->top;
    float *greatest = c->top_logits + row * c->top;
    if (c->total[row] == c->total[row])
        kernels->top(ids, greatest, logits, c->n_text, c->top, scratch);
    else
        for (ptrdiff_t i = 0; i < c->top; i++) {
            ids[i] = -1;
            greatest[i] = NAN;
        }
}

/* ---- items ---- */

/* How a phase is split: its items are (slice, part), a slice being a head, a panel or a block of keys of a head, a part
 * some of the rows. */
typedef struct {
    ptrdiff_t slices, parts;
} split;

static split split_of(const gpt2c_call *c, const gpt2c_step *step) {
    const ptrdiff_t tiles = (step->rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS;
    const gpt2c_dense *dense = work_of(c, step).dense;
    if (dense && !c->dense_done) {
        const ptrdiff_t panels = panels_of(dense->n_out), wanted = (4 * c->threads + panels - 1) / panels;
        const ptrdiff_t fewest = (step->rows + ROW_BLOCK - 1) / ROW_BLOCK,
                        most = (step->rows + ROW_LEAST - 1) / ROW_LEAST;
        return (split){panels, wanted < fewest ? fewest : smaller(wanted, most)};
    }
    if (step->phase == GPT2C_ATTENTION)
        return (split){c->model->n_head * (c->key_blocks ? c->key_blocks : 1),
                       (step->rows + GPT2C_QUERIES - 1) / GPT2C_QUERIES};
    if (step->phase == GPT2C_SCORES || step->phase == GPT2C_SOFTMAX || step->phase == GPT2C_VALUES)
        return (split){c->model->n_head, (step->rows + GPT2C_QUERIES - 1) / GPT2C_QUERIES};
    if (step->phase == GPT2C_SCORE) return (split){1, step->rows};
    return (split){1, tiles};
}

/* input: what `prepare` gave, for a folded phase. */
static void run_item(const gpt2c_call *c, const gpt2c_step *step, split s, ptrdiff_t item, const void *input,
                     float *scratch) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t slice = item / s.parts, part = item % s.parts;
    const ptrdiff_t begin = step->rows * part / s.parts, end = step->rows * (part + 1) / s.parts;
    const ptrdiff_t n = m->n_embd;
    switch (step->phase) {
    case GPT2C_EMBED:
    case GPT2C_POSITIONS:
        embed(c, step, begin, end);
        break;
    case GPT2C_LN_1:
    case GPT2C_LN_2:
    case GPT2C_LN_F:
        normalise_rows(c, step, begin, end);
        break;
    case GPT2C_ATTENTION:
        attend(c, step, slice % m->n_head, slice / m->n_head, begin, end, scratch);
        break;
    case GPT2C_ENCODE: {
        gpt2c_step next = *step;
        next.phase = step->detail;
        const dense_work work = work_of(c, &next);
        const ptrdiff_t size = row_size(c, work.dense), n_in = work.dense->n_in;
        c->kernels->encode(work.dense->dtype, (char *)(uintptr_t)work.input + begin * size, size,
                           work.source + begin * n_in, n_in, end - begin, n_in);
        break;
    }
    case GPT2C_ADD: {
        const gpt2c_epilogue add = {GPT2C_IDENTITY, c->x + begin * n};
        c->kernels->epilogue(c->x + begin * n, n, c->branch + begin * n, n, NULL, &add, end - begin, n);
        break;
    }
    case GPT2C_APPEND:
        append(c, step, c->qkv + begin * 3 * n, 3 * n, 0, 3 * n, begin, end);
        break;
    case GPT2C_SCORES:
    case GPT2C_SOFTMAX:
    case GPT2C_VALUES:
        attend_apart(c, step, slice, begin, end, scratch);
        break;
    case GPT2C_ACTIVATE:
        c->kernels->apply(c->post + begin * m->n_inner, c->pre + begin * m->n_inner, (end - begin) * m->n_inner,
                          m->activation);
        break;
    case GPT2C_SCORE:
        score(c, step, part, scratch);
        break;
    default:
        dense_rows(c, step, input, slice, begin, end, scratch);
        break;
    }
}

static void run_steps(void *pointer, int thread, int threads) {
    region *r = pointer;
    const gpt2c_call *c = r->call;
    float *scratch = c->scratch + thread * c->scratch_size,
          *fold_scratch = scratch + c->scratch_size - fold_size(c->model);
    ptrdiff_t finished = 0, item;
    for (ptrdiff_t i = 0; i < r->n_steps; i++) {
        const gpt2c_step *step = &r->steps[i];
        const split s = split_of(c, step);
        const ptrdiff_t items = s.slices * s.parts;
        const void *input = step->fold ? NULL : work_of(c, step).input;
        while ((item = team_take(&r->queue, i + 1, items, thread, threads)) >= 0) {
            if (go_on(r, thread)) {
                if (step->fold && !input) input = prepare(c, step, fold_scratch);
                run_item(c, step, s, item, input, scratch);
            }
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

ptrdiff_t gpt2c_scratch_size(const gpt2c_model *model, ptrdiff_t chunk, int with_top) {
    const ptrdiff_t rows = smaller(chunk, ROW_BLOCK);
    const ptrdiff_t linear = GPT2C_LINEAR_SCRATCH(rows) + rows * GPT2C_PANEL,
                    attention = GPT2C_ATTENTION_SCRATCH(d_pad_of(model)),
                    greatest = with_top ? GPT2C_TOP_SCRATCH(model->n_vocab) : 0;
    const ptrdiff_t most = larger(larger(linear, attention), greatest);
    return (most + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES + fold_size(model);
}

ptrdiff_t gpt2c_key_blocks(const gpt2c_call *call) {
    const ptrdiff_t rows = call->row_start[call->n_sequences], parts = (rows + GPT2C_QUERIES - 1) / GPT2C_QUERIES;
    ptrdiff_t most = 0;
    if (rows > FOLD_ROWS || call->dense_done || call->watched || call->both_ways ||
        call->model->n_head * parts >= 4 * call->threads)
        return 0;
    for (ptrdiff_t i = 0; i < call->n_sequences; i++) {
        const ptrdiff_t last = call->lengths[i] + call->row_start[i + 1] - call->row_start[i] - 1;
        if (last / GPT2C_KEY_BLOCK + 1 > most) most = last / GPT2C_KEY_BLOCK + 1;
    }
    return most > 1 ? most : 0;
}

/* A layer that is taken apart: its steps, and of what flags each is. */
static const struct {
    int phase, detail, flag;
} APART[] = {
    {GPT2C_STOP, GPT2C_AT_RESID_PRE, GPT2C_APART},
    {GPT2C_LN_1, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_LN_1, GPT2C_APART},
    {GPT2C_ENCODE, GPT2C_C_ATTN, GPT2C_APART},
    {GPT2C_C_ATTN, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_QKV, GPT2C_APART},
    {GPT2C_APPEND, 0, GPT2C_APART},
    {GPT2C_SCORES, 0, GPT2C_SEE_PATTERN},
    {GPT2C_STOP, GPT2C_AT_SCORES, GPT2C_SEE_PATTERN},
    {GPT2C_SOFTMAX, 0, GPT2C_SEE_PATTERN},
    {GPT2C_STOP, GPT2C_AT_PATTERN, GPT2C_SEE_PATTERN},
    {GPT2C_ATTENTION, 0, GPT2C_APART},
    {GPT2C_VALUES, 0, GPT2C_CHANGE_PATTERN},
    {GPT2C_STOP, GPT2C_AT_Z, GPT2C_APART},
    {GPT2C_ENCODE, GPT2C_ATTN_PROJ, GPT2C_APART},
    {GPT2C_ATTN_PROJ, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_ATTN_OUT, GPT2C_APART},
    {GPT2C_ADD, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_RESID_MID, GPT2C_APART},
    {GPT2C_LN_2, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_LN_2, GPT2C_APART},
    {GPT2C_ENCODE, GPT2C_C_FC, GPT2C_APART},
    {GPT2C_C_FC, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_PRE, GPT2C_APART},
    {GPT2C_ACTIVATE, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_POST, GPT2C_APART},
    {GPT2C_ENCODE, GPT2C_MLP_PROJ, GPT2C_APART},
    {GPT2C_MLP_PROJ, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_MLP_OUT, GPT2C_APART},
    {GPT2C_ADD, 0, GPT2C_APART},
    {GPT2C_STOP, GPT2C_AT_RESID_POST, GPT2C_APART},
};

/* The list that is being written, or with steps NULL counted. */
typedef struct {
    gpt2c_step *steps;
    ptrdiff_t n;
} plan;

static void put(plan *p, gpt2c_step step) {
    if (p->steps) p->steps[p->n] = step;
    p->n++;
}

static void plan_embedding(plan *p, const gpt2c_call *call, ptrdiff_t row, ptrdiff_t rows) {
    const int apart = call->watched && call->watched[call->model->n_layer];
    gpt2c_step step = {.row0 = row, .rows = rows, .origin = row, .apart = apart};
    step.phase = GPT2C_EMBED;
    put(p, step);
    if (!apart) return;
    step.phase = GPT2C_STOP, step.detail = GPT2C_AT_EMBED;
    put(p, step);
    step.phase = GPT2C_POSITIONS;
    put(p, step);
    step.phase = GPT2C_STOP, step.detail = GPT2C_AT_POSITIONS;
    put(p, step);
    step.phase = GPT2C_ADD;
    put(p, step);
}

static void plan_layer(plan *p, const gpt2c_call *call, ptrdiff_t layer, ptrdiff_t row, ptrdiff_t rows) {
    const int watched = call->watched ? call->watched[layer] : 0;
    const int fold = !call->dense_done && rows <= FOLD_ROWS,
              plain = call->model->layers[layer].c_attn.dtype == GPT2C_FLOAT32;
    gpt2c_step step = {.layer = layer, .row0 = row, .rows = rows, .origin = row};
    if (watched) {
        step.apart = 1;
        for (size_t i = 0; i < sizeof APART / sizeof APART[0]; i++) {
            if (!(watched & APART[i].flag) || (APART[i].phase == GPT2C_ENCODE && plain)) continue;
            step.phase = APART[i].phase, step.detail = APART[i].detail;
            put(p, step);
        }
        return;
    }
    for (int phase = GPT2C_LN_1; phase <= GPT2C_MLP_PROJ; phase++) {
        if (fold && (phase == GPT2C_LN_1 || phase == GPT2C_LN_2)) continue;
        if (phase == GPT2C_ENCODE && (fold || plain)) continue;
        step.phase = phase, step.detail = GPT2C_ATTN_PROJ, step.fold = fold && phase != GPT2C_ATTENTION;
        put(p, step);
    }
}

/* Logits or scores of out_rows [first, first + rows), which lie in the chunk that begins at `row`. */
static void plan_head(plan *p, const gpt2c_call *call, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t row) {
    const int apart = call->watched && call->watched[call->model->n_layer];
    const int fold = !call->dense_done && rows <= FOLD_ROWS && !apart;
    gpt2c_step step = {.row0 = first, .rows = rows, .origin = row, .apart = apart};
    if (!fold) {
        step.phase = GPT2C_LN_F;
        put(p, step);
    }
    step.origin = fold ? row : first, step.fold = fold;
    if (apart) {
        step.phase = GPT2C_STOP, step.detail = GPT2C_AT_LN_F;
        put(p, step);
        step.phase = GPT2C_ENCODE, step.detail = GPT2C_HEAD;
        if (call->model->head.dtype != GPT2C_FLOAT32) put(p, step);
    }
    const ptrdiff_t block = call->target_start && !fold ? call->score_block : rows;
    for (ptrdiff_t out = 0; out < rows; out += block) {
        step.row0 = first + out, step.rows = smaller(rows - out, block);
        step.phase = GPT2C_HEAD;
        put(p, step);
        if (!call->target_start) continue;
        step.phase = GPT2C_SCORE;
        put(p, step);
    }
}

ptrdiff_t gpt2c_plan(const gpt2c_call *call, gpt2c_step *steps) {
    const ptrdiff_t rows = call->row_start[call->n_sequences];
    plan p = {steps, 0};
    ptrdiff_t wanted = 0;
    for (ptrdiff_t row = 0; row < rows; row += call->chunk) {
        const ptrdiff_t count = smaller(rows - row, call->chunk);
        if (!call->started) plan_embedding(&p, call, row, count);
        for (ptrdiff_t layer = call->first_layer; layer < call->model->n_layer; layer++)
            plan_layer(&p, call, layer, row, count);
        const ptrdiff_t first = wanted;
        while (wanted < call->n_out && call->out_rows[wanted] < row + count) wanted++;
        if (wanted > first) plan_head(&p, call, first, wanted - first, row);
    }
    return p.n;
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

typedef struct {
    ptrdiff_t phases;
    team_queue queue;
} empty_region;

static void run_empty(void *pointer, int thread, int threads) {
    empty_region *r = pointer;
    for (ptrdiff_t i = 1; i <= r->phases; i++) {
        while (team_take(&r->queue, i, threads, thread, threads) >= 0) team_done(&r->queue);
        team_wait(&r->queue, i * threads);
    }
}

void gpt2c_empty_phases(int threads, ptrdiff_t phases) {
    empty_region r = {.phases = phases};
    team_run(threads, run_empty, &r);
}

const char *gpt2c_team_kind(void) { return team_kind(); }
