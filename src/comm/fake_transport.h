// One rank of a job that is not there: sends are counted and dropped, receives are zeros at once.
// A dry run lays out memory and counts traffic with it.
#pragma once

#include "comm/transport.h"

namespace fathom {

class FakeTransport final : public Transport {
 public:
  FakeTransport(int rank, Topology topology) : Transport(std::move(topology)), rank_(rank) {}

  int rank() const override { return rank_; }
  int64_t start_receive(int from, uint32_t tag, std::span<std::byte> bytes) override;
  bool wait(int64_t, std::chrono::duration<double>) override { return true; }
  bool has_come(int64_t) override { return true; }
  void abort(const std::string& reason, int) override { throw CommError(reason); }

 protected:
  void post_send(int, uint32_t, std::span<const std::byte>) override {}

 private:
  int rank_;
};

}  // namespace fathom
