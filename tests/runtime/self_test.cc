// Every path of the kernels and the program runner on exact-sized heap arrays, for the address and undefined-behaviour
// sanitizers: a read or write past an end, a misaligned access or a signed overflow stops it. Results are compared with
// a naive loop.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "c_api.h"

namespace {

int g_failures = 0;
std::mt19937 g_random(1);

#define EXPECT(condition)                                                \
  do {                                                                   \
    if (!(condition)) {                                                  \
      std::printf("line %d: %s (%s)\n", __LINE__, #condition, graffiti_last_error()); \
      ++g_failures;                                                      \
    }                                                                    \
  } while (0)

int64_t Size(int type) { return type <= GRAFFITI_U8 ? 1 : type <= GRAFFITI_U16 ? 2 : 4; }
int64_t Low(int type) {
  return type == GRAFFITI_S8 ? -128 : type == GRAFFITI_S16 ? -32768 : type == GRAFFITI_S32 ? INT32_MIN : 0;
}
int64_t High(int type) {
  return type == GRAFFITI_S8    ? 127
         : type == GRAFFITI_U8  ? 255
         : type == GRAFFITI_S16 ? 32767
         : type == GRAFFITI_U16 ? 65535
                                : INT32_MAX;
}

// A heap block of exactly the bytes, so that one past the end is caught.
struct Array {
  Array(int t, int64_t n)
      : type(t), count(n), data(static_cast<uint8_t*>(std::malloc(std::max<int64_t>(n * Size(t), 1)))) {}
  ~Array() { std::free(data); }
  Array(const Array&) = delete;
  int64_t Get(int64_t i) const {
    switch (type) {
      case GRAFFITI_S8: return reinterpret_cast<int8_t*>(data)[i];
      case GRAFFITI_U8: return data[i];
      case GRAFFITI_S16: return reinterpret_cast<int16_t*>(data)[i];
      case GRAFFITI_U16: return reinterpret_cast<uint16_t*>(data)[i];
      default: return reinterpret_cast<int32_t*>(data)[i];
    }
  }
  void Fill() {
    for (int64_t i = 0; i < count * Size(type); ++i)
      data[i] = static_cast<uint8_t>(g_random() % 4 == 0 ? 0x80 : g_random());
  }
  const int type;
  const int64_t count;
  uint8_t* const data;
};

int64_t Rounded(int64_t x, int shift, int mode, int64_t low, int64_t high) {
  __int128 y = x;
  if (shift <= 0) {
    y *= static_cast<__int128>(1) << (-shift < 40 ? -shift : 40);
  } else {
    const __int128 one = 1, floor = y >> shift, rest = y - floor * (one << shift), half = one << (shift - 1);
    y = floor;
    if (mode == GRAFFITI_HALF_EVEN) y += rest > half || (rest == half && (floor & 1));
    if (mode == GRAFFITI_HALF_UP) y += rest >= half;
    if (mode == GRAFFITI_HALF_AWAY) y += rest > half || (rest == half && x >= 0);
  }
  return static_cast<int64_t>(y < low ? static_cast<__int128>(low) : y > high ? static_cast<__int128>(high) : y);
}

void TestConv(int tier, const graffiti_conv_shape& s, int x_type, int kernel_type, int y_type, int mode, int shift) {
  const int64_t batch = 2, per_group = s.channels / s.groups;
  Array x(x_type, batch * s.height * s.width * s.channels),
      kernel(kernel_type, s.kernel_height * s.kernel_width * per_group * s.out_channels);
  Array bias(GRAFFITI_S32, s.out_channels), y(y_type, batch * s.out_height * s.out_width * s.out_channels);
  x.Fill();
  kernel.Fill();
  for (int64_t i = 0; i < bias.count; ++i)
    reinterpret_cast<int32_t*>(bias.data)[i] = static_cast<int32_t>(g_random()) >> 12;
  const int32_t shifts[1] = {shift};
  const graffiti_requantization to{
      shifts, 1, mode, static_cast<int32_t>(Low(y_type)), static_cast<int32_t>(High(y_type)), y_type};
  EXPECT(graffiti_conv2d(&s, batch, x.data, x_type, kernel.data, kernel_type, reinterpret_cast<int32_t*>(bias.data),
                         &to, y.data, tier, nullptr) == 0);
  for (int64_t i = 0; i < y.count; ++i) {
    const int64_t o = i % s.out_channels, q = i / s.out_channels % s.out_width,
                  p = i / s.out_channels / s.out_width % s.out_height;
    const int64_t b = i / s.out_channels / s.out_width / s.out_height, g = o / (s.out_channels / s.groups);
    int64_t sum = bias.Get(o);
    for (int64_t u = 0; u < s.kernel_height; ++u)
      for (int64_t v = 0; v < s.kernel_width; ++v) {
        const int64_t h = p * s.stride_h + u * s.dilation_h - s.pad_top,
                      w = q * s.stride_w + v * s.dilation_w - s.pad_left;
        if (h < 0 || w < 0 || h % s.spread_h || w % s.spread_w || h / s.spread_h >= s.height ||
            w / s.spread_w >= s.width)
          continue;
        for (int64_t c = 0; c < per_group; ++c)
          sum += x.Get(((b * s.height + h / s.spread_h) * s.width + w / s.spread_w) * s.channels + g * per_group + c) *
                 kernel.Get(((u * s.kernel_width + v) * per_group + c) * s.out_channels + o);
      }
    const int64_t wrapped = static_cast<int32_t>(static_cast<uint32_t>(sum));
    if (y.Get(i) != Rounded(wrapped, shift, mode, Low(y_type), High(y_type))) {
      EXPECT(!"conv differs");
      return;
    }
  }
}

void TestAveragePool(int tier, const graffiti_pool_shape& s, int x_type, int y_type, int mode, int shift, bool divide,
                     const graffiti_parallel* parallel) {
  const int64_t batch = 2;
  Array x(x_type, batch * s.height * s.width * s.channels), y(y_type, batch * s.out_height * s.out_width * s.channels);
  x.Fill();
  const int32_t shifts[1] = {shift};
  const int32_t lowest = static_cast<int32_t>(Low(y_type)), highest = static_cast<int32_t>(High(y_type));
  const graffiti_requantization to{shifts, 1, mode, lowest, highest, y_type};
  EXPECT(graffiti_average_pool(&s, batch, x.data, x_type, &to, divide, y.data, tier, parallel) == 0);
  for (int64_t i = 0; i < y.count; ++i) {
    const int64_t c = i % s.channels, q = i / s.channels % s.out_width, row = i / s.channels / s.out_width;
    const int64_t b = row / s.out_height, top = row % s.out_height * s.stride_h - s.pad_top;
    const int64_t left = q * s.stride_w - s.pad_left;
    int64_t sum = 0, count = 0;
    for (int64_t h = std::max<int64_t>(top, 0); h < std::min(top + s.pool_height, s.height); ++h)
      for (int64_t w = std::max<int64_t>(left, 0); w < std::min(left + s.pool_width, s.width); ++w, ++count)
        sum += x.Get(((b * s.height + h) * s.width + w) * s.channels + c);
    if (!divide) count = 1;
    // round(sum * 2**-shift / count): numerator / divisor, rounded down, and the ties of the rest
    const int64_t divisor = count << std::max(shift, 0), numerator = sum * (int64_t{1} << std::max(-shift, 0));
    int64_t code = numerator / divisor - (numerator % divisor < 0);
    const int64_t twice = 2 * (numerator - code * divisor);
    const bool up = mode == GRAFFITI_HALF_EVEN ? twice > divisor || (twice == divisor && code % 2 != 0)
                    : mode == GRAFFITI_HALF_UP ? twice >= divisor
                    : mode == GRAFFITI_HALF_AWAY ? twice > divisor || (twice == divisor && sum >= 0) : false;
    code += up;
    if (y.Get(i) != std::clamp(code, Low(y_type), High(y_type))) {
      EXPECT(!"average pool differs");
      return;
    }
  }
}

// Every part on a thread of its own.
void EveryPart(void*, int64_t n, void (*fn)(void*, int64_t, int64_t), void* argument) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < n; ++i) threads.emplace_back(fn, argument, i, i + 1);
  for (std::thread& thread : threads) thread.join();
}

