/* Products of Cortex-M with the DSP extension. Part of graffiti_runtime.c, which includes it. */
/* SMLAD: two products an instruction. SXTB16 widens bytes 0 and 2, so the elements of x are paired the same way. */
static uint32_t word(const void *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}
static uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }      /* PKHBT */
static uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); } /* PKHTB */
static int32_t smlad(uint32_t a, uint32_t b, int32_t sum) { return __smlad((int16x2_t)a, (int16x2_t)b, sum); }
static uint32_t sxtb16(uint32_t bytes) { return (uint32_t)__sxtb16((int8x4_t)bytes); }

#define DSP_S8(row, sum)                           \
    do {                                           \
        const uint32_t bytes = word(row + i);      \
        sum = smlad(even, sxtb16(bytes), sum);     \
        sum = smlad(odd, sxtb16(bytes >> 8), sum); \
    } while (0);
#define DSP_S8_LOOP(BODY, REST)                                                                                \
    int32_t i = 0;                                                                                             \
    for (; i + 4 <= count; i += 4) {                                                                           \
        const uint32_t a = word(x + i), b = word(x + i + 2), even = low_halves(a, b), odd = high_halves(a, b); \
        BODY                                                                                                   \
    }                                                                                                          \
    for (; i < count; i++) { REST }
#define ONE(row, sum) sum += (int32_t)x[i] * row[i];
DEFINE_ROWS(rows_s8, int16_t, int8_t, count,
            DSP_S8_LOOP(DSP_S8(w0, s0) DSP_S8(w1, s1) DSP_S8(w2, s2) DSP_S8(w3, s3),
                        ONE(w0, s0) ONE(w1, s1) ONE(w2, s2) ONE(w3, s3)),
            DSP_S8_LOOP(DSP_S8(w0, s0), ONE(w0, s0)))

#define DSP_S16(row, sum) sum = smlad(pair, word(row + i), sum);
#define DSP_S16_LOOP(BODY, REST)           \
    int32_t i = 0;                         \
    for (; i + 2 <= count; i += 2) {       \
        const uint32_t pair = word(x + i); \
        BODY                               \
    }                                      \
    for (; i < count; i++) { REST }
DEFINE_ROWS(rows_s16, int16_t, int16_t, count,
            DSP_S16_LOOP(DSP_S16(w0, s0) DSP_S16(w1, s1) DSP_S16(w2, s2) DSP_S16(w3, s3),
                         ONE(w0, s0) ONE(w1, s1) ONE(w2, s2) ONE(w3, s3)),
            DSP_S16_LOOP(DSP_S16(w0, s0), ONE(w0, s0)))

/* Eight 4-bit weights in a word: low halves are elements 0, 2, 4, 6, high halves 1, 3, 5, 7, each made a signed byte.
 */
static uint32_t signed_nibbles(uint32_t four) {
    return (uint32_t)__ssub8((int8x4_t)((four & 0x0f0f0f0fu) ^ 0x08080808u), (int8x4_t)0x08080808u);
}
#define DSP_S4(row, sum)                                                                                             \
    do {                                                                                                             \
        const uint32_t packed = word(row + i / 2), low = signed_nibbles(packed), high = signed_nibbles(packed >> 4); \
        sum = smlad(x04, sxtb16(low), sum);                                                                          \
        sum = smlad(x26, sxtb16(low >> 8), sum);                                                                     \
        sum = smlad(x15, sxtb16(high), sum);                                                                         \
        sum = smlad(x37, sxtb16(high >> 8), sum);                                                                    \
    } while (0);
#define DSP_S4_LOOP(BODY, REST)                                                                        \
    int32_t i = 0;                                                                                     \
    for (; i + 8 <= count; i += 8) {                                                                   \
        const uint32_t a = word(x + i), b = word(x + i + 2), c = word(x + i + 4), d = word(x + i + 6); \
        const uint32_t x04 = low_halves(a, c), x15 = high_halves(a, c), x26 = low_halves(b, d),        \
                       x37 = high_halves(b, d);                                                        \
        BODY                                                                                           \
    }                                                                                                  \
    for (; i < count; i++) { REST }
#define S4_ONE(row, sum) sum += (int32_t)x[i] * nibble(row, i);
DEFINE_ROWS(rows_s4, int16_t, uint8_t, (count + 1) / 2,
            DSP_S4_LOOP(DSP_S4(w0, s0) DSP_S4(w1, s1) DSP_S4(w2, s2) DSP_S4(w3, s3),
                        S4_ONE(w0, s0) S4_ONE(w1, s1) S4_ONE(w2, s2) S4_ONE(w3, s3)),
            DSP_S4_LOOP(DSP_S4(w0, s0), S4_ONE(w0, s0)))

DEFINE_TAP(tap_s8_s8, int8_t, int8_t)
DEFINE_TAP(tap_u8_s8, uint8_t, int8_t)
DEFINE_TAP(tap_s16_s8, int16_t, int8_t)
