/* Weights into panels of 64 outputs. */
#include "gpt2c.h"

void gpt2c_pack(float *panels, const float *source, ptrdiff_t ld, int transposed, ptrdiff_t n_in, ptrdiff_t n_out,
                ptrdiff_t panel0, ptrdiff_t panel1) {
    const ptrdiff_t step_in = transposed ? 1 : ld, step_out = transposed ? ld : 1;
    for (ptrdiff_t p = panel0; p < panel1; p++) {
        const ptrdiff_t first = p * GPT2C_PANEL;
        const ptrdiff_t width = n_out - first < GPT2C_PANEL ? n_out - first : GPT2C_PANEL;
        float *to = panels + p * n_in * GPT2C_PANEL;
        const float *from = source + first * step_out;
        for (ptrdiff_t k = 0; k < n_in; k++) {
            for (ptrdiff_t j = 0; j < width; j++) to[k * GPT2C_PANEL + j] = from[k * step_in + j * step_out];
            for (ptrdiff_t j = width; j < GPT2C_PANEL; j++) to[k * GPT2C_PANEL + j] = 0.0f;
        }
    }
}
