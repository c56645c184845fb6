// Reads a blob into a Program: checks every number, packs the weights for the tier.
//
// A blob is little-endian 64-bit words, then bytes:
//   magic, version, blob bytes, tensors, steps, inputs, outputs, values, arena bytes (per image), block, data bytes
//   inputs:  tensor each          outputs: tensor each
//   tensors: type, place, offset, elements
//   values:  step, tensor, offset, rows, inner, stride
//   steps:   kind, number of words behind, those words (the Read... functions below, in their order)
//   data:    weights, biases, shifts, tables; a step names them by byte offset
// graffiti/runtime/program.py writes it.
#include <algorithm>
#include <cstring>

#include "conv.h"
#include "elementwise.h"
#include "program.h"

namespace graffiti {
namespace {

constexpr int64_t kMagic = 0x3147525046415247;  // "GRAFPRG1"
constexpr int64_t kVersion = 1;
constexpr int64_t kElementsOfUnit = 8192;
constexpr int64_t kMaxElements = int64_t{1} << 40;

// ---- steps -------------------------------------------------------------------------------------------------------------
struct ElementsStep : Step {  // a range of elements is split anywhere
  const Program* program = nullptr;
  int64_t elements = 0;
  int64_t Units(int64_t images) const override { return CeilDiv(images * elements, kElementsOfUnit); }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    return lo < hi ? RunElements(block, lo * kElementsOfUnit, std::min(hi * kElementsOfUnit, block.count * elements)) : GRAFFITI_OK;
  }
  virtual int RunElements(const Block& block, int64_t lo, int64_t hi) const = 0;
};

struct QuantizeStep : ElementsStep {
  int64_t x = 0, y = 0;
  QuantizeOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override {
    return op.Run(reinterpret_cast<const float*>(program->Data(block, x)), program->Data(block, y), lo, hi) ? GRAFFITI_OK : GRAFFITI_NOT_A_NUMBER;
  }
};

struct RescaleStep : ElementsStep {
  int64_t x = 0, y = 0;
  RescaleOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override {
    op.Run(reinterpret_cast<const float*>(program->Data(block, x)), reinterpret_cast<float*>(program->Data(block, y)), lo, hi);
    return GRAFFITI_OK;
  }
};

struct DequantizeStep : ElementsStep {
  int64_t x = 0, y = 0;
  DequantizeOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override {
    op.Run(program->Data(block, x), reinterpret_cast<float*>(program->Data(block, y)), lo, hi);
    return GRAFFITI_OK;
  }
};

struct RequantizeStep : ElementsStep {
  int64_t x = 0, y = 0;
  RequantizeOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override {
    op.Run(program->Data(block, x), program->Data(block, y), lo, hi);
    return GRAFFITI_OK;
  }
};

struct BinaryStep : ElementsStep {
  int64_t x = 0, y = -1, out = 0, y_count = 1;  // y < 0: the constant, repeated every y_count elements
  AlignedArray<uint8_t> constant;
  BinaryOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override {
    const int64_t all = block.count * elements;  // a tensor y is as long as x
    op.Run(program->Data(block, x), y < 0 ? constant.get() : program->Data(block, y), y < 0 ? y_count : all, program->Data(block, out), lo, hi);
    return GRAFFITI_OK;
  }
};

struct LookupStep : ElementsStep {
  int64_t x = 0, y = 0;
  LookupOp op;
  int RunElements(const Block& block, int64_t lo, int64_t hi) const override {
    return op.Run(program->Data(block, x), program->Data(block, y), lo, hi) ? GRAFFITI_OK : GRAFFITI_INVALID_ARGUMENT;
  }
};

struct ConvStep : Step {
  const Program* program = nullptr;
  int64_t x = 0, y = 0, y_offset = 0, y_stride = 0;
  std::unique_ptr<Conv> op;
  int64_t Units(int64_t images) const override { return op->Units(images); }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    op->Run(program->Data(block, x), block.count, program->Data(block, y) + y_offset * TypeSize(op->y_type()), y_stride, lo, hi);
    return GRAFFITI_OK;
  }
};

