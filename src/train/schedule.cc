#include "train/schedule.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace fathom {

int64_t TokenAmount::of(int64_t total_tokens) const {
  return is_share ? std::llround(share * static_cast<double>(total_tokens)) : tokens;
}

TokenAmount parse_token_amount(const std::string& text) {
  std::string digits;
  for (const char c : text) {
    if (c != '_' && c != ' ') digits += c;
  }
  double unit = 1;
  bool is_share = false;
  if (!digits.empty()) {
    switch (digits.back()) {
      case 'K':
        unit = 1e3;
        break;
      case 'M':
        unit = 1e6;
        break;
      case 'B':
        unit = 1e9;
        break;
      case 'T':
        unit = 1e12;
        break;
      case '%':
        is_share = true;
        break;
      default:
        break;
    }
    if (unit != 1 || is_share) digits.pop_back();
  }
  double number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool is_number = error == std::errc{} && end == digits.data() + digits.size() &&
                         std::isfinite(number) && number >= 0;
  if (!is_number || (is_share && number > 100) || number * unit > 9e18) {
    fail(ErrorKind::kBadInput,
         "a number of tokens such as 20000, \"469B\" or \"4.3T\", or a share of the total such as "
         "\"12.5%\"");
  }
  if (is_share) return {.share = number / 100, .is_share = true};
  const double tokens = number * unit;
  // "4.3T" is 4.3e12 up to the rounding of decimals; "0.5" token is none.
  if (std::abs(tokens - std::round(tokens)) > 1e-6 * std::max(1.0, tokens / unit)) {
    fail(ErrorKind::kBadInput, "a whole number of tokens");
  }
  return {.tokens = std::llround(tokens)};
}

