/* gpt2c.h: every struct and contract of the C core.
 *
 * Sizes, all ptrdiff_t, counted in elements:
 *   n_embd   width of the residual stream            n_head  attention heads, n_head * d_head == n_embd
 *   d_head   width of one head                       d_pad   d_head rounded up to VEC_LANES (16)
 *   n_inner  width of the feed-forward layer         n_vocab tokens known to the model
 *   n_ctx    positions known to the model            ld*     distance between two rows of a matrix
 * Matrices are row-major. Pointers to float need no alignment beyond that of a float; panels are 64-byte aligned
 * for speed only. No two arguments alias unless the contract of the function says so.
 *
 * C owns no memory: the caller hands over every buffer. Functions do not fail: the caller has checked sizes, ids and
 * positions before; those that can report something return it.
 */
#ifndef GPT2C_H
#define GPT2C_H

#include <stddef.h>
#include <stdint.h>

/* The recipe of every sum and function below. It changes whenever any result may change by a bit. */
#define GPT2C_NUMERICS_VERSION 1

#define GPT2C_LANES 16      /* floats in a virtual vector */
#define GPT2C_PANEL 64      /* outputs in a panel of packed weights */
#define GPT2C_K_BLOCK 256   /* inputs summed in one fma chain */
#define GPT2C_KEY_BLOCK 128 /* keys in one softmax block, at absolute positions */
#define GPT2C_TILE_ROWS 6   /* rows that a register tile holds at most */
#define GPT2C_CHUNK 256     /* rows that go through the layers together */

typedef enum {
    GPT2C_IDENTITY,
    GPT2C_GELU_NEW,   /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) */
    GPT2C_GELU,       /* x/2 (1 + erf(x / sqrt(2))) */
    GPT2C_QUICK_GELU, /* x sigmoid(1.702 x) */
    GPT2C_RELU,
    GPT2C_SILU, /* x sigmoid(x) */
    GPT2C_TANH,
    GPT2C_EXP, /* from here on: not activations, named for tests */
    GPT2C_ERF,
    GPT2C_SIGMOID,
    GPT2C_N_FUNCTIONS
} gpt2c_function;

/* A dense layer y[n_out] = W^T x[n_in] + bias, packed: panels[p][k][j] = W[k][64 p + j], zero where 64 p + j >= n_out.
 * bias has n_out floats or is NULL. */
typedef struct {
    const float *panels;
    const float *bias;
    ptrdiff_t n_in, n_out;
} gpt2c_dense;

/* gain and bias have n_embd floats. */
typedef struct {
    const float *gain, *bias;
} gpt2c_norm;

typedef struct {
    gpt2c_norm ln_1, ln_2;
    gpt2c_dense c_attn, attn_proj, c_fc, mlp_proj;
    float attn_scale; /* what a query times a key is multiplied by */
} gpt2c_layer;

/* One model. wte[v][k] is at wte[(v / 64) * wte_panel + (v % 64) * wte_row + k * wte_col]: the head's panels where head
 * and embedding are one matrix, else plain rows. */
typedef struct {
    ptrdiff_t n_layer, n_head, d_head, n_embd, n_inner, n_ctx, n_vocab;
    gpt2c_function activation;
    float epsilon;
    const gpt2c_layer *layers; /* [n_layer] */
    const float *wte;
    ptrdiff_t wte_panel, wte_row, wte_col;
    const float *wpe; /* [n_ctx][n_embd] */
    gpt2c_norm ln_f;
    gpt2c_dense head; /* n_embd to n_vocab */
} gpt2c_model;

/* The keys and values of one sequence.
 *   k[layer][head][position / 16][d_head][16]: 16 positions lie in the lanes
 *   v[layer][head][position][d_pad], zero beyond d_head
 * capacity is a multiple of GPT2C_KEY_BLOCK. Entries from the length on hold anything, NaN included. */
typedef struct {
    float *k, *v;
    ptrdiff_t capacity;
} gpt2c_cache;

/* What the linear kernel does to its sums before it writes them: out = residual + function(sums + bias). */
typedef struct {
    gpt2c_function function;
    const float *residual; /* same shape and ld as out, may be out itself; NULL for none */
} gpt2c_epilogue;

