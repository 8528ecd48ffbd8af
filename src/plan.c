/* A call as a list of steps, and the sizes that follow from it. */
#include "pass.h"

ptrdiff_t gpt2c_scratch_size(const gpt2c_model *model, ptrdiff_t chunk, int with_top) {
    const ptrdiff_t rows = smaller(chunk, ROW_BLOCK);
    const ptrdiff_t linear = GPT2C_LINEAR_SCRATCH(rows) + rows * GPT2C_PANEL;
    const ptrdiff_t attention = GPT2C_ATTENTION_SCRATCH(d_pad_of(model));
    const ptrdiff_t greatest = with_top ? GPT2C_TOP_SCRATCH(model->n_vocab) : 0;
    return GPT2C_PAD(larger(larger(linear, attention), greatest)) + fold_size(model);
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

/* The list that is being written, or with steps NULL counted. */
typedef struct {
    gpt2c_step *steps;
    ptrdiff_t n;
} plan;

static void put(plan *p, gpt2c_step step) {
    if (p->steps) p->steps[p->n] = step;
    p->n++;
}

static int unfused_outside(const gpt2c_call *call) {
    return call->observer.flags && call->observer.flags[call->model->n_layer];
}

static void plan_embedding(plan *p, const gpt2c_call *call, ptrdiff_t row, ptrdiff_t rows) {
    const int unfused = unfused_outside(call);
    gpt2c_step step = {.row0 = row, .rows = rows, .origin = row, .unfused = unfused};
    step.phase = GPT2C_EMBED;
    put(p, step);
    if (!unfused) return;
    step.phase = GPT2C_STOP, step.detail = GPT2C_AT_EMBED;
    put(p, step);
    step.phase = GPT2C_POSITIONS;
    put(p, step);
    step.phase = GPT2C_STOP, step.detail = GPT2C_AT_POSITIONS;
    put(p, step);
    step.phase = GPT2C_ADD;
    put(p, step);
}

/* The steps of an unfused layer, and the flag that each depends on. */
static const struct {
    int phase, detail, flag;
} UNFUSED[] = {
    {GPT2C_STOP, GPT2C_AT_RESID_PRE, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_ATTN_IN, GPT2C_UNFUSED},
    {GPT2C_LN_1, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_LN_1, GPT2C_UNFUSED},
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
    {GPT2C_STOP, GPT2C_AT_MLP_IN, GPT2C_UNFUSED},
    {GPT2C_LN_2, 0, GPT2C_UNFUSED},
    {GPT2C_STOP, GPT2C_AT_LN_2, GPT2C_UNFUSED},
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
};

static void plan_unfused_layer(plan *p, gpt2c_step step, int flags, int float32) {
    step.unfused = 1;
    for (size_t i = 0; i < sizeof UNFUSED / sizeof UNFUSED[0]; i++) {
        if (!(flags & UNFUSED[i].flag) || (UNFUSED[i].phase == GPT2C_ENCODE && float32)) continue;
        step.phase = UNFUSED[i].phase, step.detail = UNFUSED[i].detail;
        put(p, step);
    }
}

ptrdiff_t gpt2c_plan_qkv(const gpt2c_call *call, ptrdiff_t layer, ptrdiff_t rows, gpt2c_step *steps) {
    const int float32 = call->model->layers[layer].c_attn.dtype == GPT2C_FLOAT32;
    gpt2c_step step = {.layer = layer, .rows = rows, .unfused = 1};
    plan p = {steps, 0};
    for (size_t i = 0; step.phase != GPT2C_C_ATTN; i++) {
        if (UNFUSED[i].phase == GPT2C_STOP || (UNFUSED[i].phase == GPT2C_ENCODE && float32)) continue;
        step.phase = UNFUSED[i].phase, step.detail = UNFUSED[i].detail;
        put(&p, step);
    }
    return p.n;
}

static void plan_layer(plan *p, const gpt2c_call *call, ptrdiff_t layer, ptrdiff_t row, ptrdiff_t rows) {
    const int flags = call->observer.flags ? call->observer.flags[layer] : 0;
    const int fold = !call->external_gemm && rows <= FOLD_ROWS;
    const gpt2c_dtype dtype = call->model->layers[layer].c_attn.dtype;
    gpt2c_step step = {.layer = layer, .row0 = row, .rows = rows, .origin = row};
    if (flags) {
        plan_unfused_layer(p, step, flags, dtype == GPT2C_FLOAT32);
        return;
    }
    /* Where nothing is folded, LayerNorm encodes its rows, and in bfloat16 C_FC does; integers need whole rows. */
    const int encodes = !fold && dtype != GPT2C_FLOAT32, encodes_again = !fold && gpt2c_is_integer(dtype);
    const struct {
        int wanted, phase, detail;
    } phases[] = {
        {!fold, GPT2C_LN_1, 0},  {1, GPT2C_C_ATTN, 0},
        {1, GPT2C_ATTENTION, 0}, {encodes, GPT2C_ENCODE, GPT2C_ATTN_PROJ},
        {1, GPT2C_ATTN_PROJ, 0}, {!fold, GPT2C_LN_2, 0},
        {1, GPT2C_C_FC, 0},      {encodes_again, GPT2C_ENCODE, GPT2C_MLP_PROJ},
        {1, GPT2C_MLP_PROJ, 0},
    };
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++) {
        if (!phases[i].wanted) continue;
        step.phase = phases[i].phase, step.detail = phases[i].detail, step.fold = fold && step.phase != GPT2C_ATTENTION;
        put(p, step);
    }
}

/* What is wanted of output.rows [first, first + rows), which lie in the chunk that begins at `row`. */
static void plan_head(plan *p, const gpt2c_call *call, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t row) {
    const int unfused = unfused_outside(call);
    const int fold = !call->external_gemm && rows <= FOLD_ROWS && !unfused && !call->output.hidden;
    gpt2c_step step = {.row0 = first, .rows = rows, .origin = row, .unfused = unfused};
    if (!fold) {
        step.phase = GPT2C_LN_F;
        put(p, step);
    }
    if (call->output.hidden) return;
    step.origin = fold ? row : first, step.fold = fold;
    if (unfused) {
        step.phase = GPT2C_STOP, step.detail = GPT2C_AT_LN_F;
        put(p, step);
        step.phase = GPT2C_ENCODE, step.detail = GPT2C_HEAD;
        if (call->model->head.dtype != GPT2C_FLOAT32) put(p, step);
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
        if (!batch->started) plan_embedding(&p, call, row, count);
        for (ptrdiff_t layer = batch->first_layer; layer < call->model->n_layer; layer++)
            plan_layer(&p, call, layer, row, count);
        const ptrdiff_t first = wanted;
        while (wanted < output->n_rows && output->rows[wanted] < row + count) wanted++;
        if (wanted > first) plan_head(&p, call, first, wanted - first, row);
    }
    return p.n;
}
