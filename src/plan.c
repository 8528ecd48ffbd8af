/* A call as a list of steps, and the sizes that follow from it. */
#include "pass.h"

ptrdiff_t gpt2c_scratch_size(const gpt2c_model *model, ptrdiff_t chunk, int with_top) {
    const ptrdiff_t rows = smaller(chunk, ROW_BLOCK);
    const ptrdiff_t linear = GPT2C_LINEAR_SCRATCH(rows) + rows * GPT2C_PANEL;
    const ptrdiff_t attention = GPT2C_ATTENTION_SCRATCH(d_pad_of(model));
    const ptrdiff_t greatest = with_top ? GPT2C_TOP_SCRATCH(model->n_vocab) : 0;
    return GPT2C_PAD(larger(larger(linear, attention), greatest)) + GAP + fold_layout_of(model).size;
}

ptrdiff_t gpt2c_key_blocks(const gpt2c_call *call) {
    const gpt2c_batch *batch = &call->batch;
    const ptrdiff_t rows = batch->row_start[batch->n_sequences];
    const attention_split s = attention_split_of(call, rows);
    ptrdiff_t most = 0;
    if (rows > FOLD_ROWS || call->external_gemm || call->observer.flags || batch->bidirectional ||
        s.slices * s.parts >= 4 * call->threads)
        return 0;
    for (ptrdiff_t i = 0; i < batch->n_sequences; i++)
        most = larger(most, (n_keys_of(batch, i) - 1) / GPT2C_KEY_BLOCK + 1);
    return most > 1 ? most : 0;
}

/* The list being written, or only counted if steps is NULL. */
typedef struct {
    gpt2c_step *steps;
    ptrdiff_t n;
} plan;

static void put(plan *p, gpt2c_step step) {
    if (p->steps) p->steps[p->n] = step;
    p->n++;
}

static int folds(const gpt2c_call *call, ptrdiff_t rows) { return !call->external_gemm && rows <= FOLD_ROWS; }

static int unfused_outside(const gpt2c_call *call) {
    return call->observer.flags && call->observer.flags[call->model->n_layer];
}

/* The result of `phase` is shown at `place` and added to x. */
static void plan_addition(plan *p, gpt2c_step step, int phase, int place) {
    step.phase = phase;
    put(p, step);
    step.phase = GPT2C_STOP, step.detail = place;
    put(p, step);
    step.phase = GPT2C_ADD;
    put(p, step);
}

static void plan_embedding(plan *p, const gpt2c_call *call, ptrdiff_t row, ptrdiff_t rows) {
    const int unfused = unfused_outside(call);
    gpt2c_step step = {.row0 = row, .rows = rows, .origin = row, .unfused = unfused};
    step.phase = GPT2C_EMBED;
    put(p, step);
    if (unfused) {
        step.phase = GPT2C_STOP, step.detail = GPT2C_AT_EMBED;
        put(p, step);
        if (call->model->wtt) plan_addition(p, step, GPT2C_TYPES, GPT2C_AT_TYPES);
        plan_addition(p, step, GPT2C_POSITIONS, GPT2C_AT_POSITIONS);
    }
    if (!call->model->post_norm) return;
    step.phase = GPT2C_LN_EMB;
    put(p, step);
    if (!unfused) return;
    step.phase = GPT2C_STOP, step.detail = GPT2C_AT_LN_EMB;
    put(p, step);
    step.phase = GPT2C_COPY;
    put(p, step);
}

/* The steps of an unfused layer, and the flags that each depends on: those of an observer, or of the model. */
enum { CROSS = 32, PRE_NORM = 64, POST_NORM = 128 };
typedef struct {
    int phase, detail, flags;
} unfused_step;

