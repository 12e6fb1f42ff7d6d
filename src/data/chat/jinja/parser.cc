#include "data/chat/jinja/parser.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "data/chat/jinja/lexer.h"

namespace fathom::jinja {
namespace {

// Of expressions and of blocks: the interpreter follows them by recursion.
constexpr int64_t kMaxDepth = 200;

class Parser {
 public:
  Parser(std::string_view source, const std::string& where)
      : where_(where), tokens_(tokenize(source, where)) {}

  Body parse() {
    Body body = body_until({}, 0);
    return body;
  }

 private:
  using Kind = Expr::Kind;

  // --- tokens ---
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& next() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
  bool is(Token::Kind kind, std::string_view text) const {
    return peek().kind == kind && peek().text == text;
  }
  bool is_operator(std::string_view text) const { return is(Token::kOperator, text); }
  bool is_name(std::string_view text) const { return is(Token::kName, text); }
  bool take_operator(std::string_view text) {
    if (!is_operator(text)) return false;
    ++at_;
    return true;
  }
  bool take_name(std::string_view text) {
    if (!is_name(text)) return false;
    ++at_;
    return true;
  }
  static std::string describe(const Token& token) {
    switch (token.kind) {
      case Token::kText:
        return "text";
      case Token::kOutputEnd:
        return "'}}'";
      case Token::kBlockEnd:
        return "'%}'";
      case Token::kEnd:
        return "the end of the template";
      default:
        return "'" + token.text + "'";
    }
  }
  [[noreturn]] void refuse(const std::string& found, const std::string& expected = "") const {
    throw_bad_input({fmt::format("{}:{}", where_, peek().line), "", found, expected, ""});
  }
  void expect_operator(std::string_view text) {
    if (!take_operator(text)) refuse(describe(peek()), "'" + std::string(text) + "'");
  }
  std::string expect_name() {
    if (peek().kind != Token::kName) refuse(describe(peek()), "a name");
    return next().text;
  }
  void expect_block_end() {
    if (peek().kind != Token::kBlockEnd) refuse(describe(peek()), "'%}'");
    ++at_;
  }

  // --- expressions ---
  ExprPtr make(Kind kind, std::string name = "") const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = peek().line;
    expr->name = std::move(name);
    return expr;
  }
  template <typename... Children>
  ExprPtr make(Kind kind, std::string name, Children... children) const {
    ExprPtr expr = make(kind, std::move(name));
    (add_child(*expr, std::move(children)), ...);
    return expr;
  }
  void add_child(Expr& parent, ExprPtr child) const {
    if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxDepth)
      refuse(fmt::format("an expression nested deeper than {}", kMaxDepth));
    parent.children.push_back(std::move(child));
  }
  struct Nesting {
    explicit Nesting(Parser& p) : parser(p) {
      if (++parser.nesting_ > kMaxDepth)
        parser.refuse(fmt::format("an expression nested deeper than {}", kMaxDepth));
    }
    ~Nesting() { --parser.nesting_; }
    Parser& parser;
  };

  // a, b: a tuple where there is a comma.
  ExprPtr tuple(bool with_condition = true) {
    const auto one = [&] { return with_condition ? condition() : disjunction(); };
    ExprPtr first = one();
    if (!is_operator(",")) return first;
    ExprPtr result = make(Kind::kTuple, "", std::move(first));
    while (take_operator(",")) {
      if (peek().kind == Token::kBlockEnd || peek().kind == Token::kOutputEnd || is_operator(")") ||
          is_operator("=") || is_name("in"))
        break;
      add_child(*result, one());
    }
    return result;
  }

