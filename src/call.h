/* call.h: one call over the rows of any mix of sequences.
 *
 * Rows are numbered through all sequences, in their order. A chunk of up to GPT2C_CHUNK rows goes through all layers
 * before the next one, so the steps are
 *   per chunk: EMBED, per layer LN_1 C_ATTN ATTENTION ENCODE ATTN_PROJ LN_2 C_FC MLP_PROJ, then LN_F and, per block of
 *   wanted rows, HEAD and (if scores are wanted) SCORE.
 * LN_1, LN_2 and LN_F write their rows in float32 and in the number format of the weights they are multiplied by;
 * C_ATTN also appends keys and values to the caches; C_FC writes in the format of MLP_PROJ; ENCODE (unless all is
 * float32) does so for the output of attention. With few rows there are no LN and ENCODE steps: dense steps are folded.
 * Layers with cross-attention have LN_CROSS CROSS_Q CROSS_ATTENTION ENCODE CROSS_PROJ before LN_2. With post_norm the
 * steps are EMBED LN_EMB, per layer ENCODE C_ATTN ATTENTION ENCODE ATTN_PROJ LN_1 ENCODE C_FC MLP_PROJ LN_2, then LN_F,
 * which gathers the wanted rows, TRANSFORM LN_HEAD and HEAD; LN steps up to LN_2 write x, also with few rows
 * (unfused: norm, which COPY makes x).
 *
 * Observed layers (gpt2c_observer.flags) are unfused, with the same results bit by bit: no step is folded or does a
 * second thing, and between the steps are STOPs, at which the caller may read and change the buffers. If one part of a
 * layer must read other values than the rest of it, the caller writes these into the buffer at the STOP before that
 * part, and restores the buffer at the next STOP. */
#ifndef GPT2C_CALL_H
#define GPT2C_CALL_H

#include "gpt2c.h"

typedef enum {
    GPT2C_EMBED,
    GPT2C_LN_EMB,
    GPT2C_LN_1,
    GPT2C_C_ATTN,
    GPT2C_ATTENTION,
    GPT2C_ENCODE,
    GPT2C_ATTN_PROJ,
    GPT2C_LN_CROSS,
    GPT2C_CROSS_Q,
    GPT2C_CROSS_ATTENTION,
    GPT2C_CROSS_PROJ,
    GPT2C_CROSS_KV, /* keys and values of an encoder's output, x, to the caches */
    GPT2C_LN_2,
    GPT2C_C_FC,
    GPT2C_MLP_PROJ,
    GPT2C_LN_F,
    GPT2C_TRANSFORM,
    GPT2C_LN_HEAD,
    GPT2C_HEAD,
    GPT2C_SCORE,
    GPT2C_POSITIONS,     /* from here on: of unfused layers. branch = wpe[position] */
    GPT2C_TYPES,         /* branch = wtt[type] */
    GPT2C_ADD,           /* x += branch */
    GPT2C_COPY,          /* x = norm, with post_norm */
    GPT2C_APPEND,        /* keys and values to the caches */
    GPT2C_SCORES,        /* scores = scaled and masked */
    GPT2C_SOFTMAX,       /* pattern = softmax(scores) */
    GPT2C_CROSS_PATTERN, /* cross = softmax of the scores of the encoder's positions */
    GPT2C_VALUES,        /* the heads of attended that `changed` marks, from pattern; clears the mark */
    GPT2C_ACTIVATE,      /* post = activation(pre) */
    GPT2C_STOP           /* not for gpt2c_run */
} gpt2c_phase;

