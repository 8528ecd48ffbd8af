/* Weights into panels of 64 outputs, in every number format, and back. */
#include "gpt2c.h"

#include <string.h>

enum {
    HALF = GPT2C_HALF_GROUP,
    GROUP = GPT2C_GROUP,
    BLOCK = GPT2C_INT4_BLOCK,
    WIDTH = GPT2C_PANEL,
    HALF_WIDTH = WIDTH / 2,
    PAIRS_STEP = 32,                /* inputs of bfloat16 whose weights are adjacent */
    INT8_STEP = GROUP * HALF_WIDTH, /* bytes of 64 inputs of half a panel */
    INT4_STEP = 2 * HALF_WIDTH + GROUP * HALF_WIDTH / 2
};

static ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) { return (n + multiple - 1) / multiple * multiple; }

ptrdiff_t gpt2c_panel_size(gpt2c_dtype dtype, ptrdiff_t n_in) {
    switch (dtype) {
    case GPT2C_BFLOAT16:
        return round_up(n_in, PAIRS_STEP) * WIDTH * (ptrdiff_t)sizeof(uint16_t);
    case GPT2C_INT8:
    case GPT2C_INT4: {
        const ptrdiff_t block = gpt2c_scale_block(dtype), floats = (1 + (n_in + block - 1) / block) * WIDTH;
        const ptrdiff_t steps = round_up(n_in, GROUP) / GROUP, step = dtype == GPT2C_INT8 ? INT8_STEP : INT4_STEP;
        return floats * (ptrdiff_t)sizeof(float) + 2 * steps * step;
    }
    case GPT2C_FLOAT32:
    case GPT2C_N_DTYPES:
        break;
    }
    return n_in * WIDTH * (ptrdiff_t)sizeof(float);
}

/* ---- numbers ---- */

static uint16_t to_bfloat16(float x) { /* nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (uint16_t)(bits >> 16 | 0x40U);
    return (uint16_t)((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

static float from_bfloat16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* w * inverse, rounded to nearest even and kept within [low, high]; NaN gives low. */
static float quantised(float w, float inverse, float low, float high) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it leaves no fraction bits */
    float q = w * inverse;
    q = q > high ? high : q;
    q = q >= low ? q : low;
    return (q + magic) - magic;
}

/* 1 / scale, or 0 for a scale of zeros (or NaN). */
static float inverse_of(float scale) { return scale >= 0x1p-120f || scale <= -0x1p-120f ? 1.0f / scale : 0.0f; }

/* ---- the source of weights ---- */

/* A block of inputs of all outputs of a panel. */
typedef float block_row[WIDTH];

typedef struct {
    const gpt2c_dense *dense;
    const float *weights;
    ptrdiff_t ld;
    int transposed;
} origin;

/* Inputs [k0, k0 + n) of the outputs of panel p, with zeros beyond. */
static void gather(block_row *w, ptrdiff_t n, const origin *from, ptrdiff_t p, ptrdiff_t k0) {
    const ptrdiff_t first = p * WIDTH, ld = from->ld;
    const ptrdiff_t width = from->dense->n_out - first < WIDTH ? from->dense->n_out - first : WIDTH;
    const ptrdiff_t left = from->dense->n_in - k0, height = left < n ? left : n;
    if (height < n || width < WIDTH) memset(w, 0, (size_t)n * sizeof *w);
    if (from->transposed)
        for (ptrdiff_t j = 0; j < width; j++)
            for (ptrdiff_t k = 0; k < height; k++) w[k][j] = from->weights[(first + j) * ld + k0 + k];
    else
        for (ptrdiff_t k = 0; k < height; k++)
            memcpy(w[k], from->weights + (k0 + k) * ld + first, (size_t)width * sizeof(float));
}

static float magnitude(float x) { return x < 0.0f ? -x : x; }
static float larger_or_nan(float a, float b) { return a > b || a != a ? a : b; }

/* Per output the element of greatest magnitude of `n` inputs, with its sign; NaN if any is not finite. */
static void extremes(float *most, const block_row *w, ptrdiff_t n) {
    float poison[WIDTH] = {0};
    for (int j = 0; j < WIDTH; j++) most[j] = 0.0f;
    for (ptrdiff_t k = 0; k < n; k++)
        for (int j = 0; j < WIDTH; j++) {
            most[j] = magnitude(w[k][j]) > magnitude(most[j]) ? w[k][j] : most[j];
            poison[j] += w[k][j] * 0.0f;
        }
    for (int j = 0; j < WIDTH; j++) most[j] += poison[j];
}

