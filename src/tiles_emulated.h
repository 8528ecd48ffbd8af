/* The intrinsics of AMX tiles in C, so that kernels_amx.c is tested on CPUs without tiles. Only a build for tests, with
 * GPT2C_EMULATE_TILES=1, includes this. It follows the Intel SDM for LDTILECFG, TILELOADD, TDPBSUD, TDPBF16PS and
 * similar ones; where they would fault, it aborts with a message. Tiles belong to a thread, as registers do. */
#ifndef GPT2C_TILES_EMULATED_H
#define GPT2C_TILES_EMULATED_H

#include <immintrin.h> /* first, as it defines the names that are taken over below */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TILES = 8, TILE_ROWS = 16, TILE_WORDS = 16 }; /* of palette 1, the only one */

/* A configuration zeroes all tiles, and nothing writes beyond the rows and bytes that it gives a tile: the rest is
 * zero, as after every instruction of the hardware. */
typedef struct {
    int rows, bytes; /* of each row */
    uint32_t words[TILE_ROWS][TILE_WORDS];
} emulated_tile;

static _Thread_local struct {
    int configured;
    emulated_tile tile[TILES];
} tiles;

#define TILES_DEMAND(holds, ...)                                                                                       \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            fprintf(stderr, "emulated AMX tiles: " __VA_ARGS__);                                                       \
            fputc('\n', stderr);                                                                                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static emulated_tile *tile_of(int number) {
    TILES_DEMAND(number >= 0 && number < TILES, "tile %d does not exist; allowed: 0 to 7", number);
    TILES_DEMAND(tiles.configured, "tile %d is used without a configuration", number);
    emulated_tile *tile = &tiles.tile[number];
    TILES_DEMAND(tile->rows > 0, "tile %d is used, but has no rows in the configuration", number);
    TILES_DEMAND(tile->bytes % 4 == 0, "tile %d is used with rows of %d bytes, not a multiple of 4", number,
                 tile->bytes);
    return tile;
}

static void tiles_release(void) { memset(&tiles, 0, sizeof tiles); }

static void tiles_configure(const void *from) {
    static const uint8_t zeros[16];
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[TILES], no_bytes[8];
        uint8_t rows[TILES], no_rows[8];
    } shape;
    memcpy(&shape, from, sizeof shape);
    tiles_release();
    if (shape.palette == 0) return;
    TILES_DEMAND(shape.palette == 1, "palette %d is neither 0 nor 1", shape.palette);
    TILES_DEMAND(shape.start_row == 0, "start row %d, as only after a fault", shape.start_row);
    TILES_DEMAND(memcmp(shape.reserved, zeros, sizeof shape.reserved) == 0, "reserved bytes are not zero");
    TILES_DEMAND(memcmp(shape.no_bytes, zeros, sizeof shape.no_bytes) == 0 &&
                     memcmp(shape.no_rows, zeros, sizeof shape.no_rows) == 0,
                 "more than 8 tiles are configured");
    for (int i = 0; i < TILES; i++) {
        const int rows = shape.rows[i], bytes = shape.bytes[i];
        TILES_DEMAND(rows <= TILE_ROWS && bytes <= 4 * TILE_WORDS && (rows == 0) == (bytes == 0),
                     "tile %d cannot have %d rows of %d bytes", i, rows, bytes);
        tiles.tile[i].rows = rows;
        tiles.tile[i].bytes = bytes;
    }
    tiles.configured = 1;
}

static void tile_zero(int number) {
    emulated_tile *tile = tile_of(number);
    memset(tile->words, 0, sizeof tile->words);
}

static void tile_load(int number, const void *from, ptrdiff_t stride) {
    emulated_tile *tile = tile_of(number);
    for (int i = 0; i < tile->rows; i++) memcpy(tile->words[i], (const char *)from + i * stride, (size_t)tile->bytes);
}

static void tile_store(int number, void *to, ptrdiff_t stride) {
    const emulated_tile *tile = tile_of(number);
    for (int i = 0; i < tile->rows; i++) memcpy((char *)to + i * stride, tile->words[i], (size_t)tile->bytes);
}

