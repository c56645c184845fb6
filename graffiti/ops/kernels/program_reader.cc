// Reads a blob into a Program: the words by program_format.inc, every number checked, the weights packed for the tier.
#include <algorithm>
#include <cstring>

#include "program.h"
#include "program_format.h"
#include "program_steps.h"

namespace graffiti {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;

int Bad(const char* what) {
  return Fail(GRAFFITI_BAD_PROGRAM, "this is not a whole program: %s; compile the graph again", what);
}

graffiti_conv_shape ShapeOf(const format::ConvShape& words) {
  graffiti_conv_shape shape{};
  CopyFields(words, &shape);
  return shape;
}

graffiti_pool_shape ShapeOf(const format::PoolShape& words) {
  graffiti_pool_shape shape{};
  CopyFields(words, &shape);
  return shape;
}

}  // namespace

class ProgramReader {
 public:
  ProgramReader(const void* blob, int64_t size, int tier)
      : bytes_(static_cast<const uint8_t*>(blob)), size_(size), tier_(tier) {}

  int Read(Program* program) {
    p_ = program;
    if (bytes_ == nullptr || size_ < 8 * format::kWordsOfHeader) return Bad("it is shorter than its header");
    end_ = size_;
    format::Header h;
    ReadFields(*this, &h);
    if (h.magic != format::kMagic) return Bad("it does not begin with the magic word");
    if (h.version != format::kVersion) return Bad("it has another version");
    for (int64_t size : {h.size, h.tensors, h.steps, h.inputs, h.outputs, h.values, h.arena, h.block, h.data})
      if (size < 0 || size > kMaxElements) return Bad("its header holds a size that cannot be");
    if (h.size != size_) return Bad("it is truncated or has bytes behind its end");
    p_->arena_bytes_ = h.arena;
    p_->block_ = h.block;
    int64_t arena;
    if (h.block < 1 || !CheckedProduct({h.arena, h.block}, kMaxElements, &arena))
      return Bad("its arena has an impossible size");
    if (h.data > size_ - 8 * format::kWordsOfHeader) return Bad("its data are longer than itself");
    data_size_ = h.data;
    end_ = size_ - data_size_;
    data_ = bytes_ + end_;
    const int64_t words =
        h.tensors * format::kWordsOfTensor + h.inputs + h.outputs + h.values * format::kWordsOfValue + h.steps * 2;
    if (words > (end_ - at_) / 8) return Bad("its tables are longer than itself");
    for (int64_t i = 0; i < h.inputs; ++i) p_->inputs_.push_back(Next());
    for (int64_t i = 0; i < h.outputs; ++i) p_->outputs_.push_back(Next());
    for (int64_t i = 0; i < h.tensors; ++i)
      if (int code = ReadTensor(h.inputs, h.outputs)) return code;
    if (int code = CheckBorder(p_->inputs_, Place::kInput)) return code;
    if (int code = CheckBorder(p_->outputs_, Place::kOutput)) return code;
    p_->values_of_step_.resize(h.steps);
    for (int64_t i = 0; i < h.values; ++i)
      if (int code = ReadValue(i, h.steps)) return code;
    for (int64_t i = 0; i < h.steps; ++i)
      if (int code = ReadStep()) return code;
    return at_ == end_ ? GRAFFITI_OK : Bad("it has words behind its last step");
  }

  // The next word; 0 past the end, which the lengths show.
  int64_t Next() {
    int64_t word = 0;
    if (at_ + 8 <= end_) std::memcpy(&word, bytes_ + at_, 8);
    at_ += 8;
    return word;
  }

 private:
  int ReadTensor(int64_t inputs, int64_t outputs) {
    format::Tensor w;
    ReadFields(*this, &w);
    const ProgramTensor t{static_cast<int>(w.type), static_cast<Place>(w.place), w.offset, w.elements};
    if (TypeSize(t.type) == 0 || w.place < 0 || w.place > 2 || t.offset < 0 || t.elements < 0 ||
        t.elements > kMaxElements)
      return Bad("a tensor is malformed");
    if (t.place == Place::kArena) {
      const bool fits = t.offset <= p_->arena_bytes_ && t.elements * TypeSize(t.type) <= p_->arena_bytes_ - t.offset;
      if (t.offset % 64 != 0 || !fits) return Bad("a tensor lies outside the arena");
    } else if (t.offset >= (t.place == Place::kInput ? inputs : outputs)) {
      return Bad("a tensor names a missing input or output");
    }
    p_->tensors_.push_back(t);
    return GRAFFITI_OK;
  }

