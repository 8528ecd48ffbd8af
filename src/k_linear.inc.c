/* The dense layer in every number format: sums of a panel, then the epilogue. */

static void linear(float *out, ptrdiff_t ld_out, const void *x, ptrdiff_t ld_x, ptrdiff_t row0,
                   const gpt2c_dense *dense, const gpt2c_epilogue *what, ptrdiff_t rows, ptrdiff_t panel0,
                   ptrdiff_t panel1, float *scratch) {
    const ptrdiff_t size = gpt2c_panel_size(dense->dtype, dense->n_in), n_in = dense->n_in;
    float *total = scratch, *rest = scratch + rows * GPT2C_PANEL;
    for (ptrdiff_t p = panel0; p < panel1; p++) {
        const uint8_t *panel = (const uint8_t *)dense->panels + p * size;
        if (gpt2c_is_integer(dense->dtype))
            sums_of_integers(total, x, row0, dense, panel, rows, (int32_t *)(void *)rest);
        else if (dense->dtype == GPT2C_FLOAT32)
            sums_of_floats(total, (const float *)x + row0 * ld_x, ld_x, (const float *)(const void *)panel, n_in, rows,
                           rest);
        else
#if BFLOAT16_PAIRS
            sums_of_pairs(total, x, row0, dense, panel, rows);
#else
            sums_of_halves(total, (const float *)x + row0 * row_floats(dense), row_floats(dense), panel, n_in, rows,
                           rest);
#endif
        const ptrdiff_t column = p * GPT2C_PANEL, left = dense->n_out - column, to = column - panel0 * GPT2C_PANEL;
        const gpt2c_epilogue here = {what->function, what->residual ? what->residual + to : NULL};
        epilogue(out + to, ld_out, total, GPT2C_PANEL, dense->bias ? dense->bias + column : NULL, &here, rows,
                 left < GPT2C_PANEL ? left : GPT2C_PANEL);
    }
}