/* ---- one block of inputs of a panel with one scale per output ---- */

/* The position of output j's weights in a step of half a panel: tiles of 16 outputs, four inputs of each together. */
static uint8_t *byte_of(uint8_t *step, ptrdiff_t k, int j) {
    return step + j % HALF_WIDTH / 16 * GROUP * 16 + k / 4 * 64 + j % 16 * 4 + k % 4;
}

/* Weights of panel p and `steps` steps, from `step` on, into `to`, where halves of the panel are `ld` bytes apart. Adds
 * scale * float(sum of q) to shift. */
static void pack_int8(uint8_t *to, ptrdiff_t ld, float *scales, float *shift, const origin *from, ptrdiff_t p,
                      ptrdiff_t step, ptrdiff_t steps) {
    block_row w[GROUP];
    float most[WIDTH] = {0}, inverse[WIDTH];
    int32_t sum[WIDTH] = {0};
    for (ptrdiff_t s = 0; s < steps; s++) {
        float here[WIDTH];
        gather(w, GROUP, from, p, (step + s) * GROUP);
        extremes(here, (const block_row *)w, GROUP);
        for (int j = 0; j < WIDTH; j++) most[j] = larger_or_nan(magnitude(here[j]), most[j]);
    }
    for (int j = 0; j < WIDTH; j++) {
        scales[j] = most[j] / 127.0f;
        inverse[j] = inverse_of(scales[j]);
        if (inverse[j] == 0.0f && most[j] == most[j]) scales[j] = 0.0f;
    }
    for (ptrdiff_t s = 0; s < steps; s++, to += INT8_STEP) {
        gather(w, GROUP, from, p, (step + s) * GROUP);
        for (ptrdiff_t k = 0; k < GROUP; k++)
            for (int j = 0; j < WIDTH; j++) {
                const int q = (int)quantised(w[k][j], inverse[j], -127.0f, 127.0f);
                *byte_of(to + j / HALF_WIDTH * ld, k, j) = (uint8_t)(q + 128);
                sum[j] += q;
            }
    }
    for (int j = 0; j < WIDTH; j++) shift[j] += scales[j] * (float)sum[j];
}

/* The element of greatest magnitude becomes -8, or less than that: the quotient of the least squared error wins. */
enum { INT4_CANDIDATES = 16 };

static float int4_quotient(int candidate) { return -8.0f + 0.125f * (float)(candidate - 4); }

/* The squared error of 32 inputs of each output in steps of `scale`. */
static void int4_errors(float *error, const block_row *w, const float *scale) {
    float inverse[WIDTH];
    for (int j = 0; j < WIDTH; j++) {
        error[j] = 0.0f;
        inverse[j] = inverse_of(scale[j]);
    }
    for (int k = 0; k < HALF; k++)
        for (int j = 0; j < WIDTH; j++) {
            const float lost = w[k][j] - scale[j] * quantised(w[k][j], inverse[j], -8.0f, 7.0f);
            error[j] += lost * lost;
        }
}

/* The step of 32 inputs of each output that has the least squared error. */
static void int4_scales(float *scales, const block_row *w) {
    float most[WIDTH], least[WIDTH];
    extremes(most, w, HALF);
    for (int c = 0; c < INT4_CANDIDATES; c++) {
        float scale[WIDTH], error[WIDTH];
        for (int j = 0; j < WIDTH; j++) scale[j] = most[j] / int4_quotient(c);
        int4_errors(error, w, scale);
        for (int j = 0; j < WIDTH; j++)
            if (c == 0 || error[j] < least[j]) {
                least[j] = error[j];
                scales[j] = scale[j];
            }
    }
}

/* Factors that turn the scale of a block into steps near the wanted ones: of the nearest and its neighbours that
 * of the least squared error. */
static void int4_factors(int8_t *factors, const block_row *w, const float *wanted, const float *scale) {
    float least[WIDTH];
    for (int try = -1; try <= 1; try++) {
        float step[WIDTH], error[WIDTH];
        int factor[WIDTH];
        for (int j = 0; j < WIDTH; j++) {
            factor[j] = (int)quantised(magnitude(wanted[j]), inverse_of(scale[j]), 1.0f, 15.0f) + try;
            factor[j] = factor[j] < 1 ? 1 : factor[j] > 15 ? 15 : factor[j];
            if (wanted[j] < 0.0f) factor[j] = -factor[j];
            step[j] = scale[j] * (float)factor[j];
        }
        int4_errors(error, w, step);
        for (int j = 0; j < WIDTH; j++)
            if (try == -1 || error[j] < least[j]) {
                least[j] = error[j];
                factors[j] = (int8_t)factor[j];
            }
    }
}