struct MaxPoolStep : Step {
  const Program* program = nullptr;
  int64_t x = 0, y = 0;
  MaxPoolOp op;
  int64_t Units(int64_t images) const override { return op.Units(images); }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    op.Run(program->Data(block, x), program->Data(block, y), lo, hi);
    return GRAFFITI_OK;
  }
};

struct AveragePoolStep : Step {
  const Program* program = nullptr;
  int64_t x = 0, y = 0;
  AveragePoolOp op;
  int64_t Units(int64_t images) const override { return op.Units(images); }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    op.Run(program->Data(block, x), program->Data(block, y), lo, hi);
    return GRAFFITI_OK;
  }
};

// An array copied between two strided views: concat, pad, crop, permute, upsample, broadcast.
struct MoveStep : Step {
  const Program* program = nullptr;
  int64_t x = 0, y = 0, x_elements = 0, y_elements = 0, x_offset = 0, y_offset = 0, size = 1;
  std::vector<int64_t> sizes, x_strides, y_strides;
  int64_t Units(int64_t images) const override { return images; }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    const uint8_t* from = program->Data(block, x);
    uint8_t* to = program->Data(block, y);
    for (int64_t image = lo; image < hi; ++image) Copy(0, from + (image * x_elements + x_offset) * size, to + (image * y_elements + y_offset) * size);
    return GRAFFITI_OK;
  }
  void Copy(std::size_t axis, const uint8_t* from, uint8_t* to) const {
    if (axis + 1 >= sizes.size()) {
      const int64_t n = sizes.empty() ? 1 : sizes[axis], xs = sizes.empty() ? 1 : x_strides[axis], ys = sizes.empty() ? 1 : y_strides[axis];
      if (xs == 1 && ys == 1) {
        std::memcpy(to, from, n * size);
      } else {
        for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * ys * size, from + i * xs * size, size);
      }
      return;
    }
    for (int64_t i = 0; i < sizes[axis]; ++i) Copy(axis + 1, from + i * x_strides[axis] * size, to + i * y_strides[axis] * size);
  }
};

struct ZeroStep : Step {
  const Program* program = nullptr;
  int64_t y = 0, bytes = 0;
  int64_t Units(int64_t images) const override { return images; }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    if (lo < hi) std::memset(program->Data(block, y) + lo * bytes, 0, (hi - lo) * bytes);
    return GRAFFITI_OK;
  }
};

struct ConstantStep : Step {
  const Program* program = nullptr;
  int64_t y = 0;
  std::vector<uint8_t> array;
  int64_t Units(int64_t images) const override { return images; }
  int Run(const Block& block, int64_t lo, int64_t hi) const override {
    const int64_t bytes = static_cast<int64_t>(array.size());
    for (int64_t image = lo; image < hi && bytes > 0; ++image) std::memcpy(program->Data(block, y) + image * bytes, array.data(), bytes);
    return GRAFFITI_OK;
  }
};

}  // namespace

// ---- reading -----------------------------------------------------------------------------------------------------------
class ProgramReader {
 public:
  ProgramReader(const void* blob, int64_t size, int tier) : bytes_(static_cast<const uint8_t*>(blob)), size_(size), tier_(tier) {}