static void tile_check_product(int to, int a, int b) {
    const emulated_tile *sums = tile_of(to), *x = tile_of(a), *weights = tile_of(b);
    TILES_DEMAND(to != a && to != b && a != b, "tiles %d, %d and %d of a product are not three", to, a, b);
    TILES_DEMAND(sums->rows == x->rows && sums->bytes == weights->bytes && x->bytes == 4 * weights->rows,
                 "%d rows of %d bytes times %d of %d do not give %d of %d", x->rows, x->bytes, weights->rows,
                 weights->bytes, sums->rows, sums->bytes);
}

static int tile_byte(uint32_t word, int i, int is_signed) {
    const uint8_t byte = (uint8_t)(word >> 8 * i);
    return is_signed ? (int8_t)byte : byte;
}

/* Sums wrap around. */
static void tile_multiply_bytes(int to, int a, int b, int a_signed, int b_signed) {
    tile_check_product(to, a, b);
    emulated_tile *sums = &tiles.tile[to];
    const emulated_tile *x = &tiles.tile[a], *weights = &tiles.tile[b];
    for (int m = 0; m < sums->rows; m++)
        for (int k = 0; k < weights->rows; k++)
            for (int n = 0; n < sums->bytes / 4; n++)
                for (int i = 0; i < 4; i++)
                    sums->words[m][n] += (uint32_t)(tile_byte(x->words[m][k], i, a_signed) *
                                                    tile_byte(weights->words[k][n], i, b_signed));
}

static float tile_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* An fma chain over the bfloat16 in the lower halves of words and one over those in the upper halves; their sum is
 * added. Whatever the state of the thread: rounded to nearest, and subnormals are zero, as inputs and as results. */
static void tile_multiply_pairs(int to, int a, int b) {
    enum { NEAREST_WITHOUT_SUBNORMALS = 0x9FC0 }; /* and no exceptions */
    tile_check_product(to, a, b);
    emulated_tile *sums = &tiles.tile[to];
    const emulated_tile *x = &tiles.tile[a], *weights = &tiles.tile[b];
    const unsigned before = _mm_getcsr();
    _mm_setcsr(NEAREST_WITHOUT_SUBNORMALS);
    __asm__ volatile("" : : : "memory"); /* what is computed from memory stays between the two */
    for (int m = 0; m < sums->rows; m++) {
        float lower[TILE_WORDS] = {0}, upper[TILE_WORDS] = {0};
        for (int k = 0; k < weights->rows; k++) {
            const uint32_t pair = x->words[m][k];
            for (int n = 0; n < TILE_WORDS; n++) { /* beyond the columns: zeros */
                const uint32_t weight = weights->words[k][n];
                lower[n] = fmaf(tile_float(pair << 16), tile_float(weight << 16), lower[n]);
                upper[n] = fmaf(tile_float(pair & 0xFFFF0000U), tile_float(weight & 0xFFFF0000U), upper[n]);
            }
        }
        for (int n = 0; n < sums->bytes / 4; n++) {
            const float sum = tile_float(sums->words[m][n]) + (lower[n] + upper[n]);
            memcpy(&sums->words[m][n], &sum, sizeof sum);
        }
    }
    __asm__ volatile("" : : : "memory");
    _mm_setcsr(before);
}

#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud
#undef _tile_dpbf16ps
#define _tile_loadconfig tiles_configure
#define _tile_release tiles_release
#define _tile_zero tile_zero
#define _tile_loadd tile_load
#define _tile_stream_loadd tile_load
#define _tile_stored tile_store
#define _tile_dpbssd(to, a, b) tile_multiply_bytes(to, a, b, 1, 1)
#define _tile_dpbsud(to, a, b) tile_multiply_bytes(to, a, b, 1, 0)
#define _tile_dpbusd(to, a, b) tile_multiply_bytes(to, a, b, 0, 1)
#define _tile_dpbuud(to, a, b) tile_multiply_bytes(to, a, b, 0, 0)
#define _tile_dpbf16ps tile_multiply_pairs

#endif