/* Like pack_int8. Each 32 inputs choose the step that suits them best; the greatest is 15 times the scale. */
static void pack_int4(uint8_t *to, ptrdiff_t ld, float *scales, float *shift, const origin *from, ptrdiff_t p,
                      ptrdiff_t step, ptrdiff_t steps) {
    block_row w[BLOCK];
    float wanted[BLOCK / HALF][WIDTH], greatest[WIDTH] = {0};
    int32_t sum[WIDTH] = {0};
    gather(w, steps * GROUP, from, p, step * GROUP);
    for (ptrdiff_t g = 0; g < 2 * steps; g++) {
        int4_scales(wanted[g], (const block_row *)w + g * HALF);
        for (int j = 0; j < WIDTH; j++) greatest[j] = larger_or_nan(magnitude(wanted[g][j]), greatest[j]);
    }
    for (int j = 0; j < WIDTH; j++) {
        scales[j] = greatest[j] / 15.0f;
        if (inverse_of(scales[j]) == 0.0f && scales[j] == scales[j]) scales[j] = 0.0f;
    }
    for (ptrdiff_t g = 0; g < 2 * steps; g++) {
        int8_t factors[WIDTH];
        int4_factors(factors, (const block_row *)w + g * HALF, wanted[g], scales);
        for (int j = 0; j < WIDTH; j++) {
            uint8_t *here = to + j / HALF_WIDTH * ld + g / 2 * INT4_STEP, *nibbles = here + 2 * HALF_WIDTH;
            const float inverse = inverse_of(scales[j] * (float)factors[j]);
            here[g % 2 * HALF_WIDTH + j % HALF_WIDTH] = (uint8_t)factors[j];
            nibbles += j % HALF_WIDTH / 16 * GROUP * 8 + g % 2 * HALF * 8 + j % 16 * 4;
            for (int k = 0; k < HALF; k++) {
                const int q = (int)quantised(w[g * HALF + k][j], inverse, -8.0f, 7.0f);
                uint8_t *byte = nibbles + k / 8 * 64 + k % 4;
                *byte = (uint8_t)(k / 4 % 2 ? *byte | (q + 8) << 4 : q + 8);
                sum[j] += q * factors[j];
            }
        }
    }
    for (int j = 0; j < WIDTH; j++) shift[j] += scales[j] * (float)sum[j];
}

/* ---- panels ---- */

/* The position of the weight of input k < 32 and output j in its half of a panel. */
static ptrdiff_t pair_of(ptrdiff_t k, ptrdiff_t j) {
    return j % HALF_WIDTH / 16 * PAIRS_STEP * 16 + k / 2 * 32 + j % 16 * 2 + 1 - k % 2;
}

static void pack_floats(float *to, const origin *from, ptrdiff_t p) {
    block_row w[GROUP];
    for (ptrdiff_t k = 0; k < from->dense->n_in; k += GROUP) {
        const ptrdiff_t left = from->dense->n_in - k, n = left < GROUP ? left : GROUP;
        gather(w, GROUP, from, p, k);
        memcpy(to + k * WIDTH, w, (size_t)n * sizeof w[0]);
    }
}

static void pack_pairs(uint16_t *to, const origin *from, ptrdiff_t p) {
    const ptrdiff_t steps = round_up(from->dense->n_in, PAIRS_STEP) / PAIRS_STEP;
    for (ptrdiff_t s = 0; s < steps; s++, to += PAIRS_STEP * HALF_WIDTH) {
        block_row w[PAIRS_STEP];
        gather(w, PAIRS_STEP, from, p, s * PAIRS_STEP);
        for (int k = 0; k < PAIRS_STEP; k++)
            for (int j = 0; j < WIDTH; j++)
                to[j / HALF_WIDTH * steps * PAIRS_STEP * HALF_WIDTH + pair_of(k, j)] = to_bfloat16(w[k][j]);
    }
}

static void pack_integers(uint8_t *to, const origin *from, ptrdiff_t p) {
    const gpt2c_dtype dtype = from->dense->dtype;
    const ptrdiff_t steps = round_up(from->dense->n_in, GROUP) / GROUP, most = gpt2c_scale_block(dtype) / GROUP;
    const ptrdiff_t blocks = (steps + most - 1) / most, step_size = dtype == GPT2C_INT8 ? INT8_STEP : INT4_STEP;
    float *shift = (float *)(void *)to, *scales = shift + WIDTH;
    uint8_t *weights = (uint8_t *)(scales + blocks * WIDTH);
    for (int j = 0; j < WIDTH; j++) shift[j] = 0.0f;
    for (ptrdiff_t b = 0; b < blocks; b++, scales += WIDTH, weights += most * step_size) {
        const ptrdiff_t left = steps - b * most;
        (dtype == GPT2C_INT8 ? pack_int8 : pack_int4)(weights, steps * step_size, scales, shift, from, p, b * most,
                                                      left < most ? left : most);
    }
}