// The three products of a training step; one group, or as many as channels.
void TestTraining(int tier, const graffiti_conv_shape& s, int64_t batch, int x_type, int dy_type,
                  const graffiti_parallel* parallel) {
  const int64_t multiplier = s.groups == 1 ? s.out_channels : s.out_channels / s.channels;
  Array x(x_type, batch * s.height * s.width * s.channels),
      dy(dy_type, batch * s.out_height * s.out_width * s.out_channels);
  Array kernel(GRAFFITI_S8, s.kernel_height * s.kernel_width * s.channels * multiplier);
  for (Array* array : {&x, &dy, &kernel}) array->Fill();
  std::vector<int64_t> y_sums(dy.count), dx_sums(x.count), dw_sums(kernel.count);
  for (int64_t i = 0; i < dy.count; ++i) {
    const int64_t o = i % s.out_channels, q = i / s.out_channels % s.out_width,
                  p = i / s.out_channels / s.out_width % s.out_height;
    const int64_t b = i / s.out_channels / s.out_width / s.out_height;
    for (int64_t u = 0; u < s.kernel_height; ++u)
      for (int64_t v = 0; v < s.kernel_width; ++v) {
        const int64_t h = p * s.stride_h + u * s.dilation_h - s.pad_top,
                      w = q * s.stride_w + v * s.dilation_w - s.pad_left;
        if (h < 0 || w < 0 || h >= s.height || w >= s.width) continue;
        for (int64_t c = s.groups == 1 ? 0 : o / multiplier; c < (s.groups == 1 ? s.channels : o / multiplier + 1);
             ++c) {
          const int64_t at_x = ((b * s.height + h) * s.width + w) * s.channels + c;
          const int64_t at_w =
              ((u * s.kernel_width + v) * s.channels + c) * multiplier + (s.groups == 1 ? o : o % multiplier);
          y_sums[i] += x.Get(at_x) * kernel.Get(at_w);
          dx_sums[at_x] += dy.Get(i) * kernel.Get(at_w);
          dw_sums[at_w] += x.Get(at_x) * dy.Get(i);
        }
      }
  }
  const auto run = [&](int pass, const Array& first, const Array& second, const std::vector<int64_t>& sums) {
    float* out = static_cast<float*>(std::malloc(std::max<std::size_t>(sums.size() * 4, 1)));
    EXPECT(graffiti_training_conv(pass, &s, batch, first.data, first.type, second.data, second.type, 0.5f, out, tier,
                                  parallel) == 0);
    bool same = true;
    for (std::size_t i = 0; i < sums.size(); ++i) same &= out[i] == static_cast<float>(sums[i]) * 0.5f;
    EXPECT(same);
    std::free(out);
  };
  run(GRAFFITI_FORWARD, x, kernel, y_sums);
  run(GRAFFITI_INPUT_GRADIENT, dy, kernel, dx_sums);
  run(GRAFFITI_WEIGHT_GRADIENT, x, dy, dw_sums);
}

