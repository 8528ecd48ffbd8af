/* pass.h: shared by plan.c, run.c and attend.c; internal to them. */
#ifndef GPT2C_PASS_H
#define GPT2C_PASS_H

#include "call.h"

enum {
    ROW_BLOCK = 256, /* rows that a thread multiplies by a panel at a time at most, */
    ROW_LEAST = 48,  /* and at least, if that keeps more threads busy */
    FOLD_ROWS = 8    /* up to this many input rows every thread prepares itself instead of waiting for a phase */
};

static inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t larger(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t d_pad_of(const gpt2c_model *m) { return GPT2C_PAD(m->d_head); }
/* Columns of the keys in a row of C_ATTN, which are as many as those of the values; all columns of the row. */
static inline ptrdiff_t n_kv_of(const gpt2c_model *m) { return m->n_kv_head * m->d_head; }
static inline ptrdiff_t n_qkv_of(const gpt2c_model *m) { return m->n_embd + 2 * n_kv_of(m); }
static inline ptrdiff_t query_tiles(ptrdiff_t rows) { return (rows + GPT2C_QUERIES - 1) / GPT2C_QUERIES; }

/* How the attention of a step is split. If heads share keys, and sequences have fewer rows than such heads, the
 * queries of a row go over the keys together; else those of up to GPT2C_QUERIES rows of one head do. */
typedef struct {
    ptrdiff_t together; /* heads that go together */
    ptrdiff_t slices;   /* sets of heads */
    ptrdiff_t parts;    /* sets of rows */
} attention_split;

static inline attention_split attention_split_of(const gpt2c_call *c, ptrdiff_t rows) {
    const gpt2c_model *m = c->model;
    const ptrdiff_t sharing = m->n_head / m->n_kv_head, n = c->batch.n_sequences;
    if (c->batch.row_start[n] >= n * sharing) return (attention_split){1, m->n_head, query_tiles(rows)};
    const ptrdiff_t together = smaller(sharing, GPT2C_QUERIES);
    return (attention_split){together, m->n_kv_head * ((sharing + together - 1) / together), rows};
}

/* Memory between the parts of a thread's scratch that nothing may touch, in floats. Only AddressSanitizer has any. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { GAP = 64 };
static inline void gap_close(const float *gap) { __asan_poison_memory_region(gap, GAP * sizeof *gap); }
static inline void gap_open(const float *gap) { __asan_unpoison_memory_region(gap, GAP * sizeof *gap); }
#else
enum { GAP = 0 };
static inline void gap_close(const float *gap) { (void)gap; }
static inline void gap_open(const float *gap) { (void)gap; }
#endif

/* Where a thread prepares the input of a folded phase, in floats: rows in float32, from `encoded` on the same encoded
 * (or those of MLP_PROJ), from `merging` on room for merging; a gap after each. */
typedef struct {
    ptrdiff_t encoded, merging, size;
} fold_layout;

static inline fold_layout fold_layout_of(const gpt2c_model *m) {
    const ptrdiff_t encoded = FOLD_ROWS * m->n_embd + GAP;
    const ptrdiff_t merging = encoded + GPT2C_ENCODED(FOLD_ROWS, larger(m->n_embd, m->n_inner)) + GAP;
    return (fold_layout){encoded, merging, GPT2C_PAD(merging + GPT2C_PARTIAL(d_pad_of(m))) + GAP};
}

/* ---- the sequences of rows ---- */

/* The sequence that row belongs to, searched from `sequence` on (rows come in ascending order). */
static inline ptrdiff_t sequence_of(const gpt2c_batch *batch, ptrdiff_t row, ptrdiff_t sequence) {
    while (row >= batch->row_start[sequence + 1]) sequence++;
    return sequence;
}

/* The same for the first row of a range. */
static inline ptrdiff_t first_sequence(const gpt2c_batch *batch, ptrdiff_t row) {
    ptrdiff_t low = 0, high = batch->n_sequences; /* row_start[low] <= row < row_start[high] */
    while (high - low > 1) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if (batch->row_start[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static inline ptrdiff_t position_of(const gpt2c_batch *batch, ptrdiff_t row, ptrdiff_t sequence) {
    return batch->lengths[sequence] + row - batch->row_start[sequence];
}

/* The keys of a sequence, those of this call among them. */
static inline ptrdiff_t n_keys_of(const gpt2c_batch *batch, ptrdiff_t sequence) {
    return batch->lengths[sequence] + batch->row_start[sequence + 1] - batch->row_start[sequence];
}

/* ---- embed.c ---- */

/* x = wte[id] + wtt[type] + wpe[position], in this order, for rows [begin, end) of the step; unfused: x = wte[id], or
 * branch = one of the others. */
void pass_embed(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end);
/* Row `r` of a step of LayerNorm, or of the folded dense step that needs it, into `out`; norm NULL: as it is. */
void pass_normalise_row(const gpt2c_call *c, const gpt2c_step *step, const gpt2c_norm *norm, ptrdiff_t r, float *out);
/* Rows [begin, end) of a step of LayerNorm. */
void pass_normalise(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end);

/* ---- attend.c ---- */

/* Keys and values among columns [column0, column1) of C_ATTN's output for rows [begin, end) of the step, into their
 * caches. qkv is where the first column of the first row is, ld the distance of rows. */
void pass_append(const gpt2c_call *c, const gpt2c_step *step, const float *qkv, ptrdiff_t ld, ptrdiff_t column0,
                 ptrdiff_t column1, ptrdiff_t begin, ptrdiff_t end);
/* Rows [begin, end) of the step attend with one set of heads to all keys, or to one block of them: the first
 * slices are of the first block. */
void pass_attend(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t slice, ptrdiff_t begin, ptrdiff_t end,
                 float *scratch);
/* Rows [begin, end) of the step attend with one head to the output of an encoder. */
void pass_attend_cross(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t begin, ptrdiff_t end,
                       float *scratch);
/* The same in the phases of an unfused layer: scores, their softmax, the pattern of cross-attention, or values by a
 * changed pattern. */
void pass_attend_unfused(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t head, ptrdiff_t begin, ptrdiff_t end,
                         float *scratch);
/* Merges all blocks of the step's rows into out[rows][n_embd]. scratch: GPT2C_PARTIAL(d_pad) floats. */
void pass_merge(const gpt2c_call *c, const gpt2c_step *step, float *out, float *scratch);

#endif