  int Read(Program* program) {
    p_ = program;
    if (bytes_ == nullptr || size_ < 11 * 8) return Bad("it is shorter than its header");
    int64_t header[11];
    for (int64_t& word : header) word = Word();
    if (header[0] != kMagic) return Bad("it does not begin with the magic word");
    if (header[1] != kVersion) return Bad("it has another version");
    for (int i = 2; i < 11; ++i)
      if (header[i] < 0 || header[i] > kMaxElements) return Bad("its header holds a size that cannot be");
    if (header[2] != size_) return Bad("it is truncated or has bytes behind its end");
    const int64_t tensors = header[3], steps = header[4], inputs = header[5], outputs = header[6], values = header[7];
    p_->arena_bytes_ = header[8];
    p_->block_ = header[9];
    data_size_ = header[10];
    int64_t arena;
    if (p_->block_ < 1 || !CheckedProduct({p_->arena_bytes_, p_->block_}, kMaxElements, &arena)) return Bad("its arena has an impossible size");
    if (data_size_ > size_ - 11 * 8) return Bad("its data are longer than itself");
    end_ = size_ - data_size_;
    data_ = bytes_ + end_;
    if (tensors * 4 + inputs + outputs + values * 6 + steps * 2 > (end_ - at_) / 8) return Bad("its tables are longer than itself");
    for (int64_t i = 0; i < inputs; ++i) p_->inputs_.push_back(Word());
    for (int64_t i = 0; i < outputs; ++i) p_->outputs_.push_back(Word());
    for (int64_t i = 0; i < tensors; ++i)
      if (int code = ReadTensor(inputs, outputs)) return code;
    if (int code = CheckBorder(p_->inputs_, Place::kInput)) return code;
    if (int code = CheckBorder(p_->outputs_, Place::kOutput)) return code;
    p_->values_of_step_.resize(steps);
    for (int64_t i = 0; i < values; ++i)
      if (int code = ReadValue(i, steps)) return code;
    for (int64_t i = 0; i < steps; ++i)
      if (int code = ReadStep()) return code;
    return at_ == end_ ? GRAFFITI_OK : Bad("it has words behind its last step");
  }

 private:
  static int Bad(const char* what) { return Fail(GRAFFITI_BAD_PROGRAM, "this is not a whole program: %s; compile the graph again", what); }

  int64_t Word() {
    int64_t word = 0;
    if (at_ + 8 <= (end_ == 0 ? size_ : end_)) std::memcpy(&word, bytes_ + at_, 8);
    at_ += 8;
    return word;
  }

  int ReadTensor(int64_t inputs, int64_t outputs) {
    ProgramTensor t{};
    t.type = static_cast<int>(Word());
    const int64_t place = Word();
    t.offset = Word();
    t.elements = Word();
    t.place = static_cast<Place>(place);
    if (TypeSize(t.type) == 0 || place < 0 || place > 2 || t.offset < 0 || t.elements < 0 || t.elements > kMaxElements) return Bad("a tensor is malformed");
    if (t.place == Place::kArena && (t.offset % 64 != 0 || t.offset > p_->arena_bytes_ || t.elements * TypeSize(t.type) > p_->arena_bytes_ - t.offset))
      return Bad("a tensor lies outside the arena");
    if (t.place != Place::kArena && t.offset >= (t.place == Place::kInput ? inputs : outputs)) return Bad("a tensor names a missing input or output");
    p_->tensors_.push_back(t);
    return GRAFFITI_OK;
  }

