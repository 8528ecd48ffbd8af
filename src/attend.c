/* Attention between the rows of a call and the caches: keys and values in, attended values out. */
#include "pass.h"

static ptrdiff_t number_size(gpt2c_cache_dtype dtype) { return dtype == GPT2C_CACHE_FLOAT32 ? 4 : 2; }

ptrdiff_t gpt2c_keys_size(gpt2c_cache_dtype dtype, ptrdiff_t d_head) {
    if (dtype == GPT2C_CACHE_BFLOAT16) d_head += d_head % 2;
    return GPT2C_LANES * d_head * number_size(dtype);
}

ptrdiff_t gpt2c_values_size(gpt2c_cache_dtype dtype, ptrdiff_t d_head) {
    return GPT2C_LANES * GPT2C_PAD(d_head) * number_size(dtype);
}

/* Keys and values of one head of a layer, head < n_kv_head. */
static gpt2c_keys keys_in(const gpt2c_call *c, const gpt2c_cache *cache, ptrdiff_t layer, ptrdiff_t head) {
    const ptrdiff_t heads = layer * c->model->n_kv_head + head;
    const ptrdiff_t before = heads * (cache->capacity / GPT2C_LANES),
                    before0 = heads * (cache->capacity0 / GPT2C_LANES);
    const ptrdiff_t k_size = gpt2c_keys_size(cache->dtype, c->model->d_head);
    const ptrdiff_t v_size = gpt2c_values_size(cache->dtype, c->model->d_head);
    gpt2c_keys keys = {.k = (const char *)cache->k + before * k_size,
                       .v = (const char *)cache->v + before * v_size,
                       .dtype = cache->dtype};
    if (cache->shared) {
        keys.k0 = (const char *)cache->k0 + before0 * k_size;
        keys.v0 = (const char *)cache->v0 + before0 * v_size;
        keys.shared = cache->shared;
    }
    return keys;
}

static gpt2c_keys keys_of(const gpt2c_call *c, ptrdiff_t sequence, ptrdiff_t layer, ptrdiff_t head) {
    return keys_in(c, &c->batch.caches[sequence], layer, head);
}

/* The head of keys and values that a head attends to. */
static ptrdiff_t kv_head_of(const gpt2c_model *m, ptrdiff_t head) { return head * m->n_kv_head / m->n_head; }

static float scale_of(const gpt2c_call *c, const gpt2c_step *step) { return c->model->layers[step->layer].attn_scale; }

static const void *first_keys(const gpt2c_call *c, ptrdiff_t sequence, ptrdiff_t layer, ptrdiff_t head) {
    const gpt2c_keys keys = keys_of(c, sequence, layer, kv_head_of(c->model, head));
    return keys.shared ? keys.k0 : keys.k;
}

/* ---- into the caches ---- */

void pass_append(const gpt2c_call *c, const gpt2c_step *step, const float *qkv, ptrdiff_t ld, ptrdiff_t column0,
                 ptrdiff_t column1, ptrdiff_t begin, ptrdiff_t end) {
    const gpt2c_batch *batch = &c->batch;
    const ptrdiff_t n = c->model->n_embd, n_kv = n_kv_of(c->model), d = c->model->d_head;
    const ptrdiff_t first = first_sequence(batch, step->row0 + begin);
    for (ptrdiff_t column = larger(column0, n), next; column < column1; column = next) {
        const ptrdiff_t head = (column - n) % n_kv / d, i0 = (column - n) % d;
        const int keys = column < n + n_kv;
        next = smaller(smaller(column1, column - i0 + d), column + GPT2C_PANEL);
        ptrdiff_t sequence = first, rows;
        /* up to 16 rows at a time, which share the lines of the keys */
        for (ptrdiff_t r = begin; r < end; r += rows) {
            const ptrdiff_t row = step->row0 + r;
            sequence = sequence_of(batch, row, sequence);
            const ptrdiff_t position = position_of(batch, row, sequence), lane = position % GPT2C_LANES;
            rows = smaller(smaller(end, batch->row_start[sequence + 1] - step->row0) - r, GPT2C_LANES - lane);
            const gpt2c_keys to = keys_of(c, sequence, step->layer, head);
            const ptrdiff_t group = (position - to.shared) / GPT2C_LANES;
            char *at = (char *)(uintptr_t)(keys ? to.k : to.v) +
                       group * (keys ? gpt2c_keys_size : gpt2c_values_size)(to.dtype, d);
            (keys ? c->kernels->store_keys : c->kernels->store_values)(
                at, to.dtype, lane, i0, d, qkv + (r - begin) * ld + column - column0, ld, rows, next - column);
        }
    }
}

