/* Products in plain C, which compilers vectorise. Part of graffiti_runtime.c, which includes it. */
#define ONE(row, sum) sum += (int32_t)x[i] * row[i];
#define PLAIN_LOOP(BODY) for (int32_t i = 0; i < count; i++) { BODY }
DEFINE_ROWS(rows_s8, int16_t, int8_t, count, PLAIN_LOOP(ONE(w0, s0) ONE(w1, s1) ONE(w2, s2) ONE(w3, s3)),
            PLAIN_LOOP(ONE(w0, s0)))
DEFINE_ROWS(rows_s16, int16_t, int16_t, count, PLAIN_LOOP(ONE(w0, s0) ONE(w1, s1) ONE(w2, s2) ONE(w3, s3)),
            PLAIN_LOOP(ONE(w0, s0)))

/* 4-bit weights become bytes in blocks, in loops that compilers vectorise. */
static void rows_s4(const int16_t *restrict x, const uint8_t *restrict w, int32_t count, int32_t rows,
                    int32_t *restrict sums) {
    const int32_t width = (count + 1) / 2;
    for (int32_t r = 0; r < rows; r++) {
        const uint8_t *row = w + (size_t)r * (size_t)width;
        int8_t weights[GRAFFITI_BLOCK];
        int32_t s0 = 0;
        for (int32_t i = 0; i < count; i += GRAFFITI_BLOCK) {
            const int32_t block = smaller(GRAFFITI_BLOCK, count - i);
            for (int32_t k = 0; k < (block + 1) / 2; k++) {
                const uint8_t pair = row[i / 2 + k];
                weights[2 * k] = (int8_t)((int32_t)((pair & 15u) ^ 8u) - 8);
                weights[2 * k + 1] = (int8_t)((int32_t)((uint32_t)(pair >> 4) ^ 8u) - 8);
            }
            for (int32_t k = 0; k < block; k++) s0 += (int32_t)x[i + k] * weights[k];
        }
        sums[r] += s0;
    }
}

DEFINE_TAP(tap_s8_s8, int8_t, int8_t)
DEFINE_TAP(tap_u8_s8, uint8_t, int8_t)
DEFINE_TAP(tap_s16_s8, int16_t, int8_t)
