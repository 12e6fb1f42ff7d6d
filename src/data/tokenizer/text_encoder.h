// Encoding much text: one thread's encoder with its memory and cache, and batches over threads.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "runtime/thread_pool.h"

namespace fathom {

// Encodes as Tokenizer::encode does, and faster the longer it lives: it remembers pieces (0.9 MiB,
// bounded). For one thread at a time.
class TextEncoder {
 public:
  explicit TextEncoder(Tokenizer tokenizer);
  ~TextEncoder();
  TextEncoder(TextEncoder&&) noexcept;

  // Appends to `ids`.
  void encode(std::string_view text, const EncodeOptions& options, std::vector<TokenId>& ids);

 private:
  struct Memory;
  Tokenizer tokenizer_;
  std::unique_ptr<Memory> memory_;
};

// The ids of each text, the same for any number of threads; `threads` may be null. Long texts are
// shared out in parts where the pre-tokenizer cuts in any case.
std::vector<std::vector<TokenId>> encode_batch(const Tokenizer& tokenizer,
                                               std::span<const std::string_view> texts,
                                               const EncodeOptions& options, ThreadPool* threads);

// An encoder for each thread that lives from batch to batch.
class BatchEncoder {
 public:
  explicit BatchEncoder(Tokenizer tokenizer, ThreadPool* threads);
  std::vector<std::vector<TokenId>> encode(std::span<const std::string_view> texts,
                                           const EncodeOptions& options = {});

 private:
  Tokenizer tokenizer_;
  ThreadPool* threads_;
  std::vector<TextEncoder> encoders_;  // by thread
  std::vector<std::vector<TokenId>> buffers_;
};

}  // namespace fathom
