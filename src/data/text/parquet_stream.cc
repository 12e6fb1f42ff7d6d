#include "data/text/parquet_stream.h"

#include "core/error.h"

#ifdef FATHOM_PARQUET
#include <arrow/api.h>
#include <arrow/io/memory.h>
#include <parquet/arrow/reader.h>

#include <algorithm>
#include <cstring>
#endif

namespace fathom {

bool is_parquet(std::string_view head) { return head.starts_with("PAR1"); }

#ifdef FATHOM_PARQUET

namespace {

class ParquetStream final : public ByteStream {
 public:
  ParquetStream(FileSystem& files, std::string path, const std::string& field)
      : path_(std::move(path)), file_(files.map(path_)), key_("{" + quoted(field) + ": ") {
    const auto bytes = file_->bytes();
    const auto buffer = std::make_shared<arrow::Buffer>(
        reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int64_t>(bytes.size()));
    reader_ = checked(parquet::arrow::OpenFile(std::make_shared<arrow::io::BufferReader>(buffer),
                                               arrow::default_memory_pool()));
    std::shared_ptr<arrow::Schema> schema;
    check(reader_->GetSchema(&schema));
    const int column = schema->GetFieldIndex(field);
    if (column < 0) {
      throw_bad_input(
          {.where = path_,
           .found = fmt::format("the columns {}", fmt::join(schema->field_names(), ", ")),
           .expected = fmt::format("one named {}", field)});
    }
    const auto type = schema->field(column)->type()->id();
    is_large_ = type == arrow::Type::LARGE_STRING || type == arrow::Type::LARGE_BINARY;
    if (!is_large_ && type != arrow::Type::STRING && type != arrow::Type::BINARY) {
      throw_bad_input({.where = path_,
                       .field = field,
                       .found = schema->field(column)->type()->ToString(),
                       .expected = "a column of text"});
    }
    reader_->set_batch_size(kRows);
    std::vector<int> groups(static_cast<size_t>(reader_->num_row_groups()));
    for (size_t i = 0; i < groups.size(); ++i) groups[i] = static_cast<int>(i);
    // Nested columns before it count as several: the column's own leaf is looked up by its name.
    const int leaf = reader_->parquet_reader()->metadata()->schema()->ColumnIndex(field);
    batches_ = checked(reader_->GetRecordBatchReader(groups, {leaf}));
  }

  int64_t read(char* to, int64_t bytes) override {
    int64_t done = 0;
    while (done < bytes) {
      if (at_ == lines_.size()) {
        // Lines before a damaged part come out first; the damage is the next call's.
        if (done > 0) break;
        if (!next_batch()) break;
        continue;
      }
      const auto count = std::min(lines_.size() - at_, static_cast<size_t>(bytes - done));
      std::memcpy(to + done, lines_.data() + at_, count);
      at_ += count;
      done += static_cast<int64_t>(count);
    }
    return done;
  }

 private:
  static constexpr int64_t kRows = 1024;  // unpacked at once

  static std::string quoted(std::string_view text) {
    std::string out;
    append_quoted(text, out);
    return out;
  }
  static void append_quoted(std::string_view text, std::string& out) {
    out += '"';
    for (const char c : text) {
      if (static_cast<unsigned char>(c) < 0x20) {
        out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        continue;
      }
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    out += '"';
  }

  void check(const arrow::Status& status) {
    if (!status.ok())
      throw_bad_input({.where = path_, .found = status.ToString(), .expected = "a Parquet file"});
  }
  template <typename T>
  T checked(arrow::Result<T> result) {
    check(result.status());
    return std::move(result).ValueOrDie();
  }

  template <typename Array>
  void append_lines(const Array& texts) {
    for (int64_t i = 0; i < texts.length(); ++i) {
      lines_ += key_;
      if (texts.IsNull(i)) {
        lines_ += "null";
      } else {
        append_quoted(texts.GetView(i), lines_);
      }
      lines_ += "}\n";
    }
  }

  bool next_batch() {
    lines_.clear();
    at_ = 0;
    std::shared_ptr<arrow::RecordBatch> batch;
    check(batches_->ReadNext(&batch));
    if (batch == nullptr) return false;
    if (is_large_) {
      append_lines(static_cast<const arrow::LargeBinaryArray&>(*batch->column(0)));
    } else {
      append_lines(static_cast<const arrow::BinaryArray&>(*batch->column(0)));
    }
    return true;
  }

  std::string path_;
  std::unique_ptr<MappedFile> file_;
  std::string key_;
  std::unique_ptr<parquet::arrow::FileReader> reader_;
  std::shared_ptr<arrow::RecordBatchReader> batches_;
  bool is_large_ = false;
  std::string lines_;
  size_t at_ = 0;
};

}  // namespace

bool reads_parquet() { return true; }

std::unique_ptr<ByteStream> open_parquet_stream(FileSystem& files, const std::string& path,
                                                const std::string& field) {
  try {
    return std::make_unique<ParquetStream>(files, path, field);
  } catch (const parquet::ParquetException& error) {
    throw_bad_input({.where = path, .found = error.what(), .expected = "a Parquet file"});
  }
}

#else

bool reads_parquet() { return false; }

std::unique_ptr<ByteStream> open_parquet_stream(FileSystem&, const std::string& path,
                                                const std::string&) {
  throw_bad_input({.where = path,
                   .found = "a Parquet file",
                   .expected = "text or JSONL: this program was built without Apache Arrow",
                   .hint = "tools/parquet_to_jsonl.py turns it into JSONL; script/setup --parquet "
                           "says how to build with Arrow"});
}

#endif

}  // namespace fathom
