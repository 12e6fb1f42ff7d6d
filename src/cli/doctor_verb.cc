// fathom doctor: what this machine has, what is slow or missing, and whether the kernels compute
// what the reference computes here.
#include <fmt/format.h>
#include <sys/statvfs.h>

#include <memory>
#include <thread>

#include "cli/terminal.h"
#include "cli/verbs.h"
#include "core/json.h"
#include "kernels/limits.h"
#include "kernels/self_check.h"
#include "runtime/context.h"

namespace fathom::cli {
namespace {

struct Options {
  int64_t threads = 0;
  bool json = false;
};

struct Speed {
  IsaLevel isa;
  double gflops_f32, gflops_bf16;
};

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

int64_t free_disk_bytes() {
  struct statvfs disk {};
  if (statvfs(".", &disk) != 0) return -1;
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

// What a user should know or change; empty on a good machine.
std::vector<std::string> advice(const Context& ctx, const std::vector<SelfTestResult>& tests) {
  std::vector<std::string> all;
  const CpuInfo& cpu = cpu_info();
  int64_t num_failed = 0;
  for (const SelfTestResult& test : tests) num_failed += !test.passed();
  if (num_failed > 0) {
    all.push_back(
        fmt::format("{} kernel checks FAILED: do not trust results of those levels; "
                    "FATHOM_FORCE_ISA=ref forces the slow reference",
                    num_failed));
  }
  if (ctx.isa() < supported_isa_levels().back()) {
    all.push_back(
        fmt::format("FATHOM_FORCE_ISA={} forces a slower level than {}, which this processor has",
                    forced_isa_name(), isa_name(supported_isa_levels().back())));
  }
  if (supported_isa_levels().back() == IsaLevel::kReference) {
    all.emplace_back("no AVX2: only the reference kernels run here, tens of times slower");
  } else if (supported_isa_levels().back() < IsaLevel::kAvx512Bf16) {
    all.emplace_back(
        "no AVX-512 BF16: bf16 products are computed in fp32 and gain memory, not time");
  }
  if (cpu.num_cpus < static_cast<int>(std::thread::hardware_concurrency())) {
    all.push_back(fmt::format("this process may use {} of {} processors (taskset or a container)",
                              cpu.num_cpus, std::thread::hardware_concurrency()));
  }
  if (available_memory_bytes() < int64_t{2} << 30) {
    all.emplace_back("less than 2 GiB of memory are free: the demo needs about that much");
  }
  if (const int64_t disk = free_disk_bytes(); disk >= 0 && disk < int64_t{1} << 30) {
    all.emplace_back("less than 1 GiB of disk is free here: runs and checkpoints may not fit");
  }
  return all;
}

Json as_json(const Context& ctx, int num_threads, const std::vector<SelfTestResult>& tests,
             const std::vector<Speed>& speeds, double bandwidth,
             const std::vector<std::string>& notes) {
  const CpuInfo& cpu = cpu_info();
  Json result{{"processor", cpu.model_name},
              {"processors", cpu.num_cpus},
              {"threads", num_threads},
              {"isa", isa_name(ctx.isa())},
              {"isa_forced", !forced_isa_name().empty()},
              {"memory_bytes", total_memory_bytes()},
              {"memory_available_bytes", available_memory_bytes()},
              {"disk_free_bytes", free_disk_bytes()},
              {"read_bandwidth_gb_per_s", bandwidth}};
  result["features"] = Json{{"avx2", cpu.avx2_fma},
                            {"avx512", cpu.avx512},
                            {"avx512_bf16", cpu.avx512_bf16},
                            {"avx512_vnni", cpu.avx512_vnni},
                            {"amx_bf16", cpu.amx_bf16}};
  result["gemm"] = Json::array();
  for (const Speed& speed : speeds) {
    result["gemm"].push_back({{"isa", isa_name(speed.isa)},
                              {"fp32_gflops", speed.gflops_f32},
                              {"bf16_gflops", speed.gflops_bf16}});
  }
  result["self_test"] = Json::array();
  for (const SelfTestResult& test : tests) {
    result["self_test"].push_back({{"operation", test.operation},
                                   {"isa", isa_name(test.isa)},
                                   {"error", test.error},
                                   {"allowed", test.allowed},
                                   {"passed", test.passed()}});
  }
  result["advice"] = notes;
  return result;
}

void print_text(const Context& ctx, int num_threads, const std::vector<SelfTestResult>& tests,
                const std::vector<Speed>& speeds, double bandwidth,
                const std::vector<std::string>& notes) {
  const TerminalInfo terminal = terminal_info(stdout);
  const CpuInfo& cpu = cpu_info();
  fmt::print("processor   {}, {} usable, {} threads\n", cpu.model_name, cpu.num_cpus, num_threads);
  fmt::print("level       {}{}\n", isa_name(ctx.isa()),
             forced_isa_name().empty() ? "" : " (forced by FATHOM_FORCE_ISA)");
  fmt::print("features    AVX2 {}, AVX-512 {}, BF16 {}, VNNI {}, AMX {}\n",
             cpu.avx2_fma ? "yes" : "no", cpu.avx512 ? "yes" : "no", cpu.avx512_bf16 ? "yes" : "no",
             cpu.avx512_vnni ? "yes" : "no", cpu.amx_bf16 ? "yes" : "no");
  fmt::print("memory      {:.1f} GiB, {:.1f} GiB free, read at {:.1f} GB/s\n",
             gib(total_memory_bytes()), gib(available_memory_bytes()), bandwidth);
  fmt::print("disk        {:.1f} GiB free here\n\n", gib(free_disk_bytes()));
  fmt::print("{:<12}{:>16}{:>16}   {}\n", "level", "fp32 GFLOP/s", "bf16 GFLOP/s",
             "checks against the reference");
  for (const Speed& speed : speeds) {
    int64_t num_run = 0, num_passed = 0;
    for (const SelfTestResult& test : tests) {
      num_run += test.isa == speed.isa;
      num_passed += test.isa == speed.isa && test.passed();
    }
    const std::string checks =
        num_run == 0 ? "is the reference" : fmt::format("{} of {} passed", num_passed, num_run);
    fmt::print("{:<12}{:>16.1f}{:>16.1f}   {}\n", isa_name(speed.isa), speed.gflops_f32,
               speed.gflops_bf16,
               styled(terminal, num_passed == num_run ? Style::kGreen : Style::kRed, checks));
  }
  for (const SelfTestResult& test : tests) {
    if (!test.passed()) {
      fmt::print("FAILED      {} at {}: off by {:.3g}, allowed {:.3g}\n", test.operation,
                 isa_name(test.isa), test.error, test.allowed);
    }
  }
  fmt::print("\n");
  for (const std::string& note : notes) fmt::print("note        {}\n", note);
  if (notes.empty())
    fmt::print("{}\n", styled(terminal, Style::kGreen, "nothing to complain about"));
}

int run(const Options& options) {
  Context ctx(static_cast<int>(options.threads));
  const int num_threads = ctx.threads().num_threads();
  const std::vector<SelfTestResult> tests = run_kernel_self_test(num_threads);
  std::vector<Speed> speeds;
  for (const IsaLevel isa : supported_isa_levels()) {
    Context level(num_threads, isa);
    const double seconds = 0.2;
    speeds.push_back({isa, measure_gemm_gflops(level, DType::kF32, seconds),
                      measure_gemm_gflops(level, DType::kBF16, seconds)});
  }
  const double bandwidth = 1e-9 * measure_read_bandwidth(ctx, 0.3);
  const std::vector<std::string> notes = advice(ctx, tests);
  if (options.json) {
    fmt::print("{}\n", as_json(ctx, num_threads, tests, speeds, bandwidth, notes).dump(2));
  } else {
    print_text(ctx, num_threads, tests, speeds, bandwidth, notes);
  }
  for (const SelfTestResult& test : tests) {
    if (!test.passed()) return kExitFailed;
  }
  return kExitDone;
}

}  // namespace

Verb doctor_verb() {
  auto options = std::make_shared<Options>();
  return {.name = "doctor",
          .help = "what this machine has, what is slow or missing, and a self-test of the kernels",
          .declare =
              [options](CommandLine& line) {
                line.add_threads(options->threads);
                line.add_json(options->json);
              },
          .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
