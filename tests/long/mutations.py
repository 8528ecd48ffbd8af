"""Breaks the C core on purpose, one place at a time, and demands that a test notices.

    python tests/long/mutations.py [word …]

Works on a copy of the tree in a temporary directory (needs a compiler and the build requirements); with words,
only the mutations whose description contains one of them. Takes twenty minutes. Status 1 if a mutation survived.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = [
    f"tests/test_{room}.py"
    for room in (
        *("kernels", "formats", "engine", "cache", "introspect", "edits", "hidden"),
        *("engine_bert", "introspect_bert"),
    )
]

# (what is broken, file, text, replacement)
MUTATIONS = [
    ("exp: a coefficient", "k_elementwise.inc.c", "8.333263919e-03f", "8.433263919e-03f"),
    ("exp: results that are subnormal", "k_elementwise.inc.c", "v_set1(-105.0f)", "v_set1(-87.0f)"),
    ("tanh: a coefficient", "k_elementwise.inc.c", "2.170296945e-02f", "2.190296945e-02f"),
    ("tanh: sign of large arguments", "k_elementwise.inc.c", "v_copysign(v_select_lt(size, v_set1(0.625f), small, large), x)", "v_select_lt(size, v_set1(0.625f), small, large)"),
    ("erf: a coefficient", "k_elementwise.inc.c", "5.221074913e-03f", "5.222074913e-03f"),
    ("sigmoid: the sign", "k_elementwise.inc.c", "v_add(one, v_exp(v_sub(v_set1(0.0f), x)))", "v_add(one, v_exp(x))"),
    ("gelu_new: a constant", "k_elementwise.inc.c", "7.135481628e-02f", "7.136481628e-02f"),
    ("gelu: 1 / sqrt(2)", "k_elementwise.inc.c", "7.071067812e-01f", "7.071167812e-01f"),
    ("quick_gelu: the constant", "k_elementwise.inc.c", "1.702f", "1.7021f"),
    ("relu: of NaN", "k_elementwise.inc.c", "v_max(v_set1(0.0f), x);", "v_max(x, v_set1(0.0f));"),
    ("silu: the gate", "k_elementwise.inc.c", "return v_gate(x, x);", "return v_gate(x, v_abs(x));"),
    ("epilogue: bias of the last columns", "k_elementwise.inc.c", "v_load_first(bias + c, n - c)", "v_load_first(bias, n - c)"),
    ("epilogue: residual after the function", "k_elementwise.inc.c", "value = v_add(v_load(base + c), value);", "value = v_add(value, value);"),
    ("layer_norm: epsilon", "k_layer_norm.inc.c", "/ count + epsilon", "/ count"),
    ("layer_norm: lanes beyond the row", "k_layer_norm.inc.c", "v_keep_first(v_sub(v_load_first(row + whole, tail), mean), tail, v_set1(0.0f))", "v_sub(v_load_first(row + whole, tail), mean)"),
    ("layer_norm: the centre", "k_layer_norm.inc.c", "v_set1(v_sum(sum) / count)", "v_set1(v_sum(sum) / (count + 1.0f))"),
    ("tile: sums of earlier blocks", "k_linear_f32.inc.c", "add ? v_add(", "add && k > 300 ? v_add("),
    ("tile: going on with a chain", "k_linear_f32.inc.c", "from ? v_load(from +", "from && k > 300 ? v_load(from +"),
    ("tile: fused multiply-add on one ISA", "vec.h", "return _mm512_fmadd_ps(a, b, c);", "return _mm512_add_ps(_mm512_mul_ps(a, b), c);"),
    ("fma_exact: rounding to odd", "vec.h", "bits = lost < 0.0 || lost > 0.0 ? odd : bits;", "bits = lost > 1e300 ? odd : bits;"),
    ("v_sum: order of the tree on one ISA", "vec.h", "const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));\n    return _mm_cvtss_f32(_mm_add_ss", "const __m128 two = _mm_add_ps(four, _mm_shuffle_ps(four, four, 0xB1));\n    return _mm_cvtss_f32(_mm_add_ss"),
    ("linear: the panel's bias", "k_linear.inc.c", "dense->bias ? dense->bias + column : NULL", "dense->bias"),
    ("linear: length of blocks on one ISA", "k_linear_f32.inc.c", "enum { FLOATS, FLOAT16S, PAIRS, PANEL_PAIRS };", "enum { FLOATS, FLOAT16S, PAIRS, PANEL_PAIRS };\n#ifdef GPT2C_ISA_AVX2\n#undef GPT2C_K_BLOCK\n#define GPT2C_K_BLOCK 128\n#endif\n"),
    ("linear: a chain between two parts", "k_linear_f32.inc.c", "begins ? NULL : chain + at", "NULL"),
    ("linear: width of the last panel", "k_linear.inc.c", "left < GPT2C_PANEL ? left : GPT2C_PANEL", "GPT2C_PANEL"),
    ("pack: zeros beyond the last output", "pack.c", "memset(w, 0, (size_t)n * sizeof *w);", "memset(w, 63, (size_t)n * sizeof *w);"),
    ("pack: the transposed source", "pack.c", "from->weights[(first + j) * ld + k0 + k]", "from->weights[(first + j) * ld + k0]"),
    ("attention: the mask", "k_keys.inc.c", "return position + 1 - key < GPT2C_KEY_BLOCK ? position + 1 - key", "return position + 2 - key < GPT2C_KEY_BLOCK ? position + 2 - key"),
    ("attention: rescaling of earlier blocks", "k_attention.inc.c", "kept = v_exp(v_sub(before, greatest))", "kept = v_exp(v_sub(greatest, greatest))"),
    ("attention: sum of later blocks", "k_attention.inc.c", "to[d_pad + 1] = state[2][i];", ""),
    ("attention: rows that merge", "k_attention.inc.c", "begin = key > first ? key - first : 0; /* the first query", "begin = 0; /* the first query"),
    ("attention: scores of the last keys", "k_attention.inc.c", "if (whole < valid) {", "if (whole < valid - 1) {"),
    ("attention: keys that are shared", "k_keys.inc.c", "(const float *)from->k0 + key / GPT2C_LANES * group;", "(const float *)from->k0;"),
    ("attention: values of the block that is shared in part", "k_attention.inc.c", "if (common > shared)", "if (common > shared + 1)"),
    ("attention: shared halves", "k_keys.inc.c", "widen_halves(v, (const uint16_t *)(const void *)at->v0, shared * d_pad);", ""),
    ("keys: lanes of other rows", "k_cache.inc.c", "v_store_first((float *)out + at, x, n);", "v_store((float *)out + at, x);"),
    ("keys: order of the rows", "k_cache.inc.c", "const ptrdiff_t last = rows - 1, b = first + 4, c = first + 8,", "const ptrdiff_t last = rows - 1, b = first + 8, c = first + 4,"),
    ("keys: columns that are left", "k_cache.inc.c", "narrow(halves, from + done, n - done);", "narrow(halves, from, n - done);"),
    ("keys: rows that do not exist", "k_cache.inc.c", "x + (d < last ? d : last) * ld_x", "x + d * ld_x"),
    ("cache: where one's own positions begin", "attend.c", "group = (position - to.shared) / GPT2C_LANES;", "group = (position - to.shared / 2) / GPT2C_LANES;"),
    ("unfused: scores of hidden keys", "k_attention.inc.c", "for (ptrdiff_t j = position + 1; j < n_keys; j++)", "for (ptrdiff_t j = position + 2; j < n_keys; j++)"),
    ("unfused: scores of shared keys", "k_attention.inc.c", "at->shared / GPT2C_LANES, &after);", "0, &after);"),
    ("unfused: softmax of a row that sees nothing", "k_attention.inc.c", "most == -INFINITY ? 0.0f : most", "most"),
    ("unfused: lanes beyond a softmax", "k_attention.inc.c", "v_exp(v_sub(v_keep_first(v_load_first(x + j, left), left, nothing), shift))", "v_exp(v_sub(v_load_first(x + j, left), shift))"),
    ("unfused: values by a pattern over shared keys", "k_attention.inc.c", "begin = part ? at.shared : 0,", "begin = 0,"),
    ("unfused: marks of changed patterns stay", "attend.c", "o->changed[m->n_head * start + i] = 0;", ""),
    ("unfused: without a mask", "attend.c", "batch->bidirectional ? n_keys_of(batch, sequence) - 1 :", "0 ? 0 :"),
    ("unfused: the residual stream twice", "run.c", "if (step->unfused && work.out == w->x)", "if (0)"),
    ("unfused: what is encoded", "run.c", "next.phase = step->detail;", "next.phase = GPT2C_ATTN_PROJ;"),
    ("unfused: position embeddings twice", "embed.c", "if (step->unfused) continue;", ""),
    ("unfused: a pass that begins later", "plan.c", "if (!batch->started) plan_embedding", "plan_embedding"),
    ("amx: lines of the second tile", "k_linear_amx.inc.c", "_tile_loadd(5, x + TILE, 64);", "_tile_loadd(5, x, 64);"),
    ("amx: weights of the second tile", "k_linear_amx.inc.c", "_tile_loadd(7, w + TILE, 64);", "_tile_loadd(7, w, 64);"),
    ("amx: the end of a block of lines", "k_linear_amx.inc.c", "height = (line / LINES + 1) * LINES - line;", "height = LINES;"),
    ("amx: the first step of a block", "k_linear_amx.inc.c", "+ step * LINE_STEP;", "+ 0 * step;"),
    ("amx: the end of a block of few lines", "k_linear_q.inc.c", "(LINES == 1 || lines.first % LINES + lines.n <= LINES)", "1"),
    ("amx: sums of the block before", "k_linear_amx.inc.c", "_tile_zero(2);", ""),
    ("amx: lines that do not fill the second tile", "k_linear_amx.inc.c", "rows > AMX_ROWS ? rows - AMX_ROWS : 1;", "rows > AMX_ROWS ? AMX_ROWS : 1;"),
    ("attention: zero times infinity", "k_attention.inc.c", "common = keys_seen(position_in(q, row), at->key)", "common = keys_seen(position_in(q, row + height - 1), at->key)"),
    ("attention: the scale", "k_attention.inc.c", "const vf factor = v_set1(scale)", "const vf factor = v_set1(scale * 1.001f)"),
    ("log_sum: the moment", "k_sampler.inc.c", "products = v_fma(weight, logit, products);", "products = v_add(weight, products);"),
    ("log_sum: the variance, around the greatest", "k_sampler.inc.c", "block_product / block_sum, block_sum,", "0.0f, block_sum,"),
    ("log_sum: the variance, between blocks", "k_sampler.inc.c", "c * c * (double)total + 2.0 * c * sum", "c * c * (double)total"),
    ("log_sum: the variance of blocks without weight", "k_sampler.inc.c", "variance && block_sum > 0.0f", "variance"),
    ("log_sum: the rank", "k_sampler.inc.c", "v_mask_lt(limit, logit)", "v_mask_lt(v_sub(limit, v_set1(1e-3f)), logit)"),
    ("log_sum: the last block", "k_sampler.inc.c", "n - block < 256 ? n : block + 256", "n - block < 256 ? n - (n > 300) : block + 256"),
    ("sample: random numbers", "k_sampler.inc.c", "0xBB67AE8584CAA73BU", "0xBB67AE8584CAA73DU"),
    ("sample: top_k", "k_sampler.inc.c", "if (k < count) apply_cut(value, count, find_cut(pool, count, (double)k, 0), -INFINITY);", ""),
    ("sample: top_p", "k_sampler.inc.c", "share * total, 1)", "share * total * 0.9, 1)"),
    ("sample: min_p", "k_sampler.inc.c", "(value_cut){s->min_p, count}", "(value_cut){2.0f * s->min_p, count}"),
    ("sample: ties at the edge", "k_sampler.inc.c", "cut.ties += (double)cut.ties < ties;", ""),
    ("sample: which ties stay", "k_sampler.inc.c", "cut.ties -= __builtin_popcount(equal);", ";"),
    ("sample: no tie stays", "k_sampler.inc.c", "for (; cut.ties > 0; cut.ties--, equal &= equal - 1)", "for (; cut.ties > 0; cut.ties = 0)"),
    ("sample: a bound too high", "k_sampler.inc.c", "(double)k, 0).edge", "(double)k * 0.9, 0).edge"),
    ("sample: ties at the bound", "k_sampler.inc.c", "ties = bound > -INFINITY ? k : 0", "ties = bound > -INFINITY ? k - 16 : 0"),
    ("sample: maxima of the last vector", "k_sampler.inc.c", "i < width && row + i < n", "i < width && row + i + GPT2C_LANES <= n"),
    ("sample: measure of what left the pool", "k_sampler.inc.c", "wanted -= above + unit * (double)equal;", "wanted -= above;"),
    ("sample: weights that top_p never needs", "k_sampler.inc.c", "low = 0.5 * (1.0 - share)", "low = 8.0 * (1.0 - share)"),
    ("sample: start of the last vector", "k_sampler.inc.c", "before = passed;", ""),
    ("sample: greedy ties", "k_sampler.inc.c", "candidates(ids, x, n, maximum, 1);\n        return ids[0];", "return ids[candidates(ids, x, n, maximum, n) - 1];"),
    ("log_sum: weights that are subnormal", "k_sampler.inc.c", "v_weight(logit, -104.0f)", "v_weight(logit, -94.0f)"),
    ("subset_sum: which logits", "k_sampler.inc.c", "v_select_mask(mask[i / GPT2C_LANES], logit, nothing)", "v_select_mask(mask[0], logit, nothing)"),
    ("subset_sum: its own maximum", "k_sampler.inc.c", "const vf logit = v_load_logits(logits, i, n, mask);", "const vf logit = v_load_or(logits, i, n, v_set1(-INFINITY));"),
    ("subset_sum: of none", "k_sampler.inc.c", "if (*maximum == -INFINITY) *total = 0.0;", ""),
    ("v_select_mask: lanes on one ISA", "vec.h", "v_lanes_of(mask, 8)", "v_lanes_of(mask, 7)"),
    ("count_greater: what equals the threshold", "k_sampler.inc.c", "v_load_or(logits, i, n, limit)", "v_load_or(logits, i, n, v_set1(INFINITY))"),
    ("top: signs of zeros", "k_sampler.inc.c", "value[kept++] = logits[found[i]];", "value[kept++] = values[i];"),
    ("top: fewer than wanted", "k_sampler.inc.c", "for (; kept < k; kept++) {", "for (; kept < k - 1; kept++) {"),
    ("run: targets of one row", "run.c", "for (ptrdiff_t t = first + 1; t < last; t++) o->greater[t]", "for (ptrdiff_t t = first + 2; t < last; t++) o->greater[t]"),
    ("run: the second mask", "run.c", "o->masks + i % o->n_masks * GPT2C_MASK_WORDS(n)", "o->masks"),
    ("run: ids without text", "run.c", "logits, o->n_text, o->top, scratch)", "logits, n, o->top, scratch)"),
    ("v_compress: order on one ISA", "vec.h", "count += mask >> i & 1U;", "count += mask >> (15 - i) & 1U;"),
    ("v_sum_double: half of the lanes on one ISA", "vec.h", "_mm512_cvtps_pd(v_upper_half(a))", "_mm512_cvtps_pd(_mm512_castps512_ps256(a))"),
    ("embed: position of an embedding", "embed.c", "m->wpe + position_of(batch, row, sequence) * m->n_embd", "m->wpe + r * m->n_embd"),
    ("embed: sequences of a tile", "embed.c", "sequence = sequence_of(batch, row, sequence);\n        const float *place", "const float *place"),
    ("attend: lane of a key", "attend.c", "lane = position % GPT2C_LANES;", "lane = (position + 1) % GPT2C_LANES;"),
    ("cache: words of an odd number of inputs", "k_cache.inc.c", "first + n + (first + n == d_head && d_head % 2);", "first + n;"),
    ("cache: inputs in the halves of a word", "k_cache.inc.c", "word[1 - i % 2] =", "word[i % 2] ="),
    ("cache: positions in the halves of a word", "k_cache.inc.c", "(uint16_t *)words + 1 - lane % 2;", "(uint16_t *)words + lane % 2;"),
    ("cache: two positions", "k_cache.inc.c", "v_pair(one[v], two[v])", "v_pair(two[v], one[v])"),
    ("cache: padding of two positions", "k_cache.inc.c", "memset(words + n, 0, (size_t)padding * sizeof *words);", ""),
    ("attention: rounded queries", "k_keys.inc.c", "load_rounded(part, q + i * ld_q + k, d_head - k);", "load_group(part, q + i * ld_q + k, d_head - k);"),
    ("attention: rounded weights", "k_attention.inc.c", "if (rounded) weight = v_to_bfloat16(weight);", ""),
    ("attention: the first of two positions alone", "k_attention.inc.c", "if (rest % together == 0) continue;", "continue;"),
    ("attention: a pair of positions of which none is seen", "k_attention.inc.c", "if (common == 0)", "if (0)"),
    ("attention: values that are shared, of two positions", "k_keys.inc.c", "(const float *)from->v0 + key / at.together * at.value_ld;", "(const float *)from->v0 + key * at.value_ld;"),
    ("unfused: values of odd positions", "k_keys.inc.c", "p % 2 ? v_low_halves(pairs) : v_high_halves(pairs)", "v_high_halves(pairs)"),
    ("run: residual of a block of rows", "run.c", "if (here.residual) here.residual += begin * n_out + column;", "if (here.residual) here.residual += column;"),
    ("embed: hidden states of later chunks", "embed.c", "c->output.hidden + step->row0 * n", "c->output.hidden"),
    ("plan: hidden states of few rows", "plan.c", " && !call->output.hidden &&", " &&"),
    ("embed: which rows are wanted", "embed.c", "c->output.rows[step->row0 + r] - step->origin : r;", "(c->output.rows[step->row0 + r] - step->origin) * (r > 0) : r;"),
    ("run: second LayerNorm", "run.c", "*ln_2 = m->post_norm ? NULL : &layer->ln_2", "*ln_2 = m->post_norm ? NULL : &layer->ln_1"),
    ("run: the final LayerNorm", "run.c", "work.norm = &m->ln_f;", "work.norm = &m->layers[0].ln_1;"),
    ("run: the parts of a phase", "run.c", "end = part_begin(step->rows, part + 1, s.parts);", "end = part_begin(step->rows, part + 1, s.parts) - (part > 2);"),
    ("run: interrupts", "run.c", "if (answer) atomic_store(&r->stopped, answer);", ""),
    ("team: waiting for the end of a phase", "team.h", "memory_order_acquire) < end", "memory_order_acquire) < 0"),
    ("team: floating-point state", "team.c", "fesetenv(FE_DFL_ENV);\n#if defined(__SSE__)\n    _mm_setcsr(0x1F80U);", "#if defined(__SSE__)\n"),
    ("integers: offset of the weights", "k_encode.inc.c", "total * (uint32_t)-128", "total * (uint32_t)-127"),
    ("integers: sums of a block of inputs", "k_encode.inc.c", "            sum = v_set1(0.0f);\n", ""),
    ("integers: scale of the inputs", "k_encode.inc.c", "r.head.scale = range / limit;", "r.head.scale = range / 126.0f;"),
    ("integers: offset of the inputs", "k_encode.inc.c", "r.head.scale * r.zero;", "r.head.scale * low;"),
    ("integers: inputs of both signs", "k_encode.inc.c", "high > -low ? high : -low", "high"),
    ("integers: inputs beyond the row", "k_encode.inc.c", "clean && left > 0 ? left : 0", "clean ? VEC_LANES : 0"),
    ("integers: inputs that are not finite", "k_encode.inc.c", "poison = v_fma(part, nothing, poison);", ""),
    ("wide: the second line", "k_encode.inc.c", "v_fma(first, v_set1(-64.0f), q[0][v])", "v_fma(first, v_set1(-63.0f), q[0][v])"),
    ("wide: two lines are one sum", "vec_int.h", "_mm512_slli_epi32(a, 6)", "_mm512_slli_epi32(a, 5)"),
    ("int8: sums of weights", "pack.c", "for (int j = 0; j < WIDTH; j++) shift[j] += scales[j] * (float)sum[j];\n}\n\n/* The element", "(void)shift;\n}\n\n/* The element"),
    ("int8: order of outputs", "pack.c", "j % HALF_WIDTH / 16 * GROUP * 16 + k / 4 * 64", "j % 16 / 16 * GROUP * 16 + k / 4 * 64"),
    ("int4: factors", "pack.c", "inverse_of(scale[j]), 1.0f, 15.0f) + try", "inverse_of(scale[j]), 1.0f, 15.0f)"),
    ("int4: the factor in the sum", "k_linear_q.inc.c", "v_int_mul(part[i], factor)", "part[i]"),
    ("int4: weights as bytes", "vec_int.h", "V_INT(slli_epi16)(both, 3)", "V_INT(slli_epi16)(both, 2)"),
    ("int8: rounding of weights", "pack.c", "return (q + magic) - magic;", "return (float)(int)q;"),
    ("int4: order of the halves of a byte", "pack.c", "k / 4 % 2 ? *byte | (q + 8) << 4 : q + 8", "k / 4 % 2 ? *byte | (q + 8) : (q + 8) << 4"),
    ("int4: start of the second 32 inputs", "k_linear_q.inc.c", "v_int_set1(starts[i * ld_starts + half])", "v_int_set1(starts[i * ld_starts])"),
    ("integers: sums of earlier blocks", "k_linear_q.inc.c", "v_mul(shifts[v], offset) : v_load(to)", "v_mul(shifts[v], offset) : v_mul(shifts[v], offset)"),
    ("integers: sums of earlier parts", "k_linear_q.inc.c", "to - from, part == 0,", "to - from, 1,"),
    ("integers: order of 16-bit inputs", "vec_int.h", "_mm256_shuffle_epi32(lo, _MM_SHUFFLE(3, 1, 2, 0))", "_mm256_shuffle_epi32(lo, _MM_SHUFFLE(3, 2, 1, 0))"),
    ("bfloat16: ties to even", "vec_int.h", "V_INT(add_epi32)(odd, V_INT(set1_epi32)(0x7FFF))", "V_INT(set1_epi32)(0x8000)"),
    ("bfloat16: which input comes first", "k_linear_f32.inc.c", "wide[v] = v_high_halves(halves);", "wide[v] = v_low_halves(halves);"),
    ("bfloat16: widened weights", "k_linear_bf16.inc.c", "v_store(to + GPT2C_PANEL + v * GPT2C_LANES, v_low_halves(pairs));", "v_store(to + GPT2C_PANEL + v * GPT2C_LANES, v_high_halves(pairs));"),
    ("bfloat16: the next step of a half", "k_linear_f32.inc.c", "if (kind == PANEL_PAIRS) b += step;", ""),
    ("bfloat16: sums of earlier blocks of pairs", "k_linear_bf16.inc.c", "begins ? sum[i][v] : v_add(v_load(to), sum[i][v])", "sum[i][v]"),
    ("bfloat16: the last step of a row", "k_encode.inc.c", "if (first / PAIRS_STEP + 1 < s.steps) memcpy", "if (first / PAIRS_STEP + 2 < s.steps) memcpy"),
    ("pack: place of a pair", "pack.c", "k / 2 * 32 + j % 16 * 2 + 1 - k % 2", "k / 2 * 32 + j % 16 * 2 + k % 2"),
    ("float16: subnormal keys", "vec_int.h", "+ 0.5f) - bits_of_float(0.5f)", "+ 0.25f) - bits_of_float(0.25f)"),
    ("run: rows of a folded phase", "run.c", "r < step->rows; r++) pass_normalise_row(", "r < step->rows - (r > 0); r++) pass_normalise_row("),
    ("run: encoded columns of a panel", "run.c", "out, ld, rows, column, columns);", "out, ld, rows, 0, columns);"),
    ("attend: keys behind the queries of more heads", "attend.c", "const int keys = column < n + n_kv;", "const int keys = column < 2 * n;"),
    ("attend: the keys of a head", "attend.c", "(column - n) % n_kv / d", "(column - n) % n / d"),
    ("attention: queries of several heads at one position", "k_keys.inc.c", "return q.first + i * q.advance;", "return q.first + i;"),
    ("attend: which heads go together", "attend.c", "set % sets * s.together", "set % sets"),
    ("attend: keys in runs of 16", "attend.c", "GPT2C_LANES - lane);", "GPT2C_LANES);"),
    ("attention: merging of blocks", "k_attention.inc.c", "for (ptrdiff_t b = 1; b < blocks; b++)", "for (ptrdiff_t b = 2; b < blocks; b++)"),
    ("bert: LayerNorm after the feed-forward layer", "plan.c", "{post, GPT2C_LN_2, 0},", "{0, GPT2C_LN_2, 0},"),
    ("bert: LayerNorm of the embedding", "embed.c", "return (norm_work){&m->ln_emb, out, NULL};", "return (norm_work){&layer->ln_1, out, NULL};"),
    ("bert: which token type", "embed.c", "batch->types[row]", "batch->types[0]"),
    ("bert: types that are not given", "embed.c", "(batch->types ? batch->types[row] : 0)", "(batch->types ? batch->types[row] : 1)"),
    ("bert: positions for types", "embed.c", "step->phase == GPT2C_TYPES ? type : place", "place"),
    ("bert: order of the sums of an embedding", "embed.c", "x[k] += type[k];", "x[k] += type[k] + place[k];\n        else"),
    ("bert: the activation of the head", "run.c", "w->encoded, 0, w->attended, activate}", "w->encoded, 0, w->attended, plain}"),
    ("bert: LayerNorm of the head", "embed.c", "step->phase == GPT2C_LN_HEAD ? c->workspace.attended", "step->phase == GPT2C_LN_HEAD ? c->workspace.norm"),
    ("bert: what the feed-forward layer reads", "plan.c", "{post && encodes, GPT2C_ENCODE, GPT2C_C_FC},", "{0, GPT2C_ENCODE, GPT2C_C_FC},"),
    ("bert: later keys", "attend.c", "batch->bidirectional ? n_keys_of(batch, sequence) - 1 : position_of(batch, row, sequence);\n        const ptrdiff_t queries", "position_of(batch, row, sequence);\n        const ptrdiff_t queries"),
    ("bert: whether later rows see more", "attend.c", "heads == 1 && !batch->bidirectional;", "heads == 1;"),
    ("bert, unfused: the stream after LayerNorm", "plan.c", "{GPT2C_STOP, GPT2C_AT_LN_1, POST_NORM},\n    {GPT2C_COPY, 0, POST_NORM},", "{GPT2C_STOP, GPT2C_AT_LN_1, POST_NORM},"),
    ("bert, unfused: rows after LayerNorm", "run.c", "c->workspace.norm + begin * n, (size_t)", "c->workspace.norm, (size_t)"),
    ("bert, unfused: the head reads what was seen", "plan.c", "if (m->head.dtype != GPT2C_FLOAT32) put(p, step);", ""),
    ("bert, unfused: what queries are made of", "plan.c", "(m->post_norm ? POST_NORM : PRE_NORM)", "PRE_NORM"),
    ("cross: where keys begin", "run.c", "if (step->phase == GPT2C_CROSS_KV) return m->n_embd;", "if (step->phase == GPT2C_CROSS_KV) return 0;"),
    ("cross: the last key", "attend.c", "batch->cross_lengths[sequence] - 1, 0, d,", "batch->cross_lengths[sequence] - 1 - (rows > 3), 0, d,"),
    ("cross: all rows see the same keys", "attend.c", "batch->cross_lengths[sequence] - 1, 0, d,", "batch->cross_lengths[sequence] - 1, 1, d,"),
    ("cross: whose keys", "attend.c", "keys_in(c, &batch->cross[sequence], step->layer, head);\n        c->kernels", "keys_in(c, &batch->cross[0], step->layer, head);\n        c->kernels"),
    ("cross: LayerNorm of few rows", "run.c", "&layer->ln_cross, norm,", "&layer->ln_1, norm,"),
    ("cross: LayerNorm of many rows", "embed.c", "return (norm_work){&layer->ln_cross, out, &layer->cross_q};", "return (norm_work){&layer->ln_2, out, &layer->cross_q};"),
    ("cross: layers of the keys", "plan.c", "step.layer < call->model->n_layer; step.layer++)", "step.layer < 1; step.layer++)"),
    ("cross: where a pattern begins", "attend.c", "c->observer.cross_start[sequence] + (head * rows", "c->observer.cross_start[0] + (head * rows"),
    ("cross: rows of a pattern", "attend.c", "(head * rows + r - start) * n_keys;\n    c->kernels", "(head * rows) * n_keys;\n    c->kernels"),
    ("cross: the last key of a pattern", "attend.c", "&keys, n_keys - 1, n_keys, d,", "&keys, n_keys - 1 - (n_keys > 3), n_keys, d,"),
]  # fmt: skip


class Build:
    """Builds the copy once, then repeats only the commands that compile the C core and link it."""

    def __init__(self, folder: Path):
        self.folder = folder
        output = self.run([sys.executable, "setup.py", "build_ext", "--inplace", "--force"])
        commands = [
            shlex.split(line) for line in output.splitlines() if re.match(r"\S*(cc|gcc|clang)\S* ", line)
        ]
        self.compile = [command for command in commands if any(word.startswith("src/") for word in command)]
        (self.link,) = [
            command for command in commands if any("_kernels.abi3.so" in word for word in command)
        ]
        self.built = Path(self.link[self.link.index("-o") + 1])
        self.restored = ""

    def again(self, file):
        """Compile what includes a file that was broken, or that which was broken before and is whole again."""
        for command in self.compile:
            if any(includes(" ".join(command), name) for name in (file, self.restored)):
                self.run(command)
        self.run(self.link)
        self.restored = file
        shutil.copy(self.folder / self.built, self.folder / "gpt2c" / "core" / self.built.name)

    def run(self, command):
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"does not build:\n{done.stderr[-3000:]}")
        return done.stdout


def includes(command, file):
    """Whether a command compiles a file of src/."""
    if file.endswith((".inc.c", ".h")):
        return "kernels_amx" in command if "amx" in file else file.endswith(".h") or "kernels_" in command
    return bool(file) and f"src/{file} " in command


def survived(folder: Path) -> bool:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *TESTS],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "160"},
    )
    last = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    ended = "no test noticed" if result.returncode == 0 else f"pytest ended with status {result.returncode}"
    print("   ", last[0][:150] if last else ended, flush=True)
    return result.returncode == 0


def main(words):
    alive = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "gpt2c"
        shutil.copytree(
            ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.so", "dist")
        )
        build = Build(folder)
        for what, file, text, replacement in MUTATIONS:
            if words and not any(word in what for word in words):
                continue
            path = folder / "src" / file
            original = path.read_text()
            words_of = re.findall(r"\w+|[^\w\s]", text)  # where the formatter breaks lines does not matter
            broken, found = re.subn(
                r"\s*".join(map(re.escape, words_of)), lambda _, r=replacement: r, original, count=1
            )
            if not found:
                raise SystemExit(f"{what}: {text!r} is not in {file}")
            print(what, flush=True)
            path.write_text(broken)
            build.again(file)
            if survived(folder):
                alive.append(what)
            path.write_text(original)
    print(f"{len(alive)} survived: {alive}" if alive else "every mutation was noticed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