void TestTrainings(int tier) {
  const graffiti_conv_shape shapes[] = {
      {5, 7, 3, 5, 7, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},    {9, 6, 17, 5, 3, 17, 3, 3, 2, 2, 1, 1, 1, 0, 1, 1, 1},
      {8, 7, 64, 8, 7, 64, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1},   {6, 5, 24, 3, 3, 40, 1, 1, 2, 2, 1, 1, 0, 0, 1, 1, 1},
      {6, 9, 8, 6, 9, 70, 3, 3, 1, 1, 2, 3, 2, 3, 1, 1, 1},    {1, 300, 5, 1, 300, 9, 1, 5, 1, 1, 1, 1, 0, 2, 1, 1, 1},
      {40, 35, 4, 40, 35, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {6, 5, 33, 6, 5, 33, 3, 3, 1, 1, 1, 1, 1, 1, 33, 1, 1},
      {7, 6, 20, 4, 3, 40, 3, 3, 2, 2, 1, 1, 1, 0, 20, 1, 1}};
  const graffiti_parallel threads{EveryPart, nullptr, 3};
  for (const graffiti_conv_shape& shape : shapes)
    for (int64_t batch : {1, 3, 6})
      for (int x_type : {GRAFFITI_S8, GRAFFITI_U8})
        for (int dy_type : {GRAFFITI_S8, GRAFFITI_S16})
          for (const graffiti_parallel* parallel : {static_cast<const graffiti_parallel*>(nullptr), &threads})
            if (parallel == nullptr || (batch == 6 && x_type == GRAFFITI_S8))
              TestTraining(tier, shape, batch, x_type, dy_type, parallel);
}

// Overlapping, disjoint and global windows, partial ones, one column, tails of channels, rows beyond what is held.
void TestAveragePools(int tier) {
  const graffiti_pool_shape shapes[] = {
      {6, 7, 3, 6, 7, 3, 3, 1, 1, 1, 1}, {5, 9, 17, 3, 5, 3, 3, 2, 2, 1, 1}, {4, 8, 1, 2, 4, 2, 2, 2, 2, 0, 0},
      {3, 4, 70, 3, 4, 2, 3, 1, 1, 0, 1}, {7, 7, 5, 1, 1, 7, 7, 1, 1, 0, 0}, {7, 7, 130, 1, 1, 7, 7, 1, 1, 0, 0},
      {33, 1, 6, 11, 1, 5, 1, 3, 1, 1, 0}, {2, 90, 64, 2, 44, 2, 4, 1, 2, 0, 0}, {2, 6, 700, 2, 6, 3, 3, 1, 1, 1, 1},
      {1, 140, 65, 1, 13, 1, 128, 1, 1, 0, 0}, {3, 9, 4, 2, 3, 1, 2, 2, 4, 0, 0},
      {14, 13, 9, 1, 1, 14, 13, 1, 1, 0, 0}};
  const graffiti_parallel threads{EveryPart, nullptr, 3};
  int number = 0;
  for (const graffiti_pool_shape& shape : shapes)
    for (int x_type : {GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16})
      for (int y_type : {GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16, GRAFFITI_S32})
        for (int mode = 0; mode < 4; ++mode, ++number)
          for (int shift : {-9, -1, 0, 2}) {
            const graffiti_parallel* parallel = number % 7 == 0 ? &threads : nullptr;
            TestAveragePool(tier, shape, x_type, y_type, mode, shift, number % 5 != 0, parallel);
          }
}

void TestElements(int tier) {
  for (int type : {GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16, GRAFFITI_U16, GRAFFITI_S32})
    for (int out : {GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16, GRAFFITI_U16, GRAFFITI_S32})
      for (int64_t n : {0, 1, 5, 63, 64, 65, 513, 1027})
        for (int mode = 0; mode < 4; ++mode)
          for (int shift : {-33, -2, 0, 1, 7, 14, 15, 30, 31, 62}) {
            Array x(type, n), y(out, n), z(type, n);
            x.Fill();
            z.Fill();
            const int32_t shifts[1] = {shift};
            const graffiti_requantization to{
                shifts, 1, mode, static_cast<int32_t>(Low(out)), static_cast<int32_t>(High(out)), out};
            EXPECT(graffiti_requantize(n, 1, x.data, type, &to, y.data, tier, nullptr) == 0);
            bool same = true;
            for (int64_t i = 0; i < n; ++i) same &= y.Get(i) == Rounded(x.Get(i), shift, mode, Low(out), High(out));
            EXPECT(same);
            EXPECT(graffiti_elementwise(GRAFFITI_SUBTRACT, n, 1, x.data, type, z.data, type, n == 0 ? 1 : n, &to,
                                        y.data, tier, nullptr) == 0);
            same = true;
            for (int64_t i = 0; i < n; ++i)
              same &= y.Get(i) == Rounded(static_cast<int32_t>(static_cast<uint32_t>(x.Get(i) - z.Get(i))), shift, mode,
                                          Low(out), High(out));
            EXPECT(same);
          }
  std::vector<float> real(777, 1.25f), back(777);
  real[3] = -3e38f;
  Array codes(GRAFFITI_S8, 777);
  for (int mode = 0; mode < 4; ++mode) {
    EXPECT(graffiti_quantize(777, real.data(), -1, mode, -128, 127, GRAFFITI_S8, codes.data, tier, nullptr) == 0);
    EXPECT(codes.Get(0) == (mode == GRAFFITI_HALF_EVEN ? 2 : mode == GRAFFITI_FLOOR ? 2 : 3) && codes.Get(3) == -128);
  }
  const int32_t exponent = -1;
  EXPECT(graffiti_dequantize(777, 1, codes.data, GRAFFITI_S8, &exponent, 1, back.data(), tier, nullptr) == 0 &&
         back[3] == -64.0f);
  Array image(GRAFFITI_U8, 2 * 7 * 5 * 3), pooled(GRAFFITI_U8, 2 * 4 * 3 * 3);
  image.Fill();
  const graffiti_pool_shape pool{7, 5, 3, 4, 3, 3, 3, 2, 2, 1, 1};
  EXPECT(graffiti_max_pool(&pool, 2, image.data, GRAFFITI_U8, pooled.data, tier, nullptr) == 0);
}

std::vector<float> Reals(int64_t n) {
  std::vector<float> x(n);
  for (float& v : x) v = (static_cast<float>(g_random() % 20001) - 10000.0f) * (g_random() % 8 == 0 ? 1e-4f : 3e-2f);
  return x;
}

// What training does with floats: each call into arrays of exactly the sizes, on this tier, on one thread and on many;
// the bytes are those of the scalar tier on one thread.
template <typename Call>
void TestSame(int tier, const std::vector<int64_t>& sizes, const Call& call) {
  const graffiti_parallel threads{EveryPart, nullptr, 3};
  std::vector<std::vector<char>> first;
  const auto run = [&](int own_tier, const graffiti_parallel* parallel) {
    std::vector<std::vector<char>> out;
    for (int64_t size : sizes) out.emplace_back(size, 0x55);
    EXPECT(call(out, own_tier, parallel) == 0);
    if (first.empty()) first = out;
    EXPECT(out == first);
  };
  run(GRAFFITI_TIER_SCALAR, nullptr);
  run(tier, nullptr);
  run(tier, &threads);
}

using Outputs = std::vector<std::vector<char>>;
float* Floats(std::vector<char>& bytes) { return reinterpret_cast<float*>(bytes.data()); }

void TestCodes(int tier) {
  const uint32_t seed[2] = {3, 9};
  for (int64_t n : {0, 1, 15, 16, 17, 31, 32, 33, 1000, 16385, 400003}) {
    const std::vector<float> x = Reals(n);
    for (const uint32_t* own : {static_cast<const uint32_t*>(nullptr), &seed[0]})
      for (int type : {GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16})
        TestSame(tier, {n * Size(type), 8}, [&](Outputs& out, int t, const graffiti_parallel* parallel) {
          const auto low = static_cast<int32_t>(Low(type)), high = static_cast<int32_t>(High(type));
          return graffiti_training_quantize(n, x.data(), 0.7f, low, high, own, type, out[0].data(), Floats(out[1]), t,
                                            parallel);
        });
    TestSame(tier, {8}, [&](Outputs& out, int t, const graffiti_parallel* parallel) {
      return graffiti_extremes(n, x.data(), Floats(out[0]), t, parallel);
    });
    TestSame(tier, {8}, [&](Outputs& out, int t, const graffiti_parallel* parallel) {
      return graffiti_count_above(n, x.data(), 3.0f, reinterpret_cast<int64_t*>(out[0].data()), t, parallel);
    });
  }
}

void TestGroups(int tier) {
  const uint32_t seed[2] = {3, 9};
  const graffiti_group_layout layouts[] = {{1, 1, 1, 1},    {3, 5, 7, 1},      {1, 40, 70, 1},  {2, 9, 1, 33},
                                           {4, 7, 5, 3},    {130, 1, 1, 1},    {0, 3, 2, 1},    {2, 0, 3, 1},
                                           {1, 1, 3, 6000}, {1, 200001, 2, 1}, {300, 40, 32, 1}};
  for (const graffiti_group_layout& l : layouts) {
    const int64_t n = l.outer * l.rows * l.groups * l.inner, groups = l.outer * l.groups;
    const std::vector<float> x = Reals(n), factors = Reals(groups);
    std::vector<float> divisors(groups);
    TestSame(tier, {groups * 4}, [&](Outputs& out, int t, const graffiti_parallel* parallel) {
      return graffiti_group_maximum(&l, x.data(), Floats(out[0]), t, parallel);
    });
    EXPECT(graffiti_group_maximum(&l, x.data(), divisors.data(), tier, nullptr) == 0);  // of zeros a NaN: 0 / 0
    for (const graffiti_element_format& format :
         {graffiti_element_format{2, 1, 1, -1}, {5, 11, 1, -1}, {0, 3, 1, 0}, {1, 2, 0, -1}, {5, 11, 0, 0}})
      for (const uint32_t* own : {static_cast<const uint32_t*>(nullptr), &seed[0]})
        TestSame(tier, {n * 4}, [&](Outputs& out, int t, const graffiti_parallel* parallel) {
          return graffiti_multi_level(&l, x.data(), divisors.data(), factors.data(), &format, own, Floats(out[0]), t,
                                      parallel);
        });
  }
}

void TestBatchNorm(int tier) {
  const std::pair<int64_t, int64_t> shapes[] = {{1, 7},     {5, 3},    {300, 1},   {256, 4},  {257, 20},
                                                {1000, 37}, {523, 64}, {6500, 16}, {7000, 83}};
  for (const auto& [rows, channels] : shapes) {
    const int64_t n = rows * channels;
    const std::vector<float> x = Reals(n), dy = Reals(n), residual = Reals(n), gamma = Reals(channels),
                             beta = Reals(channels);
    for (const float* own : {static_cast<const float*>(nullptr), residual.data()})
      for (int relu : {0, 1}) {
        const graffiti_batch_norm_inputs in{rows, channels, x.data(), gamma.data(), beta.data(), own, 1e-3f, relu};
        TestSame(tier, {n * 4, channels * 4, channels * 4, channels * 4},
                 [&](Outputs& out, int t, const graffiti_parallel* parallel) {
                   const graffiti_batch_norm_outputs to{Floats(out[0]), Floats(out[1]), Floats(out[2]), Floats(out[3])};
                   return graffiti_batch_norm(&in, &to, t, parallel);
                 });
        // x stands for y; in place, as TensorFlow runs it
        const float* y = own != nullptr && relu ? x.data() : nullptr;
        TestSame(tier, {n * 4, channels * 4, channels * 4, n * 4},
                 [&](Outputs& out, int t, const graffiti_parallel* parallel) {
                   std::vector<char>& shared = out[y == nullptr ? 0 : 3];
                   std::memcpy(shared.data(), dy.data(), n * 4);
                   const graffiti_batch_norm_gradient_inputs from{
                       rows,        channels,    Floats(shared), x.data(), gamma.data(),
                       beta.data(), beta.data(), gamma.data(),   y,        relu};
                   const graffiti_batch_norm_gradient_outputs to{Floats(out[0]), Floats(out[1]), Floats(out[2]),
                                                                 y == nullptr ? nullptr : Floats(out[3])};
                   return graffiti_batch_norm_gradient(&from, &to, t, parallel);
                 });
      }
  }
}

void TestFakeQuantize(int tier) {
  for (int64_t n : {0, 1, 15, 16, 17, 33, 4095, 4096, 4097, 100003}) {
    const std::vector<float> x = Reals(n), dy = Reals(n);
    for (int mode = 0; mode < 4; ++mode)
      for (const graffiti_fake_quantize_format& format :
           {graffiti_fake_quantize_format{2.3f, 8, 1, 0, mode}, {-1000.0f, 24, 0, 0, mode}, {1e30f, 2, 1, 1, mode}}) {
        TestSame(tier, {n * 4}, [&](Outputs& out, int t, const graffiti_parallel* parallel) {
          return graffiti_fake_quantize(n, x.data(), &format, Floats(out[0]), t, parallel);
        });
        TestSame(tier, {n * 4, 4}, [&](Outputs& out, int t, const graffiti_parallel* parallel) {
          if (n > 0) std::memcpy(out[0].data(), dy.data(), n * 4);
          return graffiti_fake_quantize_gradient(n, Floats(out[0]), x.data(), &format, Floats(out[0]), Floats(out[1]),
                                                 t, parallel);
        });
      }
  }
}

std::vector<char> Read(const char* path) {
  std::vector<char> bytes;
  if (FILE* file = std::fopen(path, "rb")) {
    char buffer[65536];
    for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;)
      bytes.insert(bytes.end(), buffer, buffer + n);
    std::fclose(file);
  }
  return bytes;
}

