/* LayerNorm in two passes over the row: the mean, then the centred second moment; 16 lanes, fixed tree. */

static void layer_norm(float *out, ptrdiff_t ld_out, const float *x, ptrdiff_t ld_x, const gpt2c_norm *norm,
                       float epsilon, ptrdiff_t rows, ptrdiff_t n) {
    const float count = (float)n;
    const ptrdiff_t whole = n - n % GPT2C_LANES, tail = n - whole;
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float *row = x + r * ld_x;
        float *y = out + r * ld_out;

        vf sum = v_set1(0.0f);
        for (ptrdiff_t c = 0; c < whole; c += GPT2C_LANES) sum = v_add(sum, v_load(row + c));
        if (tail) sum = v_add(sum, v_load_first(row + whole, tail));
        const vf mean = v_set1(v_sum(sum) / count);

        vf squares = v_set1(0.0f);
        for (ptrdiff_t c = 0; c < whole; c += GPT2C_LANES) {
            const vf centred = v_sub(v_load(row + c), mean);
            squares = v_fma(centred, centred, squares);
        }
        if (tail) {
            const vf centred = v_keep_first(v_sub(v_load_first(row + whole, tail), mean), tail, v_set1(0.0f));
            squares = v_fma(centred, centred, squares);
        }
        const vf inverse = v_set1(1.0f / sqrtf(v_sum(squares) / count + epsilon));

        for (ptrdiff_t c = 0; c < whole; c += GPT2C_LANES) {
            const vf normal = v_mul(v_sub(v_load(row + c), mean), inverse);
            v_store(y + c, v_fma(normal, v_load(norm->gain + c), v_load(norm->bias + c)));
        }
        if (tail) {
            const vf normal = v_mul(v_sub(v_load_first(row + whole, tail), mean), inverse);
            v_store_first(y + whole,
                          v_fma(normal, v_load_first(norm->gain + whole, tail), v_load_first(norm->bias + whole, tail)),
                          tail);
        }
    }
}