/* The place of a STOP, in the order of a pass without post_norm: the value just computed. */
typedef enum {
    GPT2C_AT_EMBED,         /* x: only token embeddings */
    GPT2C_AT_TYPES,         /* branch: embeddings of token types */
    GPT2C_AT_POSITIONS,     /* branch: position embeddings */
    GPT2C_AT_LN_EMB,        /* norm */
    GPT2C_AT_RESID_PRE,     /* x, before layer */
    GPT2C_AT_ATTN_IN,       /* x, as only attention reads it */
    GPT2C_AT_LN_1,          /* norm */
    GPT2C_AT_QKV,           /* qkv */
    GPT2C_AT_SCORES,        /* scores */
    GPT2C_AT_PATTERN,       /* pattern */
    GPT2C_AT_Z,             /* attended */
    GPT2C_AT_ATTN_OUT,      /* branch */
    GPT2C_AT_RESID_MID,     /* x */
    GPT2C_AT_CROSS_PATTERN, /* cross */
    GPT2C_AT_CROSS_OUT,     /* branch */
    GPT2C_AT_RESID_CROSS,   /* x, after cross-attention */
    GPT2C_AT_MLP_IN,        /* x, as only the feed-forward layer reads it */
    GPT2C_AT_LN_2,          /* norm */
    GPT2C_AT_PRE,           /* pre */
    GPT2C_AT_POST,          /* post */
    GPT2C_AT_MLP_OUT,       /* branch */
    GPT2C_AT_RESID_POST,    /* x, after layer */
    GPT2C_AT_LN_F,          /* norm, of the wanted rows: that of LN_F, or of LN_HEAD if there is a transform */
    GPT2C_N_PLACES
} gpt2c_place;

/* Flags of a layer; outside of layers only the first: run it unfused, also store scores and pattern, and recompute
 * heads whose pattern the observer has changed. */
enum { GPT2C_UNFUSED = 1, GPT2C_OBSERVE_PATTERN = 2, GPT2C_EDIT_PATTERN = 4 };

/* One phase over rows [row0, row0 + rows): rows of the call up to MLP_PROJ, indices into output.rows from LN_F on.
 * origin is what the first row of the phase's input buffer holds: the chunk's first row, or for HEAD its first index.
 * fold: every thread prepares the dense layer's input for itself (origin of HEAD is then the chunk's first row, too).
 * detail: of ENCODE the phase of the dense layer that it encodes for, of STOP the place. */
typedef struct {
    int phase;
    ptrdiff_t layer, row0, rows, origin;
    int fold, unfused, detail;
} gpt2c_step;

/* The rows of a call: the new tokens of every sequence. */
typedef struct {
    ptrdiff_t n_sequences;
    const gpt2c_cache *caches;  /* [n_sequences] */
    const ptrdiff_t *lengths;   /* [n_sequences] positions filled before the call */
    const ptrdiff_t *row_start; /* [n_sequences + 1] first row of each sequence; the last: the number of rows */
    const int32_t *ids;         /* [rows] */
    const int32_t *types;       /* [rows]; NULL: all 0 */
    int bidirectional;          /* every row attends to all rows of its sequence, whose cache was empty; one chunk */
    int started;                /* x holds the residual stream before first_layer for all rows, which are one chunk */
    ptrdiff_t first_layer;      /* n_layer: what remains is LN_F */
    const gpt2c_cache *cross;   /* [n_sequences] of the encoder's outputs, cross_lengths positions each; or NULL */
    const ptrdiff_t *cross_lengths;
    int encoded; /* x holds an encoder's output for all rows, one chunk: the only steps are CROSS_KV */
} gpt2c_batch;

/* The outputs of a call. `logits` has n_rows rows of n_vocab; or, if target_start is not NULL, blocks of up to
 * score_block rows that are reduced at once to what gpt2c_kernels.log_sum gives and, for each target of row i, from
 * target_start[i] to target_start[i + 1], at least one, its logit and how many are greater (for
 * target -1: NaN and 0). If hidden is not NULL, it gets the output of LN_F, and there are no logits. */
typedef struct {
    ptrdiff_t n_rows;
    const ptrdiff_t *rows; /* [n_rows], ascending */
    float *hidden;         /* [n_rows][n_embd] or NULL */
    float *logits;
    ptrdiff_t score_block;
    const ptrdiff_t *target_start; /* [n_rows + 1] or NULL */
    const int32_t *targets;        /* ids, or -1 for no token */
    float *target_logit;           /* one per target */
    int64_t *greater;              /* one per target */
    float *maximum;                /* [n_rows] */
    double *total, *moment;        /* [n_rows] */
    double *variance;              /* [n_rows] */
    /* The `top` greatest logits of the first n_text ids of each row (ids -1 and NaN if its total is NaN); 0: none. */
    ptrdiff_t top, n_text;
    int32_t *top_ids;  /* [n_rows][top] */
    float *top_logits; /* [n_rows][top] */
    /* Sums over subsets of the vocabulary. */
    ptrdiff_t n_masks;
    const uint16_t *masks; /* [n_masks][GPT2C_MASK_WORDS(n_vocab)] */
    float *mask_maximum;   /* [n_rows][n_masks] */
    double *mask_total;    /* [n_rows][n_masks] */
} gpt2c_output;