void gpt2c_pack(const gpt2c_dense *dense, void *panels, const float *source, ptrdiff_t ld, int transposed,
                ptrdiff_t panel0, ptrdiff_t panel1) {
    const origin from = {dense, source, ld, transposed};
    const ptrdiff_t size = gpt2c_panel_size(dense->dtype, dense->n_in);
    for (ptrdiff_t p = panel0; p < panel1; p++) {
        void *to = (uint8_t *)panels + p * size;
        if (dense->dtype == GPT2C_FLOAT32)
            pack_floats(to, &from, p);
        else if (dense->dtype == GPT2C_BFLOAT16)
            pack_pairs(to, &from, p);
        else
            pack_integers(to, &from, p);
    }
}

/* One loop per format, without a choice or a division in it: every embedding of a prompt is read so. */
void gpt2c_unpack(const gpt2c_dense *dense, ptrdiff_t n, float *out) {
    const ptrdiff_t n_in = dense->n_in, size = gpt2c_panel_size(dense->dtype, n_in), j = n % WIDTH;
    const uint8_t *panel = (const uint8_t *)dense->panels + n / WIDTH * size;
    const float *floats = (const float *)(const void *)panel + j;
    const uint16_t *pairs = (const uint16_t *)(const void *)panel;
    const ptrdiff_t steps = round_up(n_in, GROUP) / GROUP, block = gpt2c_scale_block(dense->dtype);
    const float *scales = floats + WIDTH;
    const uint8_t *weights = panel + (1 + (n_in + block - 1) / block) * WIDTH * (ptrdiff_t)sizeof(float);
    switch (dense->dtype) {
    case GPT2C_FLOAT32:
        for (ptrdiff_t k = 0; k < n_in; k++) out[k] = floats[k * WIDTH];
        break;
    case GPT2C_BFLOAT16:
        pairs += j / HALF_WIDTH * round_up(n_in, PAIRS_STEP) * HALF_WIDTH;
        for (ptrdiff_t k0 = 0; k0 < n_in; k0 += PAIRS_STEP, pairs += PAIRS_STEP * HALF_WIDTH) {
            const ptrdiff_t end = n_in - k0 < PAIRS_STEP ? n_in - k0 : PAIRS_STEP;
            for (ptrdiff_t k = 0; k < end; k++) out[k0 + k] = from_bfloat16(pairs[pair_of(k, j)]);
        }
        break;
    case GPT2C_INT8:
        weights += j / HALF_WIDTH * steps * INT8_STEP + j % HALF_WIDTH / 16 * GROUP * 16 + j % 16 * 4;
        for (ptrdiff_t k0 = 0; k0 < n_in; k0 += GROUP, weights += INT8_STEP) {
            const ptrdiff_t end = n_in - k0 < GROUP ? n_in - k0 : GROUP;
            const float scale = scales[k0 / block * WIDTH];
            for (ptrdiff_t k = 0; k < end; k++) out[k0 + k] = scale * (float)(weights[k / 4 * 64 + k % 4] - 128);
        }
        break;
    case GPT2C_INT4:
        weights += j / HALF_WIDTH * steps * INT4_STEP;
        for (ptrdiff_t k0 = 0; k0 < n_in; k0 += HALF, weights += k0 % GROUP ? 0 : INT4_STEP) {
            const ptrdiff_t end = n_in - k0 < HALF ? n_in - k0 : HALF, half = k0 % GROUP / HALF;
            const int factor = (int8_t)weights[half * HALF_WIDTH + j % HALF_WIDTH];
            const uint8_t *nibbles =
                weights + 2 * HALF_WIDTH + j % HALF_WIDTH / 16 * GROUP * 8 + half * HALF * 8 + j % 16 * 4;
            const float scale = scales[k0 / block * WIDTH];
            for (ptrdiff_t k = 0; k < end; k++) {
                const uint8_t byte = nibbles[k / 8 * 64 + k % 4];
                out[k0 + k] = scale * (float)(((k & 4 ? byte >> 4 : byte & 15) - 8) * factor);
            }
        }
        break;
    case GPT2C_N_DTYPES:
        break;
    }
}