static const unfused_step UNFUSED[] = {
    {GPT2C_STOP, GPT2C_AT_RESID_PRE, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_ATTN_IN, GPT2C_UNFUSED},
    {GPT2C_LN_1, 0, PRE_NORM},
    {GPT2C_STOP, GPT2C_AT_LN_1, PRE_NORM},
    {GPT2C_ENCODE, GPT2C_C_ATTN, GPT2C_UNFUSED},
    {GPT2C_C_ATTN, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_QKV, GPT2C_UNFUSED},
    {GPT2C_APPEND, 0, GPT2C_UNFUSED},
    {GPT2C_SCORES, 0, GPT2C_OBSERVE_PATTERN},
    {GPT2C_STOP, GPT2C_AT_SCORES, GPT2C_OBSERVE_PATTERN},
    {GPT2C_SOFTMAX, 0, GPT2C_OBSERVE_PATTERN},
    {GPT2C_STOP, GPT2C_AT_PATTERN, GPT2C_OBSERVE_PATTERN},
    {GPT2C_ATTENTION, 0, GPT2C_UNFUSED},
    {GPT2C_VALUES, 0, GPT2C_EDIT_PATTERN},
    {GPT2C_STOP, GPT2C_AT_Z, GPT2C_UNFUSED},
    {GPT2C_ENCODE, GPT2C_ATTN_PROJ, GPT2C_UNFUSED},
    {GPT2C_ATTN_PROJ, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_ATTN_OUT, GPT2C_UNFUSED},
    {GPT2C_ADD, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_RESID_MID, GPT2C_UNFUSED},
    {GPT2C_LN_1, 0, POST_NORM},
    {GPT2C_STOP, GPT2C_AT_LN_1, POST_NORM},
    {GPT2C_COPY, 0, POST_NORM},
    {GPT2C_LN_CROSS, 0, CROSS},
    {GPT2C_ENCODE, GPT2C_CROSS_Q, CROSS},
    {GPT2C_CROSS_Q, 0, CROSS},
    {GPT2C_CROSS_PATTERN, 0, CROSS | GPT2C_OBSERVE_PATTERN},
    {GPT2C_STOP, GPT2C_AT_CROSS_PATTERN, CROSS | GPT2C_OBSERVE_PATTERN},
    {GPT2C_CROSS_ATTENTION, 0, CROSS},
    {GPT2C_ENCODE, GPT2C_CROSS_PROJ, CROSS},
    {GPT2C_CROSS_PROJ, 0, CROSS},
    {GPT2C_STOP, GPT2C_AT_CROSS_OUT, CROSS},
    {GPT2C_ADD, 0, CROSS},
    {GPT2C_STOP, GPT2C_AT_RESID_CROSS, CROSS},
    {GPT2C_STOP, GPT2C_AT_MLP_IN, GPT2C_UNFUSED},
    {GPT2C_LN_2, 0, PRE_NORM},
    {GPT2C_STOP, GPT2C_AT_LN_2, PRE_NORM},
    {GPT2C_ENCODE, GPT2C_C_FC, GPT2C_UNFUSED},
    {GPT2C_C_FC, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_PRE, GPT2C_UNFUSED},
    {GPT2C_ACTIVATE, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_POST, GPT2C_UNFUSED},
    {GPT2C_ENCODE, GPT2C_MLP_PROJ, GPT2C_UNFUSED},
    {GPT2C_MLP_PROJ, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_MLP_OUT, GPT2C_UNFUSED},
    {GPT2C_ADD, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_RESID_POST, GPT2C_UNFUSED},
    {GPT2C_LN_2, 0, POST_NORM},
    {GPT2C_STOP, GPT2C_AT_LN_2, POST_NORM},
    {GPT2C_COPY, 0, POST_NORM},
};

/* The next step of an unfused layer, from that at *n on, that exists with these flags; returns 0 past the last. */
static int next_unfused(const gpt2c_model *m, int flags, size_t *n, gpt2c_step *step) {
    const int float32 = m->layers[step->layer].c_attn.dtype == GPT2C_FLOAT32;
    flags |= (m->post_norm ? POST_NORM : PRE_NORM) | (m->cross ? CROSS : 0);
    while (*n < sizeof UNFUSED / sizeof UNFUSED[0]) {
        const unfused_step found = UNFUSED[(*n)++];
        if ((found.flags & flags) != found.flags || (found.phase == GPT2C_ENCODE && float32)) continue;
        step->phase = found.phase, step->detail = found.detail;
        return 1;
    }
    return 0;
}

static void plan_unfused_layer(plan *p, const gpt2c_call *call, gpt2c_step step, int flags) {
    size_t n = 0;
    step.unfused = 1;
    while (next_unfused(call->model, flags, &n, &step)) put(p, step);
}

ptrdiff_t gpt2c_plan_qkv(const gpt2c_call *call, ptrdiff_t layer, ptrdiff_t rows, gpt2c_step *steps) {
    gpt2c_step step = {.layer = layer, .rows = rows, .unfused = 1};
    plan p = {steps, 0};
    size_t n = 0;
    while (step.phase != GPT2C_C_ATTN && next_unfused(call->model, GPT2C_UNFUSED, &n, &step))
        if (step.phase != GPT2C_STOP) put(&p, step);
    return p.n;
}

