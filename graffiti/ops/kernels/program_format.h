// The rows of program_format.inc as structs of words, and ReadFields(), which fills one from a source with Next().
#ifndef GRAFFITI_OPS_KERNELS_PROGRAM_FORMAT_H_
#define GRAFFITI_OPS_KERNELS_PROGRAM_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "c_api.h"

namespace graffiti {
namespace format {

constexpr int64_t kMaxNumbers = 16;  // of one list

// What a field is means nothing to who only wants its word.
#define NUMBER(name) WORD(name)
#define READ(name) WORD(name)
#define WRITE(name) WORD(name)
#define TYPE(name) WORD(name)
#define ROUNDING(name) WORD(name)
#define OPERATION(name) WORD(name)
#define DATA(name) WORD(name)
#define OPTIONAL_READ(name) WORD(name)
#define OPTIONAL_DATA(name) WORD(name)

#define WORD(name) int64_t name = 0;
#define NUMBERS(name, count) std::vector<int64_t> name;
#define RECORD(Type, name) Type name;
#define GRAFFITI_PROGRAM(magic, version) constexpr int64_t kMagic = magic, kVersion = version;
#define GRAFFITI_RECORD(Name, fields) struct Name { fields };
#define GRAFFITI_STEP(kind, Name, fields) struct Name { fields };
#include "program_format.inc"
#undef WORD
#undef NUMBERS
#undef RECORD

// A list whose count cannot be stays empty; who uses it checks the count.
#define WORD(name) to->name = words.Next();
#define NUMBERS(name, count) \
  for (int64_t i = 0; i < to->count && to->count <= kMaxNumbers; ++i) to->name.push_back(words.Next());
#define RECORD(Type, name) ReadFields(words, &to->name);
#define GRAFFITI_PROGRAM(magic, version)
#define GRAFFITI_RECORD(Name, fields) template <class Words> void ReadFields(Words& words, Name* to) { fields }
#define GRAFFITI_STEP(kind, Name, fields) template <class Words> void ReadFields(Words& words, Name* to) { fields }
#include "program_format.inc"
#undef WORD
#undef NUMBERS
#undef RECORD

// To a struct of the C ABI with the same fields in the same order.
#define WORD(name)                                                                             \
  static_assert(offsetof(From, name) == offsetof(To, name), "c_api.h has another order");     \
  static_assert(sizeof(From) == sizeof(To), "c_api.h and program_format.inc have other fields"); \
  to->name = from.name;
#define NUMBERS(name, count)
#define RECORD(Type, name)
#define GRAFFITI_PROGRAM(magic, version)
#define GRAFFITI_RECORD(Name, fields) \
  template <class To>                 \
  void CopyFields(const Name& from, To* to) { using From = Name; fields }
#define GRAFFITI_STEP(kind, Name, fields)
#include "program_format.inc"
#undef WORD
#undef NUMBERS
#undef RECORD

// A record's size in words.
#define WORD(name) 1 +
#define GRAFFITI_PROGRAM(magic, version)
#define NUMBERS(name, count)
#define RECORD(Type, name) kWordsOf##Type +
#define GRAFFITI_RECORD(Name, fields) constexpr int64_t kWordsOf##Name = fields 0;
#define GRAFFITI_STEP(kind, Name, fields)
#include "program_format.inc"
#undef WORD
#undef NUMBERS
#undef RECORD

#undef NUMBER
#undef READ
#undef WRITE
#undef TYPE
#undef ROUNDING
#undef OPERATION
#undef DATA
#undef OPTIONAL_READ
#undef OPTIONAL_DATA

}  // namespace format
}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_PROGRAM_FORMAT_H_