/* ---- out of them ---- */

static float *partial_of(const gpt2c_call *c, ptrdiff_t row, ptrdiff_t head, ptrdiff_t block) {
    const gpt2c_workspace *w = &c->workspace;
    return w->partial + ((row * c->model->n_head + head) * w->key_blocks + block) * GPT2C_PARTIAL(d_pad_of(c->model));
}

/* The keys that are read after those of a head for rows [r, next) of [begin, end), or NULL; after: the head that
 * is next. */
static const void *next_keys(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t sequence, ptrdiff_t head,
                             ptrdiff_t after, ptrdiff_t next, ptrdiff_t begin, ptrdiff_t end) {
    if (next < end) return first_keys(c, sequence_of(&c->batch, step->row0 + next, sequence), step->layer, head);
    if (after == c->model->n_head) return NULL;
    return first_keys(c, first_sequence(&c->batch, step->row0 + begin), step->layer, after);
}

void pass_attend(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t slice, ptrdiff_t begin, ptrdiff_t end,
                 float *scratch) {
    const gpt2c_model *m = c->model;
    const gpt2c_batch *batch = &c->batch;
    const attention_split s = attention_split_of(c, step->rows);
    const ptrdiff_t n = m->n_embd, n_qkv = n_qkv_of(m), d = m->d_head;
    const ptrdiff_t block = slice / s.slices, set = slice % s.slices, sets = s.slices / m->n_kv_head;
    const ptrdiff_t sharing = m->n_head / m->n_kv_head, kv_head = set / sets;
    const ptrdiff_t head = kv_head * sharing + set % sets * s.together;
    const ptrdiff_t heads = smaller(s.together, (kv_head + 1) * sharing - head);
    const ptrdiff_t ld_q = heads > 1 ? d : n_qkv, ld_out = heads > 1 ? d : n;
    const ptrdiff_t advance = heads == 1 && !batch->bidirectional;
    const float scale = scale_of(c, step);
    ptrdiff_t sequence = first_sequence(batch, step->row0 + begin);
    for (ptrdiff_t r = begin, rows; r < end; r += rows) {
        const ptrdiff_t row = step->row0 + r;
        sequence = sequence_of(batch, row, sequence);
        rows = heads > 1 ? 1 : smaller(end, batch->row_start[sequence + 1] - step->row0) - r;
        const ptrdiff_t first =
            batch->bidirectional ? n_keys_of(batch, sequence) - 1 : position_of(batch, row, sequence);
        const ptrdiff_t queries = rows * heads, last = first + (queries - 1) * advance;
        const float *q = c->workspace.qkv + r * n_qkv + head * d;
        gpt2c_keys keys = keys_of(c, sequence, step->layer, kv_head);
        keys.next = next_keys(c, step, sequence, head, head + heads, r + rows, begin, end);
        if (c->workspace.key_blocks == 0)
            c->kernels->attention(c->workspace.attended + r * n + head * d, ld_out, q, ld_q, &keys, queries, first,
                                  advance, d, scale, scratch);
        else if (block * GPT2C_KEY_BLOCK <= last)
            c->kernels->attention_block(partial_of(c, r, head, block),
                                        partial_of(c, heads == 1, heads > 1, 0) - c->workspace.partial, q, ld_q, &keys,
                                        queries, first, advance, d, scale, block, scratch);
    }
}

