/* Weights into panels of 64 outputs, in every number format, and back. */
#include "gpt2c.h"

#include <string.h>

enum { HALF = GPT2C_HALF_GROUP, GROUP = GPT2C_GROUP, WIDTH = GPT2C_PANEL };

static ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) { return (n + multiple - 1) / multiple * multiple; }

ptrdiff_t gpt2c_panel_size(gpt2c_dtype dtype, ptrdiff_t n_in) {
    switch (dtype) {
    case GPT2C_BFLOAT16:
        return round_up(n_in, 2) * WIDTH * (ptrdiff_t)sizeof(uint16_t);
    case GPT2C_INT8:
        return round_up(n_in, GROUP) / GROUP * WIDTH * (ptrdiff_t)(sizeof(uint16_t) + GROUP);
    case GPT2C_INT4:
        return round_up(n_in, GROUP) / HALF * WIDTH * (ptrdiff_t)(sizeof(uint16_t) + HALF / 2);
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

/* 1 / scale, or 0 for a scale that stands for zeros (or is NaN). */
static float inverse_of(float scale) { return scale >= 0x1p-120f || scale <= -0x1p-120f ? 1.0f / scale : 0.0f; }

/* A block of inputs of all outputs of a panel. */
typedef float block_row[WIDTH];

/* Per output the element of greatest magnitude, with its sign; NaN if any is not finite. */
static void extremes(float *most, const block_row *w, int n) {
    float poison[WIDTH] = {0};
    for (int j = 0; j < WIDTH; j++) most[j] = 0.0f;
    for (int k = 0; k < n; k++)
        for (int j = 0; j < WIDTH; j++) {
            const float size = w[k][j] < 0.0f ? -w[k][j] : w[k][j], so_far = most[j] < 0.0f ? -most[j] : most[j];
            most[j] = size > so_far ? w[k][j] : most[j];
            poison[j] += w[k][j] * 0.0f;
        }
    for (int j = 0; j < WIDTH; j++) most[j] += poison[j];
}

/* ---- one group of a panel ---- */

static void pack_int8(uint8_t *to, const block_row *w) {
    uint16_t *scales = (uint16_t *)(void *)to;
    float most[WIDTH], inverse[WIDTH];
    extremes(most, w, GROUP);
    for (int j = 0; j < WIDTH; j++) {
        scales[j] = to_bfloat16((most[j] < 0.0f ? -most[j] : most[j]) / 127.0f);
        inverse[j] = inverse_of(from_bfloat16(scales[j]));
        if (inverse[j] == 0.0f && most[j] == most[j]) scales[j] = 0;
    }
    to += sizeof(uint16_t) * WIDTH;
    for (int k = 0; k < GROUP; k++)
        for (int j = 0; j < WIDTH; j++)
            to[(k / 4 * WIDTH + j) * 4 + k % 4] =
                (uint8_t)(int)(quantised(w[k][j], inverse[j], -127.0f, 127.0f) + 128.0f);
}

/* The extreme element becomes -8, or less than that: the quotient of the least squared error wins. */
enum { INT4_CANDIDATES = 16 };

static float int4_quotient(int candidate) { return -8.0f + 0.125f * (float)(candidate - 4); }

static void pack_int4(uint8_t *to, const block_row *w) {
    uint16_t *scales = (uint16_t *)(void *)to;
    float most[WIDTH], inverse[WIDTH], least[WIDTH];
    extremes(most, w, HALF);
    for (int j = 0; j < WIDTH; j++) least[j] = 3e38f;
    for (int c = 0; c < INT4_CANDIDATES; c++) {
        float scale[WIDTH], here[WIDTH], error[WIDTH] = {0};
        for (int j = 0; j < WIDTH; j++) {
            scale[j] = from_bfloat16(to_bfloat16(most[j] / int4_quotient(c)));
            here[j] = inverse_of(scale[j]);
        }
        for (int k = 0; k < HALF; k++)
            for (int j = 0; j < WIDTH; j++) {
                const float lost = w[k][j] - scale[j] * quantised(w[k][j], here[j], -8.0f, 7.0f);
                error[j] += lost * lost;
            }
        for (int j = 0; j < WIDTH; j++)
            if (c == 0 || error[j] < least[j]) {
                least[j] = error[j];
                inverse[j] = here[j];
                scales[j] = here[j] != 0.0f || most[j] != most[j] ? to_bfloat16(scale[j]) : 0;
            }
    }
    to += sizeof(uint16_t) * WIDTH;
    memset(to, 0, WIDTH * HALF / 2);
    for (int k = 0; k < HALF; k++)
        for (int j = 0; j < WIDTH; j++) {
            const int q = (int)(quantised(w[k][j], inverse[j], -8.0f, 7.0f) + 8.0f);
            uint8_t *byte = &to[(k / 8 * WIDTH + j) * 4 + k % 4];
            *byte = (uint8_t)(*byte | (k / 4 % 2 ? q << 4 : q));
        }
}

/* ---- panels ---- */

void gpt2c_pack(const gpt2c_dense *dense, void *panels, const float *source, ptrdiff_t ld, int transposed,
                ptrdiff_t panel0, ptrdiff_t panel1) {
    const ptrdiff_t step_in = transposed ? 1 : ld, step_out = transposed ? ld : 1;
    const ptrdiff_t size = gpt2c_panel_size(dense->dtype, dense->n_in);
    for (ptrdiff_t p = panel0; p < panel1; p++) {
        const ptrdiff_t first = p * WIDTH, width = dense->n_out - first < WIDTH ? dense->n_out - first : WIDTH;
        const float *from = source + first * step_out;
        uint8_t *to = (uint8_t *)panels + p * size;
        for (ptrdiff_t k0 = 0; k0 < dense->n_in; k0 += GROUP) {
            block_row w[GROUP];
            const ptrdiff_t n = dense->n_in - k0 < GROUP ? dense->n_in - k0 : GROUP;
            if (n < GROUP || width < WIDTH) memset(w, 0, sizeof w);
            if (transposed)
                for (ptrdiff_t j = 0; j < width; j++)
                    for (ptrdiff_t k = 0; k < n; k++) w[k][j] = from[j * step_out + k0 + k];
            else
                for (ptrdiff_t k = 0; k < n; k++)
                    memcpy(w[k], from + (k0 + k) * step_in, (size_t)width * sizeof(float));
            switch (dense->dtype) {
            case GPT2C_FLOAT32:
                memcpy(to, w, (size_t)n * sizeof w[0]);
                to += n * (ptrdiff_t)sizeof w[0];
                break;
            case GPT2C_BFLOAT16:
                for (ptrdiff_t k = 0; k < n; k += 2, to += 2 * sizeof(uint16_t) * WIDTH)
                    for (int j = 0; j < WIDTH; j++) {
                        ((uint16_t *)(void *)to)[2 * j] = to_bfloat16(w[k + 1][j]); /* zero beyond the last input */
                        ((uint16_t *)(void *)to)[2 * j + 1] = to_bfloat16(w[k][j]);
                    }
                break;
            case GPT2C_INT8:
                pack_int8(to, (const block_row *)w);
                to += WIDTH * (sizeof(uint16_t) + GROUP);
                break;
            case GPT2C_INT4:
                for (int half = 0; half < 2; half++, to += WIDTH * (sizeof(uint16_t) + HALF / 2))
                    pack_int4(to, (const block_row *)(w + half * HALF));
                break;
            case GPT2C_N_DTYPES:
                break;
            }
        }
    }
}

/* One loop per format, without a choice or a division in it: every embedding of a prompt is read so. */
void gpt2c_unpack(const gpt2c_dense *dense, ptrdiff_t n, float *out) {
    const ptrdiff_t size = gpt2c_panel_size(dense->dtype, dense->n_in), j = n % WIDTH;
    const uint8_t *panel = (const uint8_t *)dense->panels + n / WIDTH * size;
    const float *floats = (const float *)(const void *)panel + j;
    const uint16_t *pairs = (const uint16_t *)(const void *)panel + 2 * j;
    switch (dense->dtype) {
    case GPT2C_FLOAT32:
        for (ptrdiff_t k = 0; k < dense->n_in; k++) out[k] = floats[k * WIDTH];
        break;
    case GPT2C_BFLOAT16:
        for (ptrdiff_t k = 0; k < dense->n_in; k++) out[k] = from_bfloat16(pairs[(k - (k & 1)) * WIDTH + 1 - (k & 1)]);
        break;
    case GPT2C_INT8:
    case GPT2C_INT4: {
        const ptrdiff_t group = dense->dtype == GPT2C_INT8 ? GROUP : HALF,
                        per_word = dense->dtype == GPT2C_INT8 ? 4 : 8;
        for (ptrdiff_t k = 0; k < dense->n_in; k += group) {
            const ptrdiff_t end = dense->n_in - k < group ? dense->n_in - k : group;
            const float scale = from_bfloat16(((const uint16_t *)(const void *)panel)[j]);
            const uint8_t *words = panel + sizeof(uint16_t) * WIDTH + 4 * j;
            for (ptrdiff_t i = 0; i < end; i++) {
                const uint8_t byte = words[i / per_word * 4 * WIDTH + i % 4];
                out[k + i] = scale * (float)(per_word == 4 ? byte - 128 : (i & 4 ? byte >> 4 : byte & 15) - 8);
            }
            panel += WIDTH * (ptrdiff_t)(sizeof(uint16_t)) + WIDTH * group * 4 / per_word;
        }
        break;
    }
    case GPT2C_N_DTYPES:
        break;
    }
}
