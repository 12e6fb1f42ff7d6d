#include "core/config.h"

#include "core/error.h"

namespace fathom {
namespace {

struct Inner {
  double rate = 0.1;
  std::string shape = "constant";
};
void visit_fields(Inner& c, ConfigFields& f) {
  f.field("rate", c.rate, between(0, 1), "a rate");
  f.choice("shape", c.shape, {"constant", "cosine"}, "the shape");
}

struct Outer {
  bool on = false;
  int64_t rows = 4;
  std::string path;
  int64_t amount = 7;  // written as "7x"
  std::string keys;
  Inner inner;
  std::vector<Inner> items;
};
void visit_fields(Outer& c, ConfigFields& f) {
  f.field("on", c.on, "a switch");
  f.field("rows", c.rows, at_least(1), "a count");
  f.field("path", c.path, "a path");
  f.text("amount",
         {.set =
              [&c](const std::string& text) {
                if (text.back() != 'x') fail(ErrorKind::kBadInput, "a number with x");
                c.amount = std::stoll(text);
              },
          .get = [&c] { return std::to_string(c.amount) + "x"; }},
         "an amount");
  f.json("keys", c.keys, "any keys");
  f.table("inner", c.inner, "nested");
  f.tables("items", c.items, "a list");
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Outer read(const std::string& toml, ConfigOrigins* origins = nullptr) {
  Outer config;
  ConfigFields fields = fields_of(config);
  ConfigOrigins own;
  read_toml(toml, "run.toml", fields, origins != nullptr ? *origins : own);
  return config;
}

constexpr const char* kFull = R"(
on = true
rows = 12
path = "a # b \" c"
amount = "9x"
keys = {hidden = 3, scaling = {type = "yarn", factor = 4.0}}
[inner]
rate = 0.30000000000000004
shape = "cosine"
[[items]]
rate = 1
[[items]]
shape = "cosine"
)";

TEST(ConfigTest, ReadsEveryKindOfField) {
  ConfigOrigins origins;
  const Outer c = read(kFull, &origins);
  EXPECT_TRUE(c.on);
  EXPECT_EQ(c.rows, 12);
  EXPECT_EQ(c.path, "a # b \" c");
  EXPECT_EQ(c.amount, 9);
  EXPECT_EQ(c.inner.rate, 0.30000000000000004);
  EXPECT_EQ(c.inner.shape, "cosine");
  ASSERT_EQ(c.items.size(), 2u);
  EXPECT_EQ(c.items[0].rate, 1);
  EXPECT_EQ(c.items[1].shape, "cosine");
  EXPECT_EQ(c.keys, R"({"hidden":3,"scaling":{"factor":4.0,"type":"yarn"}})");
  EXPECT_EQ(origins.at("rows"), "file run.toml:3:1");
  EXPECT_EQ(origins.count("inner.missing"), 0u);
}

TEST(ConfigTest, PrintedConfigurationReadsBackToTheSame) {
  Outer c = read(kFull);
  ConfigFields fields = fields_of(c);
  Outer again = read(print_config(fields, {}));
  EXPECT_EQ(diff_config(fields, fields_of(again)), std::vector<std::string>{});
  Outer from_json;
  ConfigFields json_fields = fields_of(from_json);
  ConfigOrigins origins;
  read_config_json(config_to_json(fields), "state.json", json_fields, origins);
  EXPECT_EQ(diff_config(fields, json_fields), std::vector<std::string>{});
  // The comparison sees a change.
  from_json.items[1].rate = 0.2;
  from_json.items.emplace_back();
  EXPECT_EQ(diff_config(fields, json_fields),
            (std::vector<std::string>{"items.1.rate: 0.1 -> 0.2", "items.2.rate: none -> 0.1",
                                      "items.2.shape: none -> \"constant\""}));
}

TEST(ConfigTest, ErrorsNamePlaceFieldFoundAndExpected) {
  EXPECT_EQ(error_of([] { read("on = true\nrow = 3\n"); }),
            "run.toml:2:1: row: found an unknown key (did you mean 'rows'?)");
  EXPECT_EQ(error_of([] { read("rows = \"3\"\n"); }),
            "run.toml:1:1: rows: found string \"3\", expected an integer of at least 1");
  EXPECT_EQ(error_of([] { read("rows = 0\n"); }),
            "run.toml:1:1: rows: found number 0, expected an integer of at least 1");
  EXPECT_EQ(error_of([] { read("rows = 2.0\n"); }),
            "run.toml:1:1: rows: found number 2.0, expected an integer of at least 1");
  EXPECT_EQ(
      error_of([] { read("[inner]\n  rate = 1.5\n"); }),
      "run.toml:2:3: inner.rate: found number 1.5, expected a number of at least 0 and at most 1");
  EXPECT_EQ(error_of([] { read("inner = 4\n"); }),
            "run.toml:1:1: inner: found number 4, expected a table");
  EXPECT_EQ(
      error_of([] { read("[[items]]\nshape = \"round\"\n"); }),
      "run.toml:2:1: items.0.shape: found string \"round\", expected one of constant, cosine");
  EXPECT_EQ(error_of([] { read("amount = \"5\"\n"); }),
            "run.toml:1:1: amount: found string \"5\", expected a number with x");
  EXPECT_EQ(
      error_of([] { read("[inner]\nrate = nan\n"); }),
      "run.toml:2:1: inner.rate: found number null, expected a number of at least 0 and at most 1");
  EXPECT_NE(error_of([] { read("rows = = 3\n"); }).find("run.toml:1:"), std::string::npos);
  EXPECT_NE(error_of([] { read("zzzzzzzz = 3\n"); }).find("expected one of on, rows"),
            std::string::npos);
}

TEST(ConfigTest, OverridesFollowThePathAndSayWhereTheyFailed) {
  Outer c = read(kFull);
  ConfigFields fields = fields_of(c);
  ConfigOrigins origins;
  apply_override("inner.rate", "0.5", fields, origins);
  apply_override("path", "3", fields, origins);  // a string field takes it as text
  apply_override("on", "false", fields, origins);
  apply_override("items.1.rate", "0.25", fields, origins);
  apply_override("keys.scaling.factor", "8", fields, origins);
  EXPECT_EQ(c.inner.rate, 0.5);
  EXPECT_EQ(c.path, "3");
  EXPECT_FALSE(c.on);
  EXPECT_EQ(c.items[1].rate, 0.25);
  EXPECT_EQ(c.keys, R"({"hidden":3,"scaling":{"factor":8,"type":"yarn"}})");
  EXPECT_EQ(origins.at("inner.rate"), "flag");
  EXPECT_EQ(error_of([&] { apply_override("inner.rat", "1", fields, origins); }),
            "--inner.rat: inner.rat: found an unknown field (did you mean 'inner.rate'?)");
  EXPECT_NE(error_of([&] {
              apply_override("items.2.rate", "1", fields, origins);
            }).find("an index below 2"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              apply_override("rows", "many", fields, origins);
            }).find("expected an integer"),
            std::string::npos);
  EXPECT_NE(
      error_of([&] { apply_override("rows.x", "1", fields, origins); }).find("which is a value"),
      std::string::npos);
  EXPECT_NE(error_of([&] { apply_override("inner", "1", fields, origins); }).find("inner.rate"),
            std::string::npos);
}

TEST(ConfigTest, EnvironmentSetsFieldsByUpperCasePath) {
  Outer c;
  ConfigFields fields = fields_of(c);
  ConfigOrigins origins;
  read_environment(
      [](const char* name) {
        return std::string_view(name) == "FATHOM_INNER_RATE" ? "0.75" : nullptr;
      },
      fields, origins);
  EXPECT_EQ(c.inner.rate, 0.75);
  EXPECT_EQ(origins.at("inner.rate"), "environment FATHOM_INNER_RATE");
  EXPECT_NE(error_of([&] {
              read_environment(
                  [](const char* name) {
                    return std::string_view(name) == "FATHOM_ROWS" ? "-1" : nullptr;
                  },
                  fields, origins);
            }).find("environment variable FATHOM_ROWS: rows: found number -1"),
            std::string::npos);
}

}  // namespace
}  // namespace fathom
