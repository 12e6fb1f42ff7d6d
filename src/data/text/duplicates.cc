#include "data/text/duplicates.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/integer.h"
#include "data/text/minhash.h"

namespace fathom {
namespace {

// Signatures are cut into 32 bands of 4 places; two texts are candidates when one band is equal.
// With half of the shingles in common that happens to 87 %, with 0.6 to 99 %, with 0.75 always;
// with a tenth to 0.3 %.
constexpr int64_t kBands = 32;
constexpr int64_t kRows = kSignatureSize / kBands;
// A candidate is compared with this many first texts of its bucket. Buckets of more distinct texts
// come from boilerplate, and other bands tell those apart.
constexpr size_t kMaxHeads = 64;

struct TextKey {
  std::array<uint64_t, 2> hash;
  int64_t document;
  bool operator<(const TextKey& other) const {
    return hash != other.hash ? hash < other.hash : document < other.document;
  }
};

struct BandKey {
  uint64_t key;
  int64_t document;
  bool operator<(const BandKey& other) const {
    return key != other.key ? key < other.key : document < other.document;
  }
};

uint64_t band_key(const uint32_t* signature, int64_t band) {
  return XXH3_64bits_withSeed(signature + band * kRows, kRows * sizeof(uint32_t),
                              static_cast<uint64_t>(band));
}

// What each job finds, put together on every process. Job i is done by process i mod size.
class SharedJobs {
 public:
  SharedJobs(const Team& team, ThreadPool& threads) : team_(team), threads_(threads) {}

  // Processes may differ in threads and memory, but not in how the work is cut.
  int64_t agree_on_parts(int64_t wanted) const {
    int64_t parts = wanted;
    for (const std::string& text : team_.gather(std::to_string(wanted)))
      parts = std::max<int64_t>(parts, std::stoll(text));
    return parts;
  }
  // job(i, duplicates) for all i of this process; marks what all found.
  template <typename Job>
  void run(int64_t num_jobs, Duplicate kind, std::vector<Duplicate>& found, const Job& job) const {
    std::vector<std::vector<int64_t>> duplicates(
        static_cast<size_t>(div_up(num_jobs, int64_t{team_.size})));
    threads_.parallel_for(std::ssize(duplicates), [&](int64_t i, int) {
      const int64_t number = i * team_.size + team_.rank;
      if (number < num_jobs) job(number, duplicates[static_cast<size_t>(i)]);
    });
    std::string mine;
    for (const std::vector<int64_t>& some : duplicates)
      mine.append(reinterpret_cast<const char*>(some.data()), some.size() * sizeof(int64_t));
    for (const std::string& text : team_.gather(mine)) {
      for (size_t at = 0; at < text.size(); at += sizeof(int64_t)) {
        int64_t document = 0;
        std::memcpy(&document, text.data() + at, sizeof document);
        found[static_cast<size_t>(document)] = kind;
      }
    }
  }
  int64_t num_passes(int64_t num_jobs) const {
    return div_up(num_jobs, int64_t{threads_.num_threads()} * team_.size);
  }
  int64_t threads_at_once() const { return threads_.num_threads(); }
  int64_t workers() const { return threads_at_once() * team_.size; }