static void plan_layer(plan *p, const gpt2c_call *call, ptrdiff_t layer, ptrdiff_t row, ptrdiff_t rows) {
    const gpt2c_model *m = call->model;
    const int flags = call->observer.flags ? call->observer.flags[layer] : 0;
    const int fold = folds(call, rows);
    const gpt2c_dtype dtype = m->layers[layer].c_attn.dtype;
    gpt2c_step step = {.layer = layer, .row0 = row, .rows = rows, .origin = row};
    if (flags) {
        plan_unfused_layer(p, call, step, flags);
        return;
    }
    /* If nothing is folded, LayerNorm encodes its rows, unless it comes after a sum, which may have to be shown; and
     * in bfloat16 C_FC does; integers need whole rows. */
    const int encodes = !fold && dtype != GPT2C_FLOAT32, encodes_again = !fold && gpt2c_is_integer(dtype);
    const int post = m->post_norm, pre = !fold && !post, cross = m->cross;
    const struct {
        int wanted, phase, detail;
    } phases[] = {
        {pre, GPT2C_LN_1, 0},
        {post && encodes, GPT2C_ENCODE, GPT2C_C_ATTN},
        {1, GPT2C_C_ATTN, 0},
        {1, GPT2C_ATTENTION, 0},
        {encodes, GPT2C_ENCODE, GPT2C_ATTN_PROJ},
        {1, GPT2C_ATTN_PROJ, 0},
        {cross && !fold, GPT2C_LN_CROSS, 0},
        {cross, GPT2C_CROSS_Q, 0},
        {cross, GPT2C_CROSS_ATTENTION, 0},
        {cross && encodes, GPT2C_ENCODE, GPT2C_CROSS_PROJ},
        {cross, GPT2C_CROSS_PROJ, 0},
        {post, GPT2C_LN_1, 0},
        {post && encodes, GPT2C_ENCODE, GPT2C_C_FC},
        {pre, GPT2C_LN_2, 0},
        {1, GPT2C_C_FC, 0},
        {encodes_again, GPT2C_ENCODE, GPT2C_MLP_PROJ},
        {1, GPT2C_MLP_PROJ, 0},
        {post, GPT2C_LN_2, 0},
    };
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++) {
        if (!phases[i].wanted) continue;
        step.phase = phases[i].phase, step.detail = phases[i].detail;
        step.fold = fold && step.phase != GPT2C_ATTENTION && step.phase != GPT2C_CROSS_ATTENTION;
        put(p, step);
    }
}

/* Keys and values of an encoder's output, for all layers. */
static void plan_cross(plan *p, const gpt2c_call *call, ptrdiff_t row, ptrdiff_t rows) {
    gpt2c_step step = {.row0 = row, .rows = rows, .origin = row};
    for (step.layer = 0; step.layer < call->model->n_layer; step.layer++) {
        step.phase = GPT2C_ENCODE, step.detail = GPT2C_CROSS_KV;
        if (call->model->layers[step.layer].cross_kv.dtype != GPT2C_FLOAT32) put(p, step);
        step.phase = GPT2C_CROSS_KV;
        put(p, step);
    }
}

/* The wanted outputs of output.rows [first, first + rows), in the chunk that begins at `row`. */
static void plan_head(plan *p, const gpt2c_call *call, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t row) {
    const gpt2c_model *m = call->model;
    const int transforms = m->transform.n_out > 0, post = m->post_norm;
    const int unfused = unfused_outside(call) && (!post || transforms);
    const int fold = folds(call, rows) && !unfused && !call->output.hidden && !post;
    gpt2c_step step = {.row0 = first, .rows = rows, .origin = row, .unfused = unfused && !transforms};
    if (!fold) {
        step.phase = GPT2C_LN_F;
        put(p, step);
    }
    if (call->output.hidden) return;
    step.origin = fold ? row : first, step.fold = fold;
    if (transforms) {
        step.phase = GPT2C_TRANSFORM;
        put(p, step);
        step.phase = GPT2C_LN_HEAD, step.unfused = unfused;
        put(p, step);
    }
    if (unfused) {
        step.phase = GPT2C_STOP, step.detail = GPT2C_AT_LN_F;
        put(p, step);
        step.phase = GPT2C_ENCODE, step.detail = GPT2C_HEAD;
        if (m->head.dtype != GPT2C_FLOAT32) put(p, step);
    }
    const int scores = call->output.target_start != NULL;
    const ptrdiff_t block = scores && !fold ? call->output.score_block : rows;
    for (ptrdiff_t done = 0; done < rows; done += block) {
        step.row0 = first + done, step.rows = smaller(rows - done, block);
        step.phase = GPT2C_HEAD;
        put(p, step);
        if (!scores) continue;
        step.phase = GPT2C_SCORE;
        put(p, step);
    }
}

ptrdiff_t gpt2c_plan(const gpt2c_call *call, gpt2c_step *steps) {
    const gpt2c_batch *batch = &call->batch;
    const gpt2c_output *output = &call->output;
    const ptrdiff_t rows = batch->row_start[batch->n_sequences];
    plan p = {steps, 0};
    ptrdiff_t wanted = 0;
    for (ptrdiff_t row = 0; row < rows; row += call->workspace.chunk) {
        const ptrdiff_t count = smaller(rows - row, call->workspace.chunk);
        if (batch->encoded) {
            plan_cross(&p, call, row, count);
            continue;
        }
        if (!batch->started) plan_embedding(&p, call, row, count);
        for (ptrdiff_t layer = batch->first_layer; layer < call->model->n_layer; layer++)
            plan_layer(&p, call, layer, row, count);
        const ptrdiff_t first = wanted;
        while (wanted < output->n_rows && output->rows[wanted] < row + count) wanted++;
        if (wanted > first) plan_head(&p, call, first, wanted - first, row);
    }
    return p.n;
}