typedef struct {
    ptrdiff_t chunk;        /* rows: min(rows, GPT2C_CHUNK), or all of them */
    float *x;               /* [chunk][n_embd] residual stream */
    float *norm;            /* [chunk][n_embd] output of LayerNorm */
    float *attended;        /* [chunk][n_embd] output of attention, before its projection */
    float *qkv;             /* [chunk][n_qkv], n_qkv = n_embd + 2 n_kv_head d_head */
    void *encoded;          /* GPT2C_ENCODED(chunk, max(n_embd, n_inner)) floats: encoded rows; unused with float32 */
    void *hidden;           /* GPT2C_ENCODED(chunk, n_inner) floats: the output of C_FC, in bfloat16 encoded */
    float *gemm;            /* [chunk][max(n_qkv, n_inner)] with external_gemm, else unused */
    float *scratch;         /* [threads][scratch_size] */
    ptrdiff_t scratch_size; /* gpt2c_scratch_size */
    ptrdiff_t key_blocks;   /* gpt2c_key_blocks */
    float *partial;         /* [rows][n_head][key_blocks][GPT2C_PARTIAL(d_pad)] */
} gpt2c_workspace;

/* An observer's buffers, besides the workspace; all rows are then one chunk. Sequence s of n rows and k keys, old and
 * new, has scores and pattern [n_head][n][k] from pattern_start[s] on, changed [n_head][n] from n_head * row_start[s]
 * on, and cross [n_head][n][cross_lengths[s]] from cross_start[s] on. */
typedef struct {
    const unsigned char *flags; /* [n_layer + 1], the last of what lies outside of layers; NULL: no observer */
    float *branch;              /* [chunk][n_embd] addition to the residual stream */
    float *pre, *post;          /* [chunk][n_inner] before and after the activation */
    float *scores, *pattern;
    const ptrdiff_t *pattern_start; /* [n_sequences] */
    unsigned char *changed;
    float *cross;
    const ptrdiff_t *cross_start; /* [n_sequences] */
} gpt2c_observer;

typedef struct {
    const gpt2c_model *model;
    const gpt2c_kernels *kernels;
    int threads;
    int external_gemm; /* dense phases find their products in workspace.gemm and only apply the epilogue */
    gpt2c_batch batch;
    gpt2c_output output;
    gpt2c_workspace workspace;
    gpt2c_observer observer;
    /* Called by the calling thread at least every 10 ms; non-zero abandons the call. NULL for never. */
    int (*poll)(void *);
    void *poll_argument;
} gpt2c_call;

/* ---- plan.c ---- */

/* Floats of scratch that a thread needs; with_top: where the greatest logits are wanted. */
ptrdiff_t gpt2c_scratch_size(const gpt2c_model *model, ptrdiff_t chunk, int with_top);
/* The number of blocks of keys into which attention is split, each a separate item, so that few heads over a long cache
 * keep many threads busy; 0: not at all. */
ptrdiff_t gpt2c_key_blocks(const gpt2c_call *call);
/* Writes the steps of the call and returns their number; steps may be NULL to count. */
ptrdiff_t gpt2c_plan(const gpt2c_call *call, gpt2c_step *steps);
/* Writes the steps, at most GPT2C_QKV_STEPS, by which an unfused layer makes qkv of x, and returns their number: for
 * `rows` rows that are no part of the call, in a workspace of their own. */
enum { GPT2C_QKV_STEPS = 3 };
ptrdiff_t gpt2c_plan_qkv(const gpt2c_call *call, ptrdiff_t layer, ptrdiff_t rows, gpt2c_step *steps);

/* ---- run.c ---- */

/* The dense layer that a step multiplies by, with its input; NULL for other phases. */
const gpt2c_dense *gpt2c_step_dense(const gpt2c_call *call, const gpt2c_step *step, const float **input);
/* Runs the steps in one parallel region. Returns 0, or what poll returned when it abandoned the call. */
int gpt2c_run(const gpt2c_call *call, const gpt2c_step *steps, ptrdiff_t n_steps);

#endif