  int CheckBorder(const std::vector<int64_t>& ids, Place place) const {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!IsTensor(ids[i])) return Bad("an input or output is no tensor");
      const ProgramTensor& t = p_->tensors_[ids[i]];
      if (t.place != place || t.offset != static_cast<int64_t>(i))
        return Bad("an input or output does not lie where it should");
    }
    return GRAFFITI_OK;
  }

  int ReadValue(int64_t index, int64_t steps) {
    format::Value w;
    ReadFields(*this, &w);
    if (w.step < 0 || w.step >= steps || !IsTensor(w.tensor)) return Bad("a value lies outside its tensor");
    for (int64_t size : {w.offset, w.rows, w.inner, w.stride})
      if (size < 0 || size > kMaxElements) return Bad("a value lies outside its tensor");
    int64_t last = 0;
    if (w.rows > 0 && w.inner > 0 &&
        (!CheckedProduct({w.rows - 1, w.stride}, kMaxElements, &last) ||
         last + w.offset + w.inner > T(w.tensor).elements))
      return Bad("a value lies outside its tensor");
    p_->values_.push_back({w.step, w.tensor, w.offset, w.rows, w.inner, w.stride});
    p_->values_of_step_[w.step].push_back(static_cast<std::size_t>(index));
    return GRAFFITI_OK;
  }

  int ReadStep() {
    const int64_t kind = Next(), words = Next();
    if (words < 0 || words > (end_ - at_) / 8) return Bad("a step is of an unknown kind or runs over the end");
    const int64_t end = at_ + 8 * words;
    switch (kind) {
#define GRAFFITI_PROGRAM(magic, version)
#define GRAFFITI_RECORD(Name, fields)
#define GRAFFITI_STEP(kind, Name, fields) \
  case kind: return ReadStepOf<format::Name>(end);
#include "program_format.inc"
      default: return Bad("a step is of an unknown kind or runs over the end");
    }
  }

  template <class Words>
  int ReadStepOf(int64_t end) {
    Words words;
    ReadFields(*this, &words);
    return at_ == end ? Make(words) : Bad("a step has another length than it says");
  }

  // ---- what the words name ----
  bool IsTensor(int64_t id) const { return id >= 0 && id < static_cast<int64_t>(p_->tensors_.size()); }
  const ProgramTensor& T(int64_t id) const { return p_->tensors_[id]; }
  bool Writable(int64_t id) const { return IsTensor(id) && T(id).place != Place::kInput; }
  bool SameElements(int64_t x, int64_t y) const { return IsTensor(x) && Writable(y) && T(x).elements == T(y).elements; }
  bool Whole(int64_t x, int64_t channels) const { return channels >= 1 && T(x).elements % channels == 0; }

  const uint8_t* DataAt(int64_t offset, int64_t bytes) const {
    const bool inside =
        offset >= 0 && bytes >= 0 && offset % 8 == 0 && offset <= data_size_ && bytes <= data_size_ - offset;
    return inside ? data_ + offset : nullptr;
  }

  // Copied: the blob may lie anywhere in memory.
  template <typename Element>
  bool Array(int64_t offset, int64_t count, std::vector<Element>* out) const {
    const uint8_t* from =
        count > kMaxElements ? nullptr : DataAt(offset, count * static_cast<int64_t>(sizeof(Element)));
    if (from == nullptr) return false;
    out->resize(count);
    if (count > 0) std::memcpy(out->data(), from, count * sizeof(Element));
    return true;
  }

  // A requantization with its shifts, which live as long as this.
  struct Target {
    bool given = false;
    std::vector<int32_t> shifts;
    graffiti_requantization numbers{};
    const graffiti_requantization* get() const { return given ? &numbers : nullptr; }
  };
  bool Read(const format::Requantization& w, Target* to) const {
    to->given = w.shift >= 0;
    if (!to->given) return true;
    const int32_t low = static_cast<int32_t>(w.low), high = static_cast<int32_t>(w.high);
    if (w.low != low || w.high != high || !Array(w.shift, w.count, &to->shifts)) return false;
    to->numbers = {to->shifts.data(),           w.count, static_cast<int32_t>(w.rounding), low, high,
                   static_cast<int32_t>(w.type)};
    return true;
  }

  template <typename S>
  int Add(std::unique_ptr<S> step) {
    step->program = p_;
    p_->steps_.push_back(std::move(step));
    return GRAFFITI_OK;
  }

  // ---- one step each ----
  int Make(const format::Quantize& w) {
    auto step = std::make_unique<QuantizeStep>();
    if (!SameElements(w.x, w.y) || T(w.x).type != GRAFFITI_F32) return Bad("a quantize step has unfit tensors");
    step->x = w.x;
    step->y = w.y;
    step->elements = T(w.x).elements;
    const int32_t exponent = static_cast<int32_t>(std::clamp<int64_t>(w.exponent, -1000, 1000));
    const int32_t low = static_cast<int32_t>(w.low), high = static_cast<int32_t>(w.high);
    if (int code = step->op.Init(exponent, static_cast<int>(w.rounding), low, high, T(w.y).type, tier_)) return code;
    return Add(std::move(step));
  }

  int Make(const format::Dequantize& w) {
    auto step = std::make_unique<DequantizeStep>();
    std::vector<int32_t> exponents;
    if (!SameElements(w.x, w.y) || T(w.y).type != GRAFFITI_F32 || !Array(w.exponents, w.count, &exponents) ||
        !Whole(w.x, w.channels))
      return Bad("a dequantize step has unfit tensors");
    step->x = w.x;
    step->y = w.y;
    step->elements = T(w.x).elements;
    if (int code = step->op.Init(w.channels, T(w.x).type, exponents.data(), w.count, tier_)) return code;
    return Add(std::move(step));
  }

  int Make(const format::Conv& w) {
    auto step = std::make_unique<ConvStep>();
    const graffiti_conv_shape s = ShapeOf(w.shape);
    Target to;
    int64_t x_elements, y_elements, pixels, kernel_count;
    if (!Read(w.to, &to) || !IsTensor(w.x) || !Writable(w.y) || s.groups < 1 || s.channels < 1 ||
        !CheckedProduct({s.height, s.width, s.channels}, kMaxElements, &x_elements) || T(w.x).elements != x_elements ||
        !CheckedProduct({s.out_height, s.out_width}, kMaxElements, &pixels) ||
        !CheckedProduct({s.kernel_height, s.kernel_width, s.channels / s.groups, s.out_channels}, kMaxElements,
                        &kernel_count))
      return Bad("a conv step has unfit tensors");
    const int kernel_type = static_cast<int>(w.kernel_type);
    if (w.y_offset < 0 || w.y_stride < s.out_channels || w.y_offset > w.y_stride - s.out_channels ||
        !IsCodeType(kernel_type) || !CheckedProduct({pixels, w.y_stride}, kMaxElements, &y_elements) ||
        y_elements != T(w.y).elements)
      return Bad("a conv step writes outside its tensor");
    std::vector<uint8_t> kernel;  // of any type: 8-byte aligned like every allocation
    std::vector<int32_t> bias;
    if (!Array(w.kernel, kernel_count * TypeSize(kernel_type), &kernel) ||
        (w.bias >= 0 && !Array(w.bias, s.out_channels, &bias)))
      return Bad("a conv step names weights outside the data");
    const int32_t* biases = w.bias < 0 ? nullptr : bias.data();
    if (int code = Conv::Create(s, T(w.x).type, kernel.data(), kernel_type, biases, to.get(), tier_, &step->op))
      return code;
    if (step->op->y_type() != T(w.y).type) return Bad("a conv step has another output type than its tensor");
    step->x = w.x;
    step->y = w.y;
    step->y_offset = w.y_offset;
    step->y_stride = w.y_stride;
    return Add(std::move(step));
  }

  int Make(const format::Binary& w) {
    auto step = std::make_unique<BinaryStep>();
    Target to;
    if (!Read(w.to, &to) || !SameElements(w.x, w.out) || !Whole(w.x, w.channels))
      return Bad("an elementwise step has unfit tensors");
    step->x = w.x;
    step->y = w.y;
    step->out = w.out;
    step->y_count = w.y_count;
    step->elements = T(w.x).elements;
    int y_type = static_cast<int>(w.y_type);
    if (w.y >= 0) {
      if (!IsTensor(w.y) || T(w.y).elements != step->elements)
        return Bad("an elementwise step has tensors of two sizes");
      y_type = T(w.y).type;
    } else {
      const bool sized =
          IsCodeType(y_type) && w.y_count >= 1 && w.y_count <= kMaxElements && step->elements % w.y_count == 0;
      const int64_t bytes = sized ? w.y_count * TypeSize(y_type) : -1;
      const uint8_t* from = DataAt(w.constant, bytes);
      if (from == nullptr) return Bad("an elementwise step names a constant outside the data");
      step->constant = AllocateAligned<uint8_t>(bytes);
      std::memcpy(step->constant.get(), from, bytes);
    }
    if (int code = step->op.Init(static_cast<int>(w.operation), w.channels, T(w.x).type, y_type, to.get(), tier_))
      return code;
    if (step->op.out_type != T(w.out).type) return Bad("an elementwise step has another output type than its tensor");
    return Add(std::move(step));
  }

  int Make(const format::Requantize& w) {
    auto step = std::make_unique<RequantizeStep>();
    Target to;
    if (!Read(w.to, &to) || !SameElements(w.x, w.y) || !Whole(w.x, w.channels))
      return Bad("a requantize step has unfit tensors");
    step->x = w.x;
    step->y = w.y;
    step->elements = T(w.x).elements;
    if (int code = step->op.Init(T(w.x).type, w.channels, to.get(), tier_)) return code;
    if (step->op.to.type() != T(w.y).type) return Bad("a requantize step has another output type than its tensor");
    return Add(std::move(step));
  }

  int Make(const format::Lookup& w) {
    auto step = std::make_unique<LookupStep>();
    if (!SameElements(w.x, w.y)) return Bad("a lookup step has unfit tensors");
    const int type = T(w.y).type;
    const uint8_t* table =
        w.entries < 1 || w.entries > kMaxElements ? nullptr : DataAt(w.table, w.entries * TypeSize(type));
    if (table == nullptr) return Bad("a lookup step names a table outside the data");
    step->x = w.x;
    step->y = w.y;
    step->elements = T(w.x).elements;
    if (int code = step->op.Init(T(w.x).type, static_cast<int32_t>(w.low), table, type, w.entries)) return code;
    return Add(std::move(step));
  }

  bool FitsPool(int64_t x, int64_t y, const format::PoolShape& s) const {
    int64_t x_elements, y_elements;
    return IsTensor(x) && Writable(y) && CheckedProduct({s.height, s.width, s.channels}, kMaxElements, &x_elements) &&
           CheckedProduct({s.out_height, s.out_width, s.channels}, kMaxElements, &y_elements) &&
           T(x).elements == x_elements && T(y).elements == y_elements;
  }

  int Make(const format::AveragePool& w) {
    auto step = std::make_unique<AveragePoolStep>();
    Target to;
    if (!Read(w.to, &to) || !FitsPool(w.x, w.y, w.shape)) return Bad("an average pool step has unfit tensors");
    step->x = w.x;
    step->y = w.y;
    if (int code = step->op.Init(ShapeOf(w.shape), T(w.x).type, to.get(), w.divide != 0, tier_)) return code;
    if (step->op.y_type != T(w.y).type) return Bad("an average pool step has another output type than its tensor");
    return Add(std::move(step));
  }

  int Make(const format::MaxPool& w) {
    auto step = std::make_unique<MaxPoolStep>();
    if (!FitsPool(w.x, w.y, w.shape) || T(w.x).type != T(w.y).type) return Bad("a max pool step has unfit tensors");
    step->x = w.x;
    step->y = w.y;
    if (int code = step->op.Init(ShapeOf(w.shape), T(w.x).type, tier_)) return code;
    return Add(std::move(step));
  }

  int Make(const format::Move& w) {
    auto step = std::make_unique<MoveStep>();
    if (w.rank < 0 || w.rank > format::kMaxNumbers || !IsTensor(w.x) || !Writable(w.y) ||
        TypeSize(T(w.x).type) != TypeSize(T(w.y).type))
      return Bad("a move step has unfit tensors");
    for (int64_t offset : {w.x_offset, w.y_offset})
      if (offset < 0 || offset > kMaxElements) return Bad("a move step leaves its tensors");
    step->x = w.x;
    step->y = w.y;
    step->x_offset = w.x_offset;
    step->y_offset = w.y_offset;
    step->x_elements = T(w.x).elements;
    step->y_elements = T(w.y).elements;
    step->size = TypeSize(T(w.x).type);
    step->sizes = w.sizes;
    step->x_strides = w.x_strides;
    step->y_strides = w.y_strides;
    int64_t x_first = w.x_offset, x_last = w.x_offset, y_last = w.y_offset;  // a flip steps backwards through x
    bool empty = false;
    for (int64_t i = 0; i < w.rank; ++i) {
      const int64_t size = w.sizes[i], steps = std::max<int64_t>(size - 1, 0), x_stride = w.x_strides[i];
      int64_t x_span, y_span;
      if (size < 0 || x_stride < -kMaxElements || !CheckedProduct({steps, std::abs(x_stride)}, kMaxElements, &x_span) ||
          !CheckedProduct({steps, w.y_strides[i]}, kMaxElements, &y_span))
        return Bad("a move step is malformed");
      empty |= size == 0;
      (x_stride < 0 ? x_first : x_last) += x_stride < 0 ? -x_span : x_span;
      y_last += y_span;
    }
    const bool inside = x_first >= 0 && x_last < step->x_elements && y_last < step->y_elements;
    if (!empty && !inside) return Bad("a move step leaves its tensors");
    if (empty) {
      step->sizes = {0};
      step->x_strides = step->y_strides = {1};
    }
    return Add(std::move(step));
  }

  int Make(const format::Zero& w) {
    auto step = std::make_unique<ZeroStep>();
    if (!Writable(w.y)) return Bad("a zero step has no tensor");
    step->y = w.y;
    step->bytes = T(w.y).elements * TypeSize(T(w.y).type);
    return Add(std::move(step));
  }

  int Make(const format::Constant& w) {
    auto step = std::make_unique<ConstantStep>();
    if (!Writable(w.y) || !Array(w.array, T(w.y).elements * TypeSize(T(w.y).type), &step->array))
      return Bad("a constant lies outside the data");
    step->y = w.y;
    return Add(std::move(step));
  }

  int Make(const format::Rescale& w) {
    auto step = std::make_unique<RescaleStep>();
    std::vector<float> scales, offsets;
    if (!SameElements(w.x, w.y) || T(w.x).type != GRAFFITI_F32 || T(w.y).type != GRAFFITI_F32 || !Whole(w.x, w.count) ||
        !Array(w.scale, w.count, &scales) || !Array(w.offset, w.count, &offsets))
      return Bad("a rescale step has unfit tensors");
    step->x = w.x;
    step->y = w.y;
    step->elements = T(w.x).elements;
    if (int code = step->op.Init(std::move(scales), std::move(offsets), tier_)) return code;
    return Add(std::move(step));
  }

  const uint8_t* bytes_;
  const int64_t size_;
  const int tier_;
  int64_t at_ = 0, end_ = 0, data_size_ = 0;
  const uint8_t* data_ = nullptr;
  Program* p_ = nullptr;
};

int Program::Create(const void* blob, int64_t size, int tier, std::unique_ptr<Program>* program) {
  std::unique_ptr<Program> p(new Program);
  if (int code = ProgramReader(blob, size, tier).Read(p.get())) return code;
  *program = std::move(p);
  return GRAFFITI_OK;
}

}  // namespace graffiti