 private:
  const Team& team_;
  ThreadPool& threads_;
};

void find_exact(const DocumentHashes& documents, int64_t memory_bytes, const SharedJobs& jobs,
                std::vector<Duplicate>& found, DuplicateReport& report) {
  const int64_t n = documents.num_documents;
  const int64_t bytes = checked_mul(n, static_cast<int64_t>(sizeof(TextKey)));
  // Each part holds the hashes with one remainder; a thread works on one part at a time.
  const int64_t parts = jobs.agree_on_parts(
      std::max({div_up(checked_mul(bytes, jobs.threads_at_once()), memory_bytes), jobs.workers(),
                int64_t{1}}));
  report.num_passes += jobs.num_passes(parts);
  report.peak_bytes = std::max(report.peak_bytes, bytes / parts * jobs.threads_at_once());
  jobs.run(parts, Duplicate::kExact, found, [&](int64_t part, std::vector<int64_t>& duplicates) {
    std::vector<TextKey> keys;
    keys.reserve(static_cast<size_t>(n / parts + n / parts / 8 + 16));
    for (int64_t i = 0; i < n; ++i) {
      const std::array<uint64_t, 2> hash = documents.text_hash(i);
      if (hash[1] % static_cast<uint64_t>(parts) == static_cast<uint64_t>(part))
        keys.push_back({hash, i});
    }
    std::sort(keys.begin(), keys.end());
    for (size_t i = 1; i < keys.size(); ++i) {
      if (keys[i].hash == keys[i - 1].hash) duplicates.push_back(keys[i].document);
    }
  });
}

// The documents of one bucket that are nearly the same as an earlier one of it.
void find_in_bucket(const DocumentHashes& documents, std::span<const BandKey> bucket,
                    int64_t needed, std::vector<int64_t>& duplicates) {
  std::vector<const uint32_t*> heads;
  for (const BandKey& entry : bucket) {
    const uint32_t* signature = documents.signature(entry.document);
    const bool known = std::any_of(heads.begin(), heads.end(), [&](const uint32_t* head) {
      return equal_places(head, signature) >= needed;
    });
    if (known) {
      duplicates.push_back(entry.document);
    } else if (heads.size() < kMaxHeads) {
      heads.push_back(signature);
    }
  }
}

void find_near(const DocumentHashes& documents, double threshold, int64_t memory_bytes,
               const SharedJobs& jobs, std::vector<Duplicate>& found, DuplicateReport& report) {
  const int64_t n = documents.num_documents;
  const auto needed =
      static_cast<int64_t>(std::ceil(threshold * static_cast<double>(kSignatureSize)));
  const int64_t bytes = checked_mul(n, static_cast<int64_t>(sizeof(BandKey)));  // of one band
  const int64_t parts = jobs.agree_on_parts(
      std::max(div_up(checked_mul(bytes, jobs.threads_at_once()), memory_bytes), int64_t{1}));
  report.num_passes += jobs.num_passes(kBands * parts);
  report.peak_bytes = std::max(report.peak_bytes, bytes / parts * jobs.threads_at_once());
  // Exact ones are out of the way first, and `found` is not written while jobs read it.
  jobs.run(kBands * parts, Duplicate::kNear, found,
           [&](int64_t job, std::vector<int64_t>& duplicates) {
             const int64_t band = job / parts;
             const auto part = static_cast<uint64_t>(job % parts);
             std::vector<BandKey> keys;
             keys.reserve(static_cast<size_t>(parts == 1 ? n : n / parts + n / parts / 8 + 16));
             for (int64_t i = 0; i < n; ++i) {
               if (found[static_cast<size_t>(i)] != Duplicate::kNo) continue;
               const uint32_t* signature = documents.signature(i);
               if (signature == nullptr) continue;
               const uint64_t key = band_key(signature, band);
               if (key % static_cast<uint64_t>(parts) == part) keys.push_back({key, i});
             }
             std::sort(keys.begin(), keys.end());
             for (size_t begin = 0; begin < keys.size();) {
               size_t end = begin + 1;
               while (end < keys.size() && keys[end].key == keys[begin].key) ++end;
               if (end - begin > 1) {
                 find_in_bucket(documents, std::span(keys).subspan(begin, end - begin), needed,
                                duplicates);
               }
               begin = end;
             }
           });
}

}  // namespace

void visit_fields(DuplicateConfig& c, ConfigFields& f) {
  f.field("exact", c.exact, "drop texts that stand in the corpus before");
  f.field("near", c.near, "drop texts that nearly stand in the corpus before");
  f.field("threshold", c.threshold, between(0.3, 1),
          "share of common shingles from which on two texts are nearly the same");
  f.field("shingle_units", c.shingle_units, between(1, 100),
          "words in a shingle (characters where a script has no spaces)");
  f.field("min_shingles", c.min_shingles, at_least(1), "shorter texts are only compared exactly");
}

std::vector<Duplicate> find_duplicates(const DocumentHashes& documents,
                                       const DuplicateConfig& config, int64_t memory_bytes,
                                       ThreadPool& threads, const Team& team,
                                       DuplicateReport& report) {
  FATHOM_CHECK_GT(memory_bytes, 0);
  report = {};
  const SharedJobs jobs(team, threads);
  std::vector<Duplicate> found(static_cast<size_t>(documents.num_documents), Duplicate::kNo);
  if (config.exact) find_exact(documents, memory_bytes, jobs, found, report);
  if (config.near) find_near(documents, config.threshold, memory_bytes, jobs, found, report);
  return found;
}

}  // namespace fathom
