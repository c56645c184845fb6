/* Products of Cortex-M with Helium (MVE). Part of graffiti_runtime.c, which includes it. */
/* Helium: eight products an instruction; the last, partial eight with the lanes behind the end switched off. */
#define MVE_LOOP(BODY, REST)                                       \
    int32_t i = 0;                                                 \
    for (; i + 8 <= count; i += 8) {                               \
        const int16x8_t xs = vldrhq_s16(x + i);                    \
        BODY                                                       \
    }                                                              \
    if (i < count) {                                               \
        const mve_pred16_t lanes = vctp16q((uint32_t)(count - i)); \
        const int16x8_t xs = vldrhq_z_s16(x + i, lanes);           \
        REST                                                       \
    }
#define MVE_S8(row, sum) sum = vmladavaq_s16(sum, xs, vldrbq_s16(row + i));
#define MVE_S8_REST(row, sum) sum = vmladavaq_p_s16(sum, xs, vldrbq_z_s16(row + i, lanes), lanes);
#define MVE_S16(row, sum) sum = vmladavaq_s16(sum, xs, vldrhq_s16(row + i));
#define MVE_S16_REST(row, sum) sum = vmladavaq_p_s16(sum, xs, vldrhq_z_s16(row + i, lanes), lanes);
DEFINE_ROWS(rows_s8, int16_t, int8_t, count,
            MVE_LOOP(MVE_S8(w0, s0) MVE_S8(w1, s1) MVE_S8(w2, s2) MVE_S8(w3, s3),
                     MVE_S8_REST(w0, s0) MVE_S8_REST(w1, s1) MVE_S8_REST(w2, s2) MVE_S8_REST(w3, s3)),
            MVE_LOOP(MVE_S8(w0, s0), MVE_S8_REST(w0, s0)))
DEFINE_ROWS(rows_s16, int16_t, int16_t, count,
            MVE_LOOP(MVE_S16(w0, s0) MVE_S16(w1, s1) MVE_S16(w2, s2) MVE_S16(w3, s3),
                     MVE_S16_REST(w0, s0) MVE_S16_REST(w1, s1) MVE_S16_REST(w2, s2) MVE_S16_REST(w3, s3)),
            MVE_LOOP(MVE_S16(w0, s0), MVE_S16_REST(w0, s0)))

/* Sixteen 4-bit weights: their low halves meet the even elements of x, their high halves the odd ones. */
#define MVE_S4(row, sum)                                                              \
    do {                                                                              \
        const int16x8_t pairs = vldrbq_s16((const int8_t *)row + i / 2);              \
        sum = vmladavaq_s16(sum, xs.val[0], vshrq_n_s16(vshlq_n_s16(pairs, 12), 12)); \
        sum = vmladavaq_s16(sum, xs.val[1], vshrq_n_s16(pairs, 4));                   \
    } while (0);
#define MVE_S4_LOOP(BODY, REST)                  \
    int32_t i = 0;                               \
    for (; i + 16 <= count; i += 16) {           \
        const int16x8x2_t xs = vld2q_s16(x + i); \
        BODY                                     \
    }                                            \
    for (; i < count; i++) { REST }
#define S4_ONE(row, sum) sum += (int32_t)x[i] * nibble(row, i);
DEFINE_ROWS(rows_s4, int16_t, uint8_t, (count + 1) / 2,
            MVE_S4_LOOP(MVE_S4(w0, s0) MVE_S4(w1, s1) MVE_S4(w2, s2) MVE_S4(w3, s3),
                        S4_ONE(w0, s0) S4_ONE(w1, s1) S4_ONE(w2, s2) S4_ONE(w3, s3)),
            MVE_S4_LOOP(MVE_S4(w0, s0), S4_ONE(w0, s0)))

/* Four channels at a time; channels behind the end are switched off. */
#define DEFINE_MVE_TAP(name, x_type, LOAD_X)                                                               \
    static void name(const void *x_at, size_t x_start, const void *w_at, size_t w_start, int32_t channels, \
                     int32_t multiplier, int32_t *restrict sums) {                                         \
        const x_type *restrict x = (const x_type *)x_at + x_start;                                         \
        const int8_t *restrict w = (const int8_t *)w_at + w_start;                                         \
        if (multiplier == 1) {                                                                             \
            for (int32_t c = 0; c < channels; c += 4) {                                                    \
                const mve_pred16_t lanes = vctp32q((uint32_t)(channels - c));                              \
                const int32x4_t product = vmulq_s32(LOAD_X, vldrbq_z_s32(w + c, lanes));                   \
                vstrwq_p_s32(sums + c, vaddq_s32(vldrwq_z_s32(sums + c, lanes), product), lanes);          \
            }                                                                                              \
        } else {                                                                                           \
            for (int32_t c = 0; c < channels; c++, w += multiplier, sums += multiplier)                    \
                for (int32_t m = 0; m < multiplier; m++) sums[m] += (int32_t)x[c] * w[m];                  \
        }                                                                                                  \
    }
DEFINE_MVE_TAP(tap_s8_s8, int8_t, vldrbq_z_s32(x + c, lanes))
DEFINE_MVE_TAP(tap_u8_s8, uint8_t, vreinterpretq_s32_u32(vldrbq_z_u32(x + c, lanes)))
DEFINE_MVE_TAP(tap_s16_s8, int16_t, vldrhq_z_s32(x + c, lanes))