/* What the sampler needs to know besides the logits (../gpt2c/sampling.py explains each option). */
typedef struct {
    float temperature; /* 0: the greatest logit, the lowest id among equals */
    float top_p, min_p, repetition_penalty;
    ptrdiff_t top_k;     /* 0: all */
    const int32_t *seen; /* ids that the repetition penalty applies to; repeats allowed */
    ptrdiff_t n_seen;
    const int32_t *bias_ids; /* distinct ids */
    const float *bias_values;
    ptrdiff_t n_bias;
    const int32_t *forbidden;
    ptrdiff_t n_forbidden;
    uint64_t seed, stream, position; /* the key of the one random number drawn */
} gpt2c_sampling;

/* Kernels: serial, one table per ISA. Every output element is computed by one call and its bits depend on nothing but
 * the inputs that the formula names: not on the range asked for, nor on the ISA. */
typedef struct {
    const char *name;

    /* out[i] = function(x[i]), i < n; out may be x. */
    void (*apply)(float *out, const float *x, ptrdiff_t n, gpt2c_function function);

    /* out[r][c] = residual[r][c] + function(sums[r][c] + bias[c]), r < rows, c < n. bias or residual may be NULL;
     * out may be sums or residual. */
    void (*epilogue)(float *out, ptrdiff_t ld_out, const float *sums, ptrdiff_t ld_sums, const float *bias,
                     const gpt2c_epilogue *epilogue, ptrdiff_t rows, ptrdiff_t n);

    /* out[r][c] = (x[r][c] - mean_r) / sqrt(variance_r + epsilon) * gain[c] + bias[c], n >= 1 columns; out may be x. */
    void (*layer_norm)(float *out, ptrdiff_t ld_out, const float *x, ptrdiff_t ld_x, const gpt2c_norm *norm,
                       float epsilon, ptrdiff_t rows, ptrdiff_t n);

    /* Columns [64 panel0, min(64 panel1, n_out)) of `rows` rows of the dense layer, then the epilogue. Each sum is
     * one fma chain over k in ascending order per block of 256 inputs; blocks are added in ascending order.
     * x does not alias out. scratch: 2 * rows * 64 floats. */
    void (*linear)(float *out, ptrdiff_t ld_out, const float *x, ptrdiff_t ld_x, const gpt2c_dense *dense,
                   const gpt2c_epilogue *epilogue, ptrdiff_t rows, ptrdiff_t panel0, ptrdiff_t panel1, float *scratch);

    /* Causal attention of `rows` <= 6 consecutive queries of one head, at positions first, first + 1, …, over the
     * keys at positions 0 … its own. q and out hold d_head floats a row; k and v are those of this head (gpt2c_cache).
     * Per block of 128 keys: scores = scale * (fma chain over d), weights exp(score - block maximum), weighted values
     * as an fma chain over the keys; blocks merge left to right. scratch: GPT2C_ATTENTION_SCRATCH(d_pad) floats. */
    void (*attention)(float *out, ptrdiff_t ld_out, const float *q, ptrdiff_t ld_q, const float *k, const float *v,
                      ptrdiff_t rows, ptrdiff_t first, ptrdiff_t d_head, float scale, float *scratch);

    /* Of one row of logits: max_i, sum of exp(l_i - max) in *total, sum of exp(l_i - max) (l_i - max) in *moment, and
     * the number of logits greater than `threshold`. Sums of 256 terms in float32, these in float64. */
    ptrdiff_t (*log_sum)(const float *logits, ptrdiff_t n, float threshold, float *maximum, double *total,
                         double *moment);

    /* Draws one token; the logits hold no NaN. work: n floats, ids: n int32. Returns the id, or -1 if no token can be
     * chosen (all forbidden, or the greatest is infinite). No sort: thresholds are found by radix selection. */
    ptrdiff_t (*sample)(const float *logits, ptrdiff_t n, const gpt2c_sampling *sampling, float *work, int32_t *ids);

    /* Roofs: the sum of n floats read in order; and `steps` steps of multiply-adds that touch no memory, returning the
     * number of floating-point operations (*result is read and written, so that none is left out). */
    float (*read_all)(const float *x, ptrdiff_t n);
    double (*multiply_add)(ptrdiff_t steps, float *result);
} gpt2c_kernels;

#define GPT2C_ATTENTION_SCRATCH(d_pad) (GPT2C_TILE_ROWS * (GPT2C_KEY_BLOCK + 2 * (d_pad)))

/* dispatch.c: the tables compiled in, from the plainest to the widest ISA. Returns NULL past the last. */
const gpt2c_kernels *gpt2c_compiled(ptrdiff_t index);
/* Whether this CPU and operating system run exactly the features that the table was compiled for. */
int gpt2c_supported(const gpt2c_kernels *kernels);

/* pack.c: panels of W[n_in][n_out] (source[k * ld + n]) or, transposed, of W[n_out][n_in] (source[n * ld + k]), for
 * panels [panel0, panel1). */