  ExprPtr condition() {
    const Nesting nesting(*this);
    ExprPtr result = disjunction();
    while (take_name("if")) {
      ExprPtr test = disjunction();
      ExprPtr otherwise = take_name("else") ? condition() : nullptr;
      result = make(Kind::kCondition, "", std::move(result), std::move(test), std::move(otherwise));
    }
    return result;
  }
  ExprPtr disjunction() {
    ExprPtr left = conjunction();
    while (take_name("or")) left = make(Kind::kBinary, "or", std::move(left), conjunction());
    return left;
  }
  ExprPtr conjunction() {
    ExprPtr left = negation();
    while (take_name("and")) left = make(Kind::kBinary, "and", std::move(left), negation());
    return left;
  }
  ExprPtr negation() {
    const Nesting nesting(*this);
    if (take_name("not")) return make(Kind::kUnary, "not", negation());
    return comparison();
  }
  ExprPtr comparison() {
    ExprPtr result = sum();
    ExprPtr chain;
    for (;;) {
      std::string op;
      for (const char* symbol : {"==", "!=", "<", "<=", ">", ">="}) {
        if (is_operator(symbol)) op = symbol;
      }
      if (!op.empty()) {
        ++at_;
      } else if (take_name("in")) {
        op = "in";
      } else if (is_name("not") && peek(1).kind == Token::kName && peek(1).text == "in") {
        at_ += 2;
        op = "not in";
      } else {
        return chain ? std::move(chain) : std::move(result);
      }
      if (!chain) chain = make(Kind::kCompare, "", std::move(result));
      chain->operators.push_back(op);
      add_child(*chain, sum());
    }
  }
  ExprPtr binary(std::initializer_list<const char*> symbols, ExprPtr (Parser::*operand)()) {
    ExprPtr left = (this->*operand)();
    for (;;) {
      const auto it = std::find_if(symbols.begin(), symbols.end(),
                                   [&](const char* symbol) { return is_operator(symbol); });
      if (it == symbols.end()) return left;
      ++at_;
      left = make(Kind::kBinary, *it, std::move(left), (this->*operand)());
    }
  }
  ExprPtr sum() { return binary({"+", "-"}, &Parser::concatenation); }
  ExprPtr concatenation() { return binary({"~"}, &Parser::product); }
  ExprPtr product() { return binary({"*", "/", "//", "%"}, &Parser::power); }
  ExprPtr power() { return binary({"**"}, &Parser::signed_term); }
  ExprPtr signed_term() { return unary(true); }

  ExprPtr unary(bool with_filters) {
    const Nesting nesting(*this);
    ExprPtr result;
    if (is_operator("-") || is_operator("+")) {
      const std::string sign = next().text;
      result = make(Kind::kUnary, sign, unary(false));
    } else {
      result = primary();
    }
    result = postfix(std::move(result));
    return with_filters ? filters(std::move(result)) : std::move(result);
  }

  ExprPtr primary() {
    const Token& token = peek();
    ExprPtr result = make(Kind::kConst);
    if (token.kind == Token::kName) {
      ++at_;
      if (token.text == "true" || token.text == "True") {
        result->value = Value(true);
      } else if (token.text == "false" || token.text == "False") {
        result->value = Value(false);
      } else if (token.text != "none" && token.text != "None") {
        result->kind = Kind::kName;
        result->name = token.text;
      }
      return result;
    }
    if (token.kind == Token::kString) {
      std::string text;
      while (peek().kind == Token::kString) text += next().text;  // neighbours are one
      result->value = Value(std::move(text));
      return result;
    }
    if (token.kind == Token::kInteger) {
      result->value = Value(integer());
      return result;
    }
    if (token.kind == Token::kFloat) {
      result->value = Value(std::strtod(next().text.c_str(), nullptr));
      return result;
    }
    if (take_operator("(")) {
      if (take_operator(")")) return make(Kind::kTuple);
      result = tuple();
      expect_operator(")");
      return result;
    }
    if (take_operator("[")) {
      result->kind = Kind::kList;
      while (!take_operator("]")) {
        add_child(*result, condition());
        if (!is_operator("]")) expect_operator(",");
      }
      return result;
    }
    if (take_operator("{")) {
      result->kind = Kind::kDict;
      while (!take_operator("}")) {
        add_child(*result, condition());
        expect_operator(":");
        add_child(*result, condition());
        if (!is_operator("}")) expect_operator(",");
      }
      return result;
    }
    refuse(describe(token), "an expression");
  }