  int CheckBorder(const std::vector<int64_t>& ids, Place place) const {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!IsTensor(ids[i])) return Bad("an input or output is no tensor");
      const ProgramTensor& t = p_->tensors_[ids[i]];
      if (t.place != place || t.offset != static_cast<int64_t>(i)) return Bad("an input or output does not lie where it should");
    }
    return GRAFFITI_OK;
  }

  int ReadValue(int64_t index, int64_t steps) {
    ProgramValue v{};
    for (int64_t* word : {&v.step, &v.tensor, &v.offset, &v.rows, &v.inner, &v.stride}) *word = Word();
    int64_t last;
    if (v.step < 0 || v.step >= steps || !IsTensor(v.tensor) || v.offset < 0 || v.rows < 0 || v.inner < 0 || v.stride < 0 ||
        (v.rows > 0 && v.inner > 0 && (!CheckedProduct({v.rows - 1, v.stride}, kMaxElements, &last) || last + v.offset + v.inner > p_->tensors_[v.tensor].elements)))
      return Bad("a value lies outside its tensor");
    p_->values_.push_back(v);
    p_->values_of_step_[v.step].push_back(static_cast<std::size_t>(index));
    return GRAFFITI_OK;
  }

  bool IsTensor(int64_t id) const { return id >= 0 && id < static_cast<int64_t>(p_->tensors_.size()); }
  const ProgramTensor& T(int64_t id) const { return p_->tensors_[id]; }
  bool Writable(int64_t id) const { return IsTensor(id) && T(id).place != Place::kInput; }

  const uint8_t* DataAt(int64_t offset, int64_t bytes) const {
    return offset >= 0 && bytes >= 0 && offset % 8 == 0 && offset <= data_size_ && bytes <= data_size_ - offset ? data_ + offset : nullptr;
  }
  // Copied: the blob may lie anywhere in memory.
  template <typename T>
  bool Array(int64_t offset, int64_t count, std::vector<T>* out) const {
    const uint8_t* from = count > kMaxElements ? nullptr : DataAt(offset, count * static_cast<int64_t>(sizeof(T)));
    if (from == nullptr) return false;
    out->resize(count);
    if (count > 0) std::memcpy(out->data(), from, count * sizeof(T));
    return true;
  }

  // shift offset (< 0: none), shift count, rounding, low, high, type
  bool ReadRequantization() {
    const int64_t offset = Word(), count = Word(), rounding = Word(), low = Word(), high = Word(), type = Word();
    has_to_ = offset >= 0;
    if (!has_to_) return true;
    if (low != static_cast<int32_t>(low) || high != static_cast<int32_t>(high) || !Array(offset, count, &shifts_)) return false;
    to_ = {shifts_.data(), count, static_cast<int32_t>(rounding), static_cast<int32_t>(low), static_cast<int32_t>(high), static_cast<int32_t>(type)};
    return true;
  }
  const graffiti_requantization* To() const { return has_to_ ? &to_ : nullptr; }

  int ReadStep() {
    using Reader = int (ProgramReader::*)();
    static const Reader kReaders[] = {nullptr, &ProgramReader::ReadQuantize, &ProgramReader::ReadDequantize, &ProgramReader::ReadConv,
                                      &ProgramReader::ReadBinary, &ProgramReader::ReadRequantize, &ProgramReader::ReadLookup,
                                      &ProgramReader::ReadMaxPool, &ProgramReader::ReadMove, &ProgramReader::ReadZero, &ProgramReader::ReadConstant,
                                      &ProgramReader::ReadRescale, &ProgramReader::ReadAveragePool};
    const int64_t kind = Word(), words = Word(), begin = at_;
    if (kind < 1 || kind >= static_cast<int64_t>(sizeof(kReaders) / sizeof(kReaders[0])) || words < 0 || words > (end_ - at_) / 8)
      return Bad("a step is of an unknown kind or runs over the end");
    if (int code = (this->*kReaders[kind])()) return code;
    return at_ == begin + 8 * words ? GRAFFITI_OK : Bad("a step has another length than it says");
  }

  template <typename S>
  int Add(std::unique_ptr<S> step) {
    step->program = p_;
    p_->steps_.push_back(std::move(step));
    return GRAFFITI_OK;
  }
  bool SameElements(int64_t x, int64_t y) const { return IsTensor(x) && Writable(y) && T(x).elements == T(y).elements; }

  int ReadQuantize() {  // x, y, exponent, rounding, low, high
    auto step = std::make_unique<QuantizeStep>();
    step->x = Word();
    step->y = Word();
    const int64_t exponent = Word(), rounding = Word(), low = Word(), high = Word();
    if (!SameElements(step->x, step->y) || T(step->x).type != GRAFFITI_F32) return Bad("a quantize step has unfit tensors");
    step->elements = T(step->x).elements;
    if (int code = step->op.Init(static_cast<int32_t>(std::clamp<int64_t>(exponent, -1000, 1000)), static_cast<int>(rounding), static_cast<int32_t>(low),
                                 static_cast<int32_t>(high), T(step->y).type, tier_))
      return code;
    return Add(std::move(step));
  }

  int ReadDequantize() {  // x, y, channels, exponents, their count
    auto step = std::make_unique<DequantizeStep>();
    step->x = Word();
    step->y = Word();
    const int64_t channels = Word(), offset = Word(), count = Word();
    std::vector<int32_t> exponents;
    if (!SameElements(step->x, step->y) || T(step->y).type != GRAFFITI_F32 || !Array(offset, count, &exponents) || channels < 1 || T(step->x).elements % channels)
      return Bad("a dequantize step has unfit tensors");
    step->elements = T(step->x).elements;
    if (int code = step->op.Init(channels, T(step->x).type, exponents.data(), count, tier_)) return code;
    return Add(std::move(step));
  }

  int ReadConv() {  // x, y, y offset, y stride, the words of graffiti_conv_shape, kernel type, kernel, bias (< 0: none), requantization
    auto step = std::make_unique<ConvStep>();
    for (int64_t* word : {&step->x, &step->y, &step->y_offset, &step->y_stride}) *word = Word();
    graffiti_conv_shape s{};
    for (int64_t* word : {&s.height, &s.width, &s.channels, &s.out_height, &s.out_width, &s.out_channels, &s.kernel_height, &s.kernel_width, &s.stride_h,
                          &s.stride_w, &s.dilation_h, &s.dilation_w, &s.pad_top, &s.pad_left, &s.groups, &s.spread_h, &s.spread_w})
      *word = Word();
    const int64_t kernel_type = Word(), kernel_offset = Word(), bias_offset = Word();
    int64_t x_elements, pixels, kernel_count;
    if (!ReadRequantization() || !IsTensor(step->x) || !Writable(step->y) || !CheckedProduct({s.height, s.width, s.channels}, kMaxElements, &x_elements) ||
        !CheckedProduct({s.out_height, s.out_width}, kMaxElements, &pixels) || s.groups < 1 || s.channels < 1 ||
        !CheckedProduct({s.kernel_height, s.kernel_width, s.channels / s.groups, s.out_channels}, kMaxElements, &kernel_count) || T(step->x).elements != x_elements)
      return Bad("a conv step has unfit tensors");
    const ProgramTensor& y = T(step->y);
    int64_t y_elements;
    if (step->y_offset < 0 || step->y_stride < s.out_channels || step->y_offset + s.out_channels > step->y_stride ||
        !CheckedProduct({pixels, step->y_stride}, kMaxElements, &y_elements) || y_elements != y.elements || !IsCodeType(static_cast<int>(kernel_type)))
      return Bad("a conv step writes outside its tensor");
    std::vector<uint8_t> kernel;  // of any type: 8-byte aligned like every allocation
    std::vector<int32_t> bias;
    if (!Array(kernel_offset, kernel_count * TypeSize(static_cast<int>(kernel_type)), &kernel) || (bias_offset >= 0 && !Array(bias_offset, s.out_channels, &bias)))
      return Bad("a conv step names weights outside the data");
    if (int code = Conv::Create(s, T(step->x).type, kernel.data(), static_cast<int>(kernel_type), bias_offset < 0 ? nullptr : bias.data(), To(), tier_, &step->op))
      return code;
    if (step->op->y_type() != y.type) return Bad("a conv step has another output type than its tensor");
    return Add(std::move(step));
  }

  int ReadBinary() {  // operation, x, y (< 0: constant), constant, y type, y count, out, channels, requantization
    auto step = std::make_unique<BinaryStep>();
    const int64_t operation = Word();
    step->x = Word();
    step->y = Word();
    const int64_t constant = Word();
    int64_t y_type = Word(), y_count = step->y_count = Word();
    step->out = Word();
    const int64_t channels = Word();
    if (!ReadRequantization() || !SameElements(step->x, step->out) || channels < 1 || T(step->x).elements % channels) return Bad("an elementwise step has unfit tensors");
    step->elements = T(step->x).elements;
    if (step->y >= 0) {
      if (!IsTensor(step->y) || T(step->y).elements != step->elements) return Bad("an elementwise step has tensors of two sizes");
      y_type = T(step->y).type;
    } else {
      const int64_t bytes = IsCodeType(static_cast<int>(y_type)) && y_count >= 1 && y_count <= kMaxElements ? y_count * TypeSize(static_cast<int>(y_type)) : -1;
      const uint8_t* from = DataAt(constant, bytes);
      if (from == nullptr || step->elements % y_count) return Bad("an elementwise step names a constant outside the data");
      step->constant = AllocateAligned<uint8_t>(bytes);
      std::memcpy(step->constant.get(), from, bytes);
    }
    if (int code = step->op.Init(static_cast<int>(operation), channels, T(step->x).type, static_cast<int>(y_type), To(), tier_)) return code;
    if (step->op.out_type != T(step->out).type) return Bad("an elementwise step has another output type than its tensor");
    return Add(std::move(step));
  }

  int ReadRequantize() {  // x, y, channels, requantization
    auto step = std::make_unique<RequantizeStep>();
    step->x = Word();
    step->y = Word();
    const int64_t channels = Word();
    if (!ReadRequantization() || !SameElements(step->x, step->y) || channels < 1 || T(step->x).elements % channels) return Bad("a requantize step has unfit tensors");
    step->elements = T(step->x).elements;
    if (int code = step->op.Init(T(step->x).type, channels, To(), tier_)) return code;
    if (step->op.to.type() != T(step->y).type) return Bad("a requantize step has another output type than its tensor");
    return Add(std::move(step));
  }

  int ReadLookup() {  // x, y, low, table, entries
    auto step = std::make_unique<LookupStep>();
    step->x = Word();
    step->y = Word();
    const int64_t low = Word(), table = Word(), entries = Word();
    if (!SameElements(step->x, step->y)) return Bad("a lookup step has unfit tensors");
    const uint8_t* from = entries < 1 || entries > kMaxElements ? nullptr : DataAt(table, entries * TypeSize(T(step->y).type));
    if (from == nullptr) return Bad("a lookup step names a table outside the data");
    step->elements = T(step->x).elements;
    if (int code = step->op.Init(T(step->x).type, static_cast<int32_t>(low), from, T(step->y).type, entries)) return code;
    return Add(std::move(step));
  }

  graffiti_pool_shape ReadPoolShape() {
    graffiti_pool_shape s{};
    for (int64_t* word : {&s.height, &s.width, &s.channels, &s.out_height, &s.out_width, &s.pool_height, &s.pool_width, &s.stride_h, &s.stride_w, &s.pad_top, &s.pad_left})
      *word = Word();
    return s;
  }

  bool FitsPool(int64_t x, int64_t y, const graffiti_pool_shape& s) const {
    int64_t x_elements, y_elements;
    return IsTensor(x) && Writable(y) && CheckedProduct({s.height, s.width, s.channels}, kMaxElements, &x_elements) &&
           CheckedProduct({s.out_height, s.out_width, s.channels}, kMaxElements, &y_elements) && T(x).elements == x_elements && T(y).elements == y_elements;
  }

  int ReadAveragePool() {  // x, y, the words of graffiti_pool_shape, whether it divides, requantization
    auto step = std::make_unique<AveragePoolStep>();
    step->x = Word();
    step->y = Word();
    const graffiti_pool_shape s = ReadPoolShape();
    const int64_t divide = Word();
    if (!ReadRequantization() || !FitsPool(step->x, step->y, s)) return Bad("an average pool step has unfit tensors");
    if (int code = step->op.Init(s, T(step->x).type, To(), divide != 0, tier_)) return code;
    if (step->op.y_type != T(step->y).type) return Bad("an average pool step has another output type than its tensor");
    return Add(std::move(step));
  }

  int ReadMaxPool() {  // x, y, the words of graffiti_pool_shape
    auto step = std::make_unique<MaxPoolStep>();
    step->x = Word();
    step->y = Word();
    const graffiti_pool_shape s = ReadPoolShape();
    if (!FitsPool(step->x, step->y, s) || T(step->x).type != T(step->y).type) return Bad("a max pool step has unfit tensors");
    if (int code = step->op.Init(s, T(step->x).type, tier_)) return code;
    return Add(std::move(step));
  }

  int ReadMove() {  // x, y, x offset, y offset, rank, sizes, x strides, y strides
    auto step = std::make_unique<MoveStep>();
    for (int64_t* word : {&step->x, &step->y, &step->x_offset, &step->y_offset}) *word = Word();
    const int64_t rank = Word();
    if (rank < 0 || rank > 16 || !IsTensor(step->x) || !Writable(step->y) || TypeSize(T(step->x).type) != TypeSize(T(step->y).type)) return Bad("a move step has unfit tensors");
    for (std::vector<int64_t>* list : {&step->sizes, &step->x_strides, &step->y_strides})
      for (int64_t i = 0; i < rank; ++i) list->push_back(Word());
    step->x_elements = T(step->x).elements;
    step->y_elements = T(step->y).elements;
    step->size = TypeSize(T(step->x).type);
    int64_t x_first = step->x_offset, x_last = step->x_offset, y_last = step->y_offset;  // a flip steps backwards through x
    bool empty = false;
    for (int64_t i = 0; i < rank; ++i) {
      int64_t x_span, y_span;
      if (step->sizes[i] < 0 || step->x_strides[i] < -kMaxElements ||
          !CheckedProduct({std::max<int64_t>(step->sizes[i] - 1, 0), std::abs(step->x_strides[i])}, kMaxElements, &x_span) ||
          !CheckedProduct({std::max<int64_t>(step->sizes[i] - 1, 0), step->y_strides[i]}, kMaxElements, &y_span))
        return Bad("a move step is malformed");
      empty |= step->sizes[i] == 0;
      (step->x_strides[i] < 0 ? x_first : x_last) += step->x_strides[i] < 0 ? -x_span : x_span;
      y_last += y_span;
    }
    if (step->x_offset < 0 || step->y_offset < 0 || (!empty && (x_first < 0 || x_last >= step->x_elements || y_last >= step->y_elements))) return Bad("a move step leaves its tensors");
    if (empty) {
      step->sizes = {0};
      step->x_strides = step->y_strides = {1};
    }
    return Add(std::move(step));
  }

  int ReadZero() {  // y
    auto step = std::make_unique<ZeroStep>();
    step->y = Word();
    if (!Writable(step->y)) return Bad("a zero step has no tensor");
    step->bytes = T(step->y).elements * TypeSize(T(step->y).type);
    return Add(std::move(step));
  }

  int ReadConstant() {  // y, data
    auto step = std::make_unique<ConstantStep>();
    step->y = Word();
    const int64_t offset = Word();
    if (!Writable(step->y) || !Array(offset, T(step->y).elements * TypeSize(T(step->y).type), &step->array)) return Bad("a constant lies outside the data");
    return Add(std::move(step));
  }

  int ReadRescale() {  // x, y, how many numbers, scales, offsets
    auto step = std::make_unique<RescaleStep>();
    step->x = Word();
    step->y = Word();
    const int64_t count = Word(), scale = Word(), offset = Word();
    std::vector<float> scales, offsets;
    if (!SameElements(step->x, step->y) || T(step->x).type != GRAFFITI_F32 || T(step->y).type != GRAFFITI_F32 || count < 1 || T(step->x).elements % count ||
        !Array(scale, count, &scales) || !Array(offset, count, &offsets))
      return Bad("a rescale step has unfit tensors");
    step->elements = T(step->x).elements;
    if (int code = step->op.Init(std::move(scales), std::move(offsets), tier_)) return code;
    return Add(std::move(step));
  }

  const uint8_t* bytes_;
  const int64_t size_;
  const int tier_;
  int64_t at_ = 0, end_ = 0, data_size_ = 0;
  const uint8_t* data_ = nullptr;
  Program* p_ = nullptr;
  bool has_to_ = false;
  std::vector<int32_t> shifts_;
  graffiti_requantization to_{};
};

int Program::Create(const void* blob, int64_t size, int tier, std::unique_ptr<Program>* program) {
  std::unique_ptr<Program> p(new Program);
  if (int code = ProgramReader(blob, size, tier).Read(p.get())) return code;
  *program = std::move(p);
  return GRAFFITI_OK;
}

}  // namespace graffiti