void gpt2c_pack(float *panels, const float *source, ptrdiff_t ld, int transposed, ptrdiff_t n_in, ptrdiff_t n_out,
                ptrdiff_t panel0, ptrdiff_t panel1);

/* forward.c: one call over the rows of any mix of sequences.
 *
 * Rows are numbered through all sequences, in their order. out_rows (ascending) lists the rows whose logits are
 * wanted. A chunk of up to GPT2C_CHUNK rows goes through all layers before the next one, so the steps are
 *   per chunk: EMBED, per layer LN_1 C_ATTN APPEND ATTENTION ATTN_PROJ LN_2 C_FC MLP_PROJ, then LN_F and, per block of
 *   wanted rows, HEAD and (if scores are wanted) SCORE. */
typedef enum {
    GPT2C_EMBED,
    GPT2C_LN_1,
    GPT2C_C_ATTN,
    GPT2C_APPEND,
    GPT2C_ATTENTION,
    GPT2C_ATTN_PROJ,
    GPT2C_LN_2,
    GPT2C_C_FC,
    GPT2C_MLP_PROJ,
    GPT2C_LN_F,
    GPT2C_HEAD,
    GPT2C_SCORE
} gpt2c_phase;

/* One phase over rows [row0, row0 + rows): rows of the call up to MLP_PROJ, indices into out_rows from LN_F on. origin
 * is what the first row of the phase's input buffer holds: the chunk's first row, or for HEAD its first index. */
typedef struct {
    int phase;
    ptrdiff_t layer, row0, rows, origin;
} gpt2c_step;

typedef struct {
    const gpt2c_model *model;
    const gpt2c_kernels *kernels;
    int threads;
    int dense_done; /* the dense phases find their sums in `sums` and only apply the epilogue (backend "blas") */

    ptrdiff_t n_sequences;
    const gpt2c_cache *caches;  /* [n_sequences] */
    const ptrdiff_t *lengths;   /* [n_sequences] positions filled before the call */
    const ptrdiff_t *row_start; /* [n_sequences + 1] first row of each sequence */
    const int32_t *ids;         /* [rows] */
    ptrdiff_t n_out;
    const ptrdiff_t *out_rows; /* [n_out] */

    /* Logits: n_out rows of n_vocab in `logits`; or, if targets is not NULL, blocks of up to score_block rows that are
     * reduced at once to what gpt2c_kernels.log_sum gives, and the logit of the target. */
    float *logits;
    const int32_t *targets; /* [n_out] or NULL */
    ptrdiff_t score_block;
    float *target_logit, *maximum; /* [n_out] */
    double *total, *moment;        /* [n_out] */
    int64_t *greater;              /* [n_out] */

    /* Workspace for chunk = min(rows, GPT2C_CHUNK) rows. */
    float *x, *norm, *mixed; /* [chunk][n_embd] residual stream; LayerNorm's output; attention's output */
    float *qkv;              /* [chunk][3 n_embd] */
    float *hidden;           /* [chunk][n_inner] */
    float *sums;             /* [chunk][largest n_out] with dense_done, else unused */
    float *scratch;          /* [threads][scratch_size] */
    ptrdiff_t scratch_size;  /* gpt2c_scratch_size */

    /* Called by the calling thread at least every 10 ms; non-zero abandons the call. NULL for never. */
    int (*poll)(void *);
    void *poll_argument;
} gpt2c_call;

ptrdiff_t gpt2c_scratch_size(const gpt2c_model *model, ptrdiff_t chunk);
/* Writes the steps of the call and returns their number; steps may be NULL to count. */
ptrdiff_t gpt2c_plan(const gpt2c_call *call, gpt2c_step *steps);
/* The dense layer that a step multiplies by, with its input; NULL for other phases. */
const gpt2c_dense *gpt2c_step_dense(const gpt2c_call *call, const gpt2c_step *step, const float **input);
/* Runs the steps in one parallel region. Returns 0, or what poll returned when it abandoned the call. */
int gpt2c_run(const gpt2c_call *call, const gpt2c_step *steps, ptrdiff_t n_steps);

/* Calls body(argument, begin, end, thread) for equal parts of [0, n), one per thread (for tests and benchmarks). */
void gpt2c_parallel_for(int threads, ptrdiff_t n, void (*body)(void *, ptrdiff_t, ptrdiff_t, int), void *argument);

/* "openmp" or "c11": the body of team.h that was compiled. */
const char *gpt2c_team_kind(void);

#endif
