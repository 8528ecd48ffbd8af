/* Causal attention over a cache, for up to six consecutive queries of one head. */

VEC_INLINE float exp_scalar(float x) {
    float lanes[GPT2C_LANES];
    v_store(lanes, v_exp(v_set1(x)));
    return lanes[0];
}

/* scores[0 … valid) become weights exp(scale * score - maximum), with zeros up to a multiple of 16. Scores beyond are
 * of keys that this query may not see (or that nobody wrote): they are replaced, never computed with. */
VEC_INLINE float softmax_weights(float *scores, ptrdiff_t valid, float scale, float *maximum) {
    const vf factor = v_set1(scale), nothing = v_set1(-INFINITY);
    vf greatest = nothing;
    for (ptrdiff_t j = 0; j < valid; j += GPT2C_LANES) {
        const vf score = v_keep_first(v_mul(v_load(scores + j), factor), valid - j, nothing);
        v_store(scores + j, score);
        greatest = v_max(greatest, score);
    }
    *maximum = v_max_lane(greatest);
    const vf shift = v_set1(*maximum);
    vf sum = v_set1(0.0f);
    for (ptrdiff_t j = 0; j < valid; j += GPT2C_LANES) {
        const vf weight = v_exp(v_sub(v_load(scores + j), shift));
        v_store(scores + j, weight);
        sum = v_add(sum, weight);
    }
    return v_sum(sum);
}

static void attention(float *out, ptrdiff_t ld_out, const float *q, ptrdiff_t ld_q, const float *k, const float *v,
                      ptrdiff_t rows, ptrdiff_t first, ptrdiff_t d_head, float scale, float *scratch) {
    const ptrdiff_t strips = (d_head + GPT2C_LANES - 1) / GPT2C_LANES, d_pad = strips * GPT2C_LANES;
    float *scores = scratch;                                   /* [rows][128] */
    float *block = scores + GPT2C_TILE_ROWS * GPT2C_KEY_BLOCK; /* [rows][d_pad] weighted values of one block */
    float *total = block + GPT2C_TILE_ROWS * d_pad;            /* [rows][d_pad] of all blocks so far */
    float maximum[GPT2C_TILE_ROWS] = {0}, sum[GPT2C_TILE_ROWS] = {0};
    const ptrdiff_t last = first + rows - 1;

    for (ptrdiff_t key = 0; key <= last; key += GPT2C_KEY_BLOCK) {
        const ptrdiff_t keys = last + 1 - key < GPT2C_KEY_BLOCK ? last + 1 - key : GPT2C_KEY_BLOCK;
        float *values = key == 0 ? total : block;

        tile_any(rows, scores, NULL, NULL, GPT2C_KEY_BLOCK, q, ld_q, k + key * d_head, GPT2C_LANES,
                 d_head * GPT2C_LANES, d_head, (keys + GPT2C_LANES - 1) / GPT2C_LANES);

        float block_maximum[GPT2C_TILE_ROWS], block_sum[GPT2C_TILE_ROWS];
        ptrdiff_t valid[GPT2C_TILE_ROWS] = {0}; /* keys of this block that query i may see; ascending in i */
        for (ptrdiff_t i = 0; i < rows; i++) {
            const ptrdiff_t seen = first + i + 1 - key;
            valid[i] = seen < 0 ? 0 : seen < keys ? seen : keys;
            if (valid[i] > 0)
                block_sum[i] = softmax_weights(scores + i * GPT2C_KEY_BLOCK, valid[i], scale, &block_maximum[i]);
        }

        /* The keys that all queries see, together; then each query's own rest. A weight of zero is not good enough:
         * zero times an infinite value of a later token is NaN. */
        const float *rows_of_v = v + key * d_pad;
        tile_any(rows, values, NULL, NULL, d_pad, scores, GPT2C_KEY_BLOCK, rows_of_v, d_pad, GPT2C_LANES, valid[0],
                 strips);
        for (ptrdiff_t i = 1; i < rows; i++)
            if (valid[i] > valid[0])
                tile_any(1, values + i * d_pad, values + i * d_pad, NULL, d_pad,
                         scores + i * GPT2C_KEY_BLOCK + valid[0], GPT2C_KEY_BLOCK, rows_of_v + valid[0] * d_pad, d_pad,
                         GPT2C_LANES, valid[i] - valid[0], strips);

        for (ptrdiff_t i = 0; i < rows; i++) {
            if (key == 0) {
                maximum[i] = block_maximum[i];
                sum[i] = block_sum[i];
            } else if (valid[i] > 0) {
                const float greatest = maximum[i] > block_maximum[i] ? maximum[i] : block_maximum[i];
                const vf keep = v_set1(exp_scalar(maximum[i] - greatest));
                const vf join = v_set1(exp_scalar(block_maximum[i] - greatest));
                float *to = total + i * d_pad;
                const float *from = block + i * d_pad;
                for (ptrdiff_t c = 0; c < d_pad; c += GPT2C_LANES)
                    v_store(to + c, v_fma(v_load(to + c), keep, v_mul(v_load(from + c), join)));
                float merged[GPT2C_LANES];
                v_store(merged, v_fma(v_set1(sum[i]), keep, v_mul(v_set1(block_sum[i]), join)));
                sum[i] = merged[0];
                maximum[i] = greatest;
            }
        }
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        const vf divisor = v_set1(sum[i]);
        for (ptrdiff_t c = 0; c < d_head; c += GPT2C_LANES)
            v_store_first(out + i * ld_out + c, v_div(v_load(total + i * d_pad + c), divisor), d_head - c);
    }
}
