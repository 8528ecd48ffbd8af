/* Row-wise phases before and between dense layers: embeddings and LayerNorm. */
#include "pass.h"

#include <string.h>

void pass_embed(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    const gpt2c_model *m = c->model;
    const gpt2c_batch *batch = &c->batch;
    const size_t size = (size_t)m->n_embd * sizeof(float);
    ptrdiff_t sequence = first_sequence(batch, step->row0 + begin);
    for (ptrdiff_t r = begin; r < end; r++) {
        const ptrdiff_t row = step->row0 + r;
        sequence = sequence_of(batch, row, sequence);
        const float *place = m->wpe + position_of(batch, row, sequence) * m->n_embd;
        const float *type = m->wtt ? m->wtt + (batch->types ? batch->types[row] : 0) * m->n_embd : NULL;
        float *x = c->workspace.x + r * m->n_embd;
        if (step->phase != GPT2C_EMBED) {
            memcpy(c->observer.branch + r * m->n_embd, step->phase == GPT2C_TYPES ? type : place, size);
            continue;
        }
        if (m->wte)
            memcpy(x, m->wte + batch->ids[row] * m->n_embd, size);
        else
            gpt2c_unpack(&m->head, batch->ids[row], x);
        if (step->unfused) continue;
        if (type)
            for (ptrdiff_t k = 0; k < m->n_embd; k++) x[k] += type[k];
        for (ptrdiff_t k = 0; k < m->n_embd; k++) x[k] += place[k];
    }
}

void pass_normalise_row(const gpt2c_call *c, const gpt2c_step *step, const gpt2c_norm *norm, ptrdiff_t r, float *out) {
    const ptrdiff_t n = c->model->n_embd;
    const int wanted_only = step->phase == GPT2C_LN_F || step->phase == GPT2C_HEAD;
    const ptrdiff_t row = wanted_only ? c->output.rows[step->row0 + r] - step->origin : r;
    const float *x = (step->phase == GPT2C_LN_HEAD ? c->workspace.attended : c->workspace.x) + row * n;
    if (norm)
        c->kernels->layer_norm(out, n, x, n, norm, c->model->epsilon, 1, n);
    else
        memcpy(out, x, (size_t)n * sizeof *out);
}

/* A phase of LayerNorm: norm (NULL: none), its destination, and the dense layer in whose format it also writes
 * encoded (NULL: none). */
typedef struct {
    const gpt2c_norm *norm;
    float *out;
    const gpt2c_dense *dense;
} norm_work;

static norm_work norm_work_of(const gpt2c_call *c, const gpt2c_step *step) {
    const gpt2c_model *m = c->model;
    const gpt2c_workspace *w = &c->workspace;
    const gpt2c_layer *layer = &m->layers[step->layer];
    float *out = m->post_norm && !step->unfused ? w->x : w->norm;
    switch (step->phase) {
    case GPT2C_LN_EMB:
        return (norm_work){&m->ln_emb, out, NULL};
    case GPT2C_LN_1:
        return (norm_work){&layer->ln_1, out, m->post_norm ? NULL : &layer->c_attn};
    case GPT2C_LN_CROSS:
        return (norm_work){&layer->ln_cross, out, &layer->cross_q};
    case GPT2C_LN_2:
        return (norm_work){&layer->ln_2, out, m->post_norm ? NULL : &layer->c_fc};
    case GPT2C_LN_HEAD:
        return (norm_work){&m->ln_head, w->norm, &m->head};
    default:
        return (norm_work){m->post_norm ? NULL : &m->ln_f, w->norm, m->transform.n_out ? &m->transform : &m->head};
    }
}

void pass_normalise(const gpt2c_call *c, const gpt2c_step *step, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t n = c->model->n_embd;
    const norm_work work = norm_work_of(c, step);
    const int last = step->phase == GPT2C_LN_F && c->output.hidden;
    float *out = last ? c->output.hidden + step->row0 * n : work.out;
    const int encodes = work.dense && work.dense->dtype != GPT2C_FLOAT32 && !step->unfused && !last;
    for (ptrdiff_t r = begin; r < end; r++) {
        pass_normalise_row(c, step, work.norm, r, out + r * n);
        if (encodes) c->kernels->encode(work.dense, c->workspace.encoded, r, out + r * n, n, 1, 0, n);
    }
}
