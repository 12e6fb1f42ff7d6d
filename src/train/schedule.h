// The recipe as data (report section 4.2; SPEC C.5, C.6): what learning rate, batch size, bias
// update speed and loss weights a step has, as functions of the step and of the tokens seen before
// it. Every threshold is a number of tokens or a share of total_tokens, so one file runs at any
// scale.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"

namespace fathom {

// A number of tokens ("469B", "4.3T", 20000) or a share of the run's total ("12.5%").
struct TokenAmount {
  int64_t tokens = 0;
  double share = 0;  // used when is_share
  bool is_share = false;

  int64_t of(int64_t total_tokens) const;
};
TokenAmount parse_token_amount(const std::string& text);
std::string to_text(const TokenAmount& amount);
TextValue token_amount_value(TokenAmount& amount);

struct LrPieceConfig {
  std::string shape =
      "constant";  // at `lr`; or "cosine" or "linear": from the last piece's lr to `lr`
  double lr = 3e-4;
  TokenAmount tokens{.share = 1, .is_share = true};
};

struct ScheduleConfig {
  TokenAmount total_tokens{.tokens = 1'000'000};
  int64_t warmup_steps = 100;  // linear from 0; the first step has lr / warmup_steps
  // One after the other from token 0; together total_tokens.
  std::vector<LrPieceConfig> lr = {{}};
  // Rows of a step: from batch_rows_begin to batch_rows, linear in tokens over batch_ramp.
  int64_t batch_rows = 8;
  int64_t batch_rows_begin = 0;  // 0: no ramp
  TokenAmount batch_ramp{};
  // gamma of the bias update until this point, then 0.
  double bias_update_speed = 1e-3;
  TokenAmount bias_update_until{.share = 1, .is_share = true};
  // lambda of the MTP loss until this point, then the late value.
  double mtp_weight = 0.3;
  double mtp_weight_late = 0.1;
  TokenAmount mtp_weight_until{.share = 1, .is_share = true};
  double balance_weight = 1e-4;  // alpha
};
void visit_fields(LrPieceConfig& c, ConfigFields& f);
void visit_fields(ScheduleConfig& c, ConfigFields& f);

// What one step does.
struct StepPlan {
  int64_t rows = 0;
  double lr = 0;
  double bias_update_speed = 0;
  double mtp_weight = 0;
  double balance_weight = 0;
};

class Schedule {
 public:
  // Checks that pieces add up; errors name the field below `where`.
  Schedule(const ScheduleConfig& config, int64_t context, const std::string& where = "schedule");

  // Step with this index (from 0), before which `tokens` were seen.
  StepPlan at(int64_t step, int64_t tokens) const;
  int64_t total_tokens() const { return total_tokens_; }
  // Steps until total_tokens are seen, by walking the batch ramp.
  int64_t total_steps() const;

 private:
  struct Piece {
    int64_t begin, end;
    bool cosine, linear;
    double lr_begin, lr_end;
  };
  ScheduleConfig config_;
  int64_t context_;
  int64_t total_tokens_;
  int64_t batch_ramp_, bias_update_until_, mtp_weight_until_;
  std::vector<Piece> pieces_;
};

}  // namespace fathom