std::string to_text(const TokenAmount& amount) {
  if (amount.is_share) {
    // The shortest percentage that reads back to the same share.
    for (int digits = 6; digits <= 17; ++digits) {
      const std::string text = fmt::format("{:.{}g}%", amount.share * 100, digits);
      if (parse_token_amount(text).share == amount.share) return text;
    }
    return fmt::format("{:.17g}%", amount.share * 100);
  }
  for (const auto& [suffix, unit] : {std::pair<const char*, int64_t>{"T", 1'000'000'000'000},
                                     {"B", 1'000'000'000},
                                     {"M", 1'000'000},
                                     {"K", 1'000}}) {
    if (amount.tokens != 0 && amount.tokens % unit == 0)
      return std::to_string(amount.tokens / unit) + suffix;
  }
  return std::to_string(amount.tokens);
}

TextValue token_amount_value(TokenAmount& amount) {
  return {.set = [&amount](const std::string& text) { amount = parse_token_amount(text); },
          .get = [&amount] { return to_text(amount); }};
}

void visit_fields(LrPieceConfig& c, ConfigFields& f) {
  f.choice("shape", c.shape, {"constant", "cosine", "linear"},
           "constant at lr, or from the last piece's lr to lr");
  f.field("lr", c.lr, at_least(0), "learning rate at the end of the piece");
  f.text("tokens", token_amount_value(c.tokens), "length of the piece");
}

void visit_fields(ScheduleConfig& c, ConfigFields& f) {
  f.text("total_tokens", token_amount_value(c.total_tokens), "tokens of the whole run");
  f.field("warmup_steps", c.warmup_steps, at_least(0), "steps of linear warm-up");
  f.tables("lr", c.lr, "pieces of the learning rate, one after the other");
  f.field("batch_rows", c.batch_rows, at_least(1), "rows of a step");
  f.field("batch_rows_begin", c.batch_rows_begin, at_least(0),
          "rows of the first step; 0: no ramp");
  f.text("batch_ramp", token_amount_value(c.batch_ramp),
         "tokens over which the batch grows to batch_rows");
  f.field("bias_update_speed", c.bias_update_speed, at_least(0), "gamma of the router bias update");
  f.text("bias_update_until", token_amount_value(c.bias_update_until), "gamma is 0 from here on");
  f.field("mtp_weight", c.mtp_weight, at_least(0), "lambda of the MTP loss");
  f.field("mtp_weight_late", c.mtp_weight_late, at_least(0), "lambda after mtp_weight_until");
  f.text("mtp_weight_until", token_amount_value(c.mtp_weight_until), "where lambda changes");
  f.field("balance_weight", c.balance_weight, at_least(0), "alpha of the balance loss");
}

Schedule::Schedule(const ScheduleConfig& config, int64_t context, const std::string& where)
    : config_(config), context_(context), total_tokens_(config.total_tokens.tokens) {
  if (config.total_tokens.is_share || total_tokens_ <= 0) {
    throw_bad_input({.where = where,
                     .field = "total_tokens",
                     .found = to_text(config.total_tokens),
                     .expected = "a positive number of tokens"});
  }
  batch_ramp_ = config.batch_ramp.of(total_tokens_);
  bias_update_until_ = config.bias_update_until.of(total_tokens_);
  mtp_weight_until_ = config.mtp_weight_until.of(total_tokens_);
  if (config.batch_rows_begin > config.batch_rows) {
    throw_bad_input({.where = where,
                     .field = "batch_rows_begin",
                     .found = std::to_string(config.batch_rows_begin),
                     .expected = fmt::format("at most batch_rows, {}", config.batch_rows)});
  }
  if (config.batch_rows_begin > 0 && batch_ramp_ <= 0) {
    throw_bad_input({.where = where,
                     .field = "batch_ramp",
                     .found = to_text(config.batch_ramp),
                     .expected = "the tokens over which the batch grows from batch_rows_begin"});
  }
  if (config.lr.empty())
    throw_bad_input(
        {.where = where, .field = "lr", .found = "no pieces", .expected = "at least one"});
  // Shares are cut at their running sum, so that rounding neither opens nor overlaps a token.
  int64_t tokens = 0;
  double share = 0;
  double lr = 0;
  for (size_t i = 0; i < config.lr.size(); ++i) {
    const LrPieceConfig& piece = config.lr[i];
    if (piece.tokens.is_share) {
      share += piece.tokens.share;
    } else {
      tokens += piece.tokens.tokens;
    }
    const int64_t begin = pieces_.empty() ? 0 : pieces_.back().end;
    const int64_t end = tokens + TokenAmount{.share = share, .is_share = true}.of(total_tokens_);
    if (piece.shape != "constant" && i == 0) {
      throw_bad_input({.where = where,
                       .field = "lr.0.shape",
                       .found = piece.shape,
                       .expected = "constant for the first piece (warm-up has its own field)"});
    }
    pieces_.push_back({begin, end, piece.shape == "cosine", piece.shape == "linear",
                       piece.shape == "constant" ? piece.lr : lr, piece.lr});
    lr = piece.lr;
  }
  if (pieces_.back().end != total_tokens_) {
    throw_bad_input({.where = where,
                     .field = "lr",
                     .found = fmt::format("pieces of together {} tokens", pieces_.back().end),
                     .expected = fmt::format("total_tokens, {}", total_tokens_)});
  }
}

StepPlan Schedule::at(int64_t step, int64_t tokens) const {
  StepPlan plan;
  const auto piece = std::find_if(pieces_.begin(), pieces_.end() - 1,
                                  [&](const Piece& p) { return tokens < p.end; });
  const double length = static_cast<double>(piece->end - piece->begin);
  const double done =
      length > 0 ? std::min(1.0, static_cast<double>(tokens - piece->begin) / length) : 1.0;
  if (piece->cosine) {
    plan.lr = piece->lr_end +
              0.5 * (piece->lr_begin - piece->lr_end) * (1 + std::cos(std::numbers::pi * done));
  } else if (piece->linear) {
    plan.lr = piece->lr_begin + (piece->lr_end - piece->lr_begin) * done;
  } else {
    plan.lr = piece->lr_end;
  }
  if (step < config_.warmup_steps) {
    plan.lr *= static_cast<double>(step + 1) / static_cast<double>(config_.warmup_steps);
  }
  plan.rows = config_.batch_rows;
  if (config_.batch_rows_begin > 0 && tokens < batch_ramp_) {
    const double ramp = static_cast<double>(tokens) / static_cast<double>(batch_ramp_);
    plan.rows = config_.batch_rows_begin +
                static_cast<int64_t>(
                    static_cast<double>(config_.batch_rows - config_.batch_rows_begin) * ramp);
  }
  plan.bias_update_speed = tokens < bias_update_until_ ? config_.bias_update_speed : 0;
  plan.mtp_weight = tokens < mtp_weight_until_ ? config_.mtp_weight : config_.mtp_weight_late;
  plan.balance_weight = config_.balance_weight;
  return plan;
}

int64_t Schedule::total_steps() const {
  int64_t steps = 0, tokens = 0;
  while (tokens < total_tokens_) {
    if (config_.batch_rows_begin == 0 || tokens >= batch_ramp_) {
      const int64_t step_tokens = config_.batch_rows * context_;
      return steps + (total_tokens_ - tokens + step_tokens - 1) / step_tokens;
    }
    tokens += at(steps, tokens).rows * context_;
    ++steps;
  }
  return steps;
}

}  // namespace fathom
