#include "core/json.h"

namespace fathom {
namespace {

std::string error_of(const std::string& text) {
  try {
    parse_json(text, "f.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    return error.what();
  }
  return "no error";
}

TEST(ParseJson, EveryKindOfValueInOrder) {
  const Json root = parse_json(
      R"( {"z": [1, -2, 2.5, 1e3, true, false, null, "s\u00e9\n"], "a": {}, "m": {"k": []}} )",
      "f");
  EXPECT_EQ(root.dump(), R"({"z":[1,-2,2.5,1000.0,true,false,null,"sé\n"],"a":{},"m":{"k":[]}})");
  EXPECT_TRUE(root["z"][0].is_number_unsigned());
  EXPECT_TRUE(root["z"][1].is_number_integer());
  EXPECT_TRUE(root["z"][3].is_number_float());
  EXPECT_EQ(parse_json("3", "f"), 3);
  EXPECT_EQ(parse_json("\"\"", "f"), "");
  EXPECT_EQ(parse_json("18446744073709551615", "f").get<uint64_t>(), 18446744073709551615u);
}

// Agrees with the library's own builder on nested values of all kinds.
TEST(ParseJson, BuildsWhatTheLibraryBuilds) {
  std::string text = "[";
  for (int i = 0; i < 50; ++i) {
    text += (i > 0 ? "," : "") +
            std::string(R"({"a":[[1,[2]],{"b":{"c":[null,{}]}}],"d":"x","e":[{},[],{"f":0.1}]})");
  }
  text += "]";
  EXPECT_EQ(parse_json(text, "f").dump(), Json::parse(text).dump());
}

TEST(ParseJson, ErrorsSayWhere) {
  EXPECT_EQ(error_of("{\"a\": 1,\n \"b\" 2}").find("f.json:2:6: not valid JSON: "), 0u);
  EXPECT_NE(error_of(""), "no error");
  EXPECT_NE(error_of("{"), "no error");
  EXPECT_NE(error_of("[1,]"), "no error");
  EXPECT_NE(error_of("1 2"), "no error");
  EXPECT_NE(error_of("{a: 1}"), "no error");
  EXPECT_NE(error_of("NaN"), "no error");
  EXPECT_NE(error_of("1e999"), "no error");        // out of range
  EXPECT_NE(error_of("\"\xff\""), "no error");     // not UTF-8
  EXPECT_NE(error_of("\"\\ud800\""), "no error");  // half of a surrogate pair
  EXPECT_NE(error_of(std::string("[1\0]", 4)), "no error");
  EXPECT_NE(error_of("// comment\n1"), "no error");
}

TEST(ParseJson, DuplicateKeysAreErrorsPerObject) {
  EXPECT_EQ(error_of(R"({"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]})"), "no error");
  EXPECT_EQ(error_of(R"({"a":1,"b":{"x":2,"y":3,"x":4}})"),
            "f.json: x: found the key twice in one object, expected once");
  EXPECT_NE(error_of(R"({"a":1,"\u0061":2})"), "no error");  // the same key written otherwise
}

TEST(ParseJson, DepthIsBounded) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_EQ(error_of(nested(200)), "no error");
  EXPECT_EQ(error_of(nested(201)), "f.json: found nesting deeper than 200 levels");
  EXPECT_NE(error_of(std::string(1'000'000, '[')), "no error");
}

TEST(ParseJson, ManyKeysInOneObject) {
  // As many as a large vocabulary has; searching for each among the ones before would take minutes.
  std::string text = "{";
  for (int i = 0; i < 150'000; ++i)
    text += fmt::format("{}\"token {}\":{}", i > 0 ? "," : "", i, i);
  text += "}";
  const Json root = parse_json(text, "f");
  EXPECT_EQ(root.size(), 150'000u);
  int64_t i = 0;
  for (const auto& [key, value] : root.items()) ASSERT_EQ(value, i++);
}

TEST(DescribeJson, IsShortAndWhole) {
  EXPECT_EQ(describe_json(nullptr), "null");
  EXPECT_EQ(describe_json(true), "true");
  EXPECT_EQ(describe_json(3), "number 3");
  EXPECT_EQ(describe_json("abc"), "string \"abc\"");
  EXPECT_EQ(describe_json(Json::array()), "an array");
  EXPECT_EQ(describe_json(Json::object()), "an object");
  // Cut between characters, so that the message stays UTF-8.
  std::string text = "x";
  for (int i = 0; i < 40; ++i) text += "é";
  const std::string described = describe_json(text);
  EXPECT_LT(described.size(), 80u);
  EXPECT_NO_THROW(Json(described).dump());
}

}  // namespace
}  // namespace fathom