void pass_merge(const gpt2c_call *c, const gpt2c_step *step, float *out, float *scratch) {
    const gpt2c_model *m = c->model;
    ptrdiff_t sequence = first_sequence(&c->batch, step->row0);
    for (ptrdiff_t r = 0; r < step->rows; r++) {
        sequence = sequence_of(&c->batch, step->row0 + r, sequence);
        const ptrdiff_t blocks = position_of(&c->batch, step->row0 + r, sequence) / GPT2C_KEY_BLOCK + 1;
        for (ptrdiff_t head = 0; head < m->n_head; head++)
            c->kernels->attention_merge(out + r * m->n_embd + head * m->d_head, partial_of(c, r, head, 0), blocks,
                                        m->d_head, scratch);
    }
}

void pass_attend_cross(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t begin, ptrdiff_t end,
                       float *scratch) {
    const gpt2c_model *m = c->model;
    const gpt2c_batch *batch = &c->batch;
    const ptrdiff_t n = m->n_embd, d = m->d_head;
    ptrdiff_t sequence = first_sequence(batch, step->row0 + begin);
    for (ptrdiff_t r = begin, rows; r < end; r += rows) {
        sequence = sequence_of(batch, step->row0 + r, sequence);
        rows = smaller(end, batch->row_start[sequence + 1] - step->row0) - r;
        const gpt2c_keys keys = keys_in(c, &batch->cross[sequence], step->layer, head);
        c->kernels->attention(c->workspace.attended + r * n + head * d, n, c->workspace.qkv + r * n + head * d, n,
                              &keys, rows, batch->cross_lengths[sequence] - 1, 0, d, scale_of(c, step), scratch);
    }
}

/* The weights that a row gives to the positions of the encoder. */
static void cross_pattern(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t r, ptrdiff_t sequence,
                          float *scratch) {
    const gpt2c_batch *batch = &c->batch;
    const ptrdiff_t start = batch->row_start[sequence], rows = batch->row_start[sequence + 1] - start;
    const ptrdiff_t n = c->model->n_embd, d = c->model->d_head, n_keys = batch->cross_lengths[sequence];
    const gpt2c_keys keys = keys_in(c, &batch->cross[sequence], step->layer, head);
    float *out = c->observer.cross + c->observer.cross_start[sequence] + (head * rows + r - start) * n_keys;
    c->kernels->attention_scores(out, c->workspace.qkv + r * n + head * d, &keys, n_keys - 1, n_keys, d,
                                 scale_of(c, step), scratch);
    c->kernels->softmax(out, out, n_keys);
}

/* One query of an unfused layer, in one of its phases. All rows are one chunk, so row0 is 0. */
void pass_attend_unfused(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t begin, ptrdiff_t end,
                         float *scratch) {
    const gpt2c_model *m = c->model;
    const gpt2c_batch *batch = &c->batch;
    const gpt2c_observer *o = &c->observer;
    const ptrdiff_t n = m->n_embd, n_qkv = n_qkv_of(m), d = m->d_head;
    ptrdiff_t sequence = first_sequence(batch, begin);
    for (ptrdiff_t r = begin; r < end; r++) {
        sequence = sequence_of(batch, r, sequence);
        if (step->phase == GPT2C_CROSS_PATTERN) {
            cross_pattern(c, step, head, r, sequence, scratch);
            continue;
        }
        const ptrdiff_t start = batch->row_start[sequence], rows = batch->row_start[sequence + 1] - start;
        const ptrdiff_t n_keys = n_keys_of(batch, sequence), i = head * rows + r - start;
        const ptrdiff_t at = o->pattern_start[sequence] + i * n_keys;
        const gpt2c_keys keys = keys_of(c, sequence, step->layer, kv_head_of(m, head));
        if (step->phase == GPT2C_SCORES) {
            const ptrdiff_t position = batch->bidirectional ? n_keys - 1 : position_of(batch, r, sequence);
            c->kernels->attention_scores(o->scores + at, c->workspace.qkv + r * n_qkv + head * d, &keys, position,
                                         n_keys, d, scale_of(c, step), scratch);
        } else if (step->phase == GPT2C_SOFTMAX) {
            c->kernels->softmax(o->pattern + at, o->scores + at, n_keys);
        } else if (o->changed[m->n_head * start + i]) {
            o->changed[m->n_head * start + i] = 0;
            c->kernels->attention_values(c->workspace.attended + r * n + head * d, o->pattern + at, &keys, n_keys, d,
                                         scratch);
        }
    }
}