// A program on every tier, batch and number of threads gives what it gave first; damaged ones are refused without a
// crash.
void TestProgram(const char* path) {
  const std::vector<char> blob = Read(path);
  EXPECT(!blob.empty());
  std::vector<std::vector<char>> first;
  for (int tier = GRAFFITI_TIER_SCALAR; tier < GRAFFITI_TIER_COUNT; ++tier) {
    if (!graffiti_tier_supported(tier)) continue;
    graffiti_program* program = nullptr;
    EXPECT(graffiti_create_program(blob.data(), static_cast<int64_t>(blob.size()), tier, &program) == 0);
    if (program == nullptr) return;
    int64_t inputs, outputs;
    graffiti_program_counts(program, &inputs, &outputs, nullptr);
    for (int threads : {1, 2, 3})
      for (int64_t batch : {1, 2, 5}) {
        std::vector<Array*> arrays;
        std::vector<const void*> from;
        std::vector<void*> to;
        for (int64_t i = 0; i < inputs; ++i) {
          int32_t type;
          int64_t elements;
          graffiti_program_input(program, i, &type, &elements);
          arrays.push_back(new Array(type, batch * elements));
          for (int64_t k = 0; k < batch * elements * Size(type); k += 4) {
            const float value = static_cast<float>(k / 4 % elements % 17) - 8.0f;
            std::memcpy(arrays.back()->data + k, &value, 4);
          }
          from.push_back(arrays.back()->data);
        }
        std::vector<int64_t> sizes;
        for (int64_t i = 0; i < outputs; ++i) {
          int32_t type;
          int64_t elements;
          graffiti_program_output(program, i, &type, &elements);
          arrays.push_back(new Array(type, batch * elements));
          to.push_back(arrays.back()->data);
          sizes.push_back(elements * Size(type));
        }
        EXPECT(graffiti_run_program(program, from.data(), to.data(), batch, threads) == 0);
        for (int64_t i = 0; i < outputs; ++i)
          for (int64_t b = 0; b < batch; ++b) {
            const char* image = static_cast<const char*>(to[i]) + b * sizes[i];
            if (static_cast<int64_t>(first.size()) <= i) first.emplace_back(image, image + sizes[i]);
            EXPECT(std::memcmp(first[i].data(), image, sizes[i]) == 0);
          }
        for (Array* array : arrays) delete array;
      }
    graffiti_destroy_program(program);
  }
  std::vector<char> damaged = blob;
  for (std::size_t at = 0; at + 8 <= blob.size(); at += 8) {
    const int64_t value = at % 3 == 0 ? -1 : at % 3 == 1 ? INT64_MAX : static_cast<int64_t>(g_random());
    std::memcpy(&damaged[at], &value, 8);
    graffiti_program* program = nullptr;
    if (graffiti_create_program(damaged.data(), static_cast<int64_t>(damaged.size()), GRAFFITI_TIER_AUTO, &program) ==
        0)
      graffiti_destroy_program(program);
    std::memcpy(&damaged[at], &blob[at], 8);
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int tier = GRAFFITI_TIER_SCALAR; tier < GRAFFITI_TIER_COUNT; ++tier) {
    if (!graffiti_tier_supported(tier)) continue;
    const graffiti_conv_shape shapes[] = {
        {5, 7, 3, 5, 7, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},   {9, 6, 16, 5, 3, 17, 3, 3, 2, 2, 1, 1, 1, 0, 1, 1, 1},
        {8, 8, 4, 8, 8, 70, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1},   {6, 5, 33, 6, 5, 33, 3, 3, 1, 1, 1, 1, 1, 1, 33, 1, 1},
        {6, 5, 32, 4, 3, 32, 3, 3, 1, 1, 1, 1, 0, 0, 32, 1, 1}, {6, 5, 6, 6, 5, 9, 3, 3, 1, 1, 2, 2, 2, 2, 3, 1, 1},
        {3, 4, 5, 7, 9, 6, 3, 3, 1, 1, 1, 1, 2, 2, 1, 2, 2},    {5, 5, 7, 5, 5, 14, 2, 2, 1, 1, 1, 1, 0, 0, 7, 1, 1},
        {1, 1, 65, 1, 1, 10, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1}};
    for (const graffiti_conv_shape& shape : shapes)
      for (int x_type : {GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16, GRAFFITI_U16})
        for (int kernel_type : {GRAFFITI_S8, GRAFFITI_U8, GRAFFITI_S16})
          for (int y_type : {GRAFFITI_U8, GRAFFITI_S16, GRAFFITI_S32})
            TestConv(tier, shape, x_type, kernel_type, y_type, (x_type + kernel_type) % 4,
                     y_type == GRAFFITI_S32 ? 0 : 9);
    TestElements(tier);
    TestAveragePools(tier);
    TestTrainings(tier);
    TestCodes(tier);
    TestGroups(tier);
    TestBatchNorm(tier);
    TestFakeQuantize(tier);
  }
  for (int i = 1; i < argc; ++i) TestProgram(argv[i]);
  std::printf("%d failures\n", g_failures);
  return g_failures != 0;
}