  int64_t integer() {
    const std::string& text = peek().text;
    int64_t value = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc())
      refuse("an integer beyond 64 bits");
    ++at_;
    return value;
  }

  ExprPtr postfix(ExprPtr result) {
    for (;;) {
      if (take_operator(".")) {
        if (peek().kind == Token::kInteger) {
          ExprPtr index = make(Kind::kConst);
          index->value = Value(integer());
          result = make(Kind::kItem, "", std::move(result), std::move(index));
        } else {
          result = make(Kind::kAttribute, expect_name(), std::move(result));
        }
      } else if (take_operator("[")) {
        result = subscript(std::move(result));
      } else if (is_operator("(")) {
        ExprPtr call = make(Kind::kCall, "", std::move(result));
        arguments(*call);
        result = std::move(call);
      } else {
        return result;
      }
    }
  }

  ExprPtr subscript(ExprPtr object) {
    ExprPtr parts[3];
    size_t num_colons = 0;
    for (;;) {
      if (take_operator("]")) break;
      if (take_operator(":")) {
        if (++num_colons > 2) refuse("a slice with three colons");
      } else {
        if (parts[num_colons] != nullptr) refuse(describe(peek()), "']'");
        parts[num_colons] = tuple();
      }
    }
    if (num_colons > 0) {
      return make(Kind::kSlice, "", std::move(object), std::move(parts[0]), std::move(parts[1]),
                  std::move(parts[2]));
    }
    if (parts[0] == nullptr) refuse("an empty subscript");
    return make(Kind::kItem, "", std::move(object), std::move(parts[0]));
  }

  void arguments(Expr& call) {
    expect_operator("(");
    while (!take_operator(")")) {
      if (is_operator("*") || is_operator("**")) refuse("an argument list of variable length");
      if (peek().kind == Token::kName && peek(1).kind == Token::kOperator && peek(1).text == "=") {
        std::string name = next().text;
        ++at_;
        ExprPtr value = condition();
        call.depth = std::max(call.depth, value->depth + 1);
        call.named.emplace_back(std::move(name), std::move(value));
      } else {
        if (!call.named.empty()) refuse("an argument without a name behind one with a name");
        add_child(call, condition());
      }
      if (!is_operator(")")) expect_operator(",");
    }
  }

  std::string dotted_name() {
    std::string name = expect_name();
    while (take_operator(".")) name += "." + expect_name();
    return name;
  }

  ExprPtr filters(ExprPtr result) {
    for (;;) {
      if (take_operator("|")) {
        result = filter(std::move(result));
      } else if (take_name("is")) {
        result = test(std::move(result));
      } else if (is_operator("(")) {
        ExprPtr call = make(Kind::kCall, "", std::move(result));
        arguments(*call);
        result = std::move(call);
      } else {
        return result;
      }
    }
  }
  ExprPtr filter(ExprPtr input) {
    const std::string name = dotted_name();
    if (!is_filter(name)) refuse("the filter '" + name + "'", "one that is known");
    ExprPtr result = make(Kind::kFilter, name, std::move(input));
    if (is_operator("(")) arguments(*result);
    return result;
  }
  ExprPtr test(ExprPtr input) {
    const bool negated = take_name("not");
    const std::string name = dotted_name();
    if (!is_test(name)) refuse("the test '" + name + "'", "one that is known");
    ExprPtr result = make(Kind::kTest, name, std::move(input));
    if (is_operator("(")) {
      arguments(*result);
    } else if (peek().kind == Token::kString || peek().kind == Token::kInteger ||
               peek().kind == Token::kFloat || is_operator("[") || is_operator("{") ||
               (peek().kind == Token::kName && !is_name("else") && !is_name("or") &&
                !is_name("and") && !is_name("if") && !is_name("is") && !is_name("not") &&
                !is_name("in"))) {
      add_child(*result, postfix(primary()));
    }
    return negated ? make(Kind::kUnary, "not", std::move(result)) : std::move(result);
  }

  // --- statements ---
  // Up to a block whose name is one of `ends`; it stays to be read. Without ends: the whole rest.
  Body body_until(std::initializer_list<std::string_view> ends, int64_t depth) {
    if (depth > kMaxDepth) refuse(fmt::format("blocks nested deeper than {}", kMaxDepth));
    Body body;
    for (;;) {
      const Token& token = peek();
      if (token.kind == Token::kEnd) {
        if (ends.size() == 0) return body;
        refuse("the end of the template", "'" + std::string(*ends.begin()) + "'");
      }
      if (token.kind == Token::kText) {
        body.push_back({.kind = Statement::kText, .line = token.line, .text = next().text});
      } else if (token.kind == Token::kOutputBegin) {
        ++at_;
        Statement output{.kind = Statement::kOutput, .line = token.line};
        output.expressions.push_back(tuple());
        if (peek().kind != Token::kOutputEnd) refuse(describe(peek()), "'}}'");
        ++at_;
        body.push_back(std::move(output));
      } else {
        ++at_;  // {%
        if (std::any_of(ends.begin(), ends.end(), [&](auto end) { return is_name(end); }))
          return body;
        block(body, depth);
      }
    }
  }
  void end_block(std::string_view name) {
    if (!take_name(name)) refuse(describe(peek()), "'" + std::string(name) + "'");
    expect_block_end();
  }

  void block(Body& body, int64_t depth) {
    Statement statement{.line = peek().line};
    const std::string name = expect_name();
    if (name == "if") {
      if_block(statement, depth);
    } else if (name == "for") {
      for_block(statement, depth);
    } else if (name == "set") {
      set_block(statement, depth);
    } else if (name == "macro") {
      statement.kind = Statement::kMacro;
      statement.name = expect_name();
      signature(statement);
      expect_block_end();
      statement.bodies.push_back(body_until({"endmacro"}, depth + 1));
      at_++;
      if (peek().kind == Token::kName) ++at_;
      expect_block_end();
    } else if (name == "call") {
      statement.kind = Statement::kCallBlock;
      if (is_operator("(")) signature(statement);
      ExprPtr call = condition();
      if (call->kind != Kind::kCall) refuse("a call block without a call");
      statement.expressions.insert(statement.expressions.begin(), std::move(call));
      expect_block_end();
      statement.bodies.push_back(body_until({"endcall"}, depth + 1));
      end_block("endcall");
    } else if (name == "filter") {
      statement.kind = Statement::kFilterBlock;
      statement.expressions.push_back(filter_chain());
      expect_block_end();
      statement.bodies.push_back(body_until({"endfilter"}, depth + 1));
      end_block("endfilter");
    } else if (name == "generation") {
      statement.kind = Statement::kBlock;
      expect_block_end();
      statement.bodies.push_back(body_until({"endgeneration"}, depth + 1));
      end_block("endgeneration");
    } else if (name == "break" || name == "continue") {
      if (loop_depth_ == 0) refuse("'" + name + "' outside of a loop");
      statement.kind = name == "break" ? Statement::kBreak : Statement::kContinue;
      expect_block_end();
    } else {
      refuse("the block '" + name + "'",
             "if, for, set, macro, call, filter, raw, generation, break or continue");
    }
    body.push_back(std::move(statement));
  }

  ExprPtr filter_chain() {
    ExprPtr result = filter(nullptr);
    while (take_operator("|")) result = filter(std::move(result));
    return result;
  }

  void if_block(Statement& statement, int64_t depth) {
    statement.kind = Statement::kIf;
    for (;;) {
      statement.expressions.push_back(tuple(true));
      expect_block_end();
      statement.bodies.push_back(body_until({"endif", "elif", "else"}, depth + 1));
      if (take_name("elif")) continue;
      if (take_name("else")) {
        expect_block_end();
        statement.bodies.push_back(body_until({"endif"}, depth + 1));
      }
      return end_block("endif");
    }
  }

  void for_block(Statement& statement, int64_t depth) {
    statement.kind = Statement::kFor;
    const bool bracket = take_operator("(");
    do {
      statement.targets.push_back(expect_name());
    } while (take_operator(",") && !is_name("in"));
    if (bracket) expect_operator(")");
    if (!take_name("in")) refuse(describe(peek()), "'in'");
    statement.expressions.push_back(tuple(false));
    statement.expressions.push_back(take_name("if") ? condition() : nullptr);
    if (is_name("recursive")) refuse("a recursive loop");
    expect_block_end();
    ++loop_depth_;
    statement.bodies.push_back(body_until({"endfor", "else"}, depth + 1));
    --loop_depth_;
    if (take_name("else")) {
      expect_block_end();
      statement.bodies.push_back(body_until({"endfor"}, depth + 1));
    }
    end_block("endfor");
  }

  void set_block(Statement& statement, int64_t depth) {
    do {
      std::string target = expect_name();
      if (take_operator(".")) target += "." + expect_name();
      statement.targets.push_back(target);
    } while (take_operator(","));
    if (take_operator("=")) {
      statement.kind = Statement::kSet;
      statement.expressions.push_back(tuple());
      return expect_block_end();
    }
    if (statement.targets.size() != 1) refuse(describe(peek()), "'='");
    statement.kind = Statement::kSetBlock;
    if (take_operator("|")) statement.expressions.push_back(filter_chain());
    expect_block_end();
    statement.bodies.push_back(body_until({"endset"}, depth + 1));
    end_block("endset");
  }

  // (a, b=1): names, and defaults of the last of them.
  void signature(Statement& statement) {
    expect_operator("(");
    while (!take_operator(")")) {
      statement.targets.push_back(expect_name());
      if (take_operator("=")) {
        statement.expressions.push_back(condition());
      } else if (!statement.expressions.empty()) {
        refuse("a parameter without a default behind one with a default");
      }
      if (!is_operator(")")) expect_operator(",");
    }
  }

  const std::string& where_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int64_t nesting_ = 0;
  int64_t loop_depth_ = 0;
};

}  // namespace

Body parse_template(std::string_view source, const std::string& where) {
  return Parser(source, where).parse();
}

}  // namespace fathom::jinja
