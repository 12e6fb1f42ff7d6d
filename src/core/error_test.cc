#include "core/error.h"

namespace fathom {
namespace {

std::string message_of(const BadInput& bad) {
  try {
    throw_bad_input(bad);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    EXPECT_EQ(error.exit_status(), 1);
    return error.what();
  }
}

TEST(Errors, BadInputSaysWhereWhatAndWhy) {
  EXPECT_EQ(message_of({"config.json", "hidden_size", "0", "a positive integer", "see the manual"}),
            "config.json: hidden_size: found 0, expected a positive integer (see the manual)");
  EXPECT_EQ(message_of({"f", "", "nothing", "", ""}), "f: found nothing");
  EXPECT_EQ(message_of({"f", "x", "", "a number", ""}), "f: x: expected a number");
  EXPECT_EQ(message_of({"", "x", "1", "2", ""}), "x: found 1, expected 2");
}

TEST(Errors, KindsMapToExitStatus) {
  EXPECT_EQ(Error(ErrorKind::kUsage, "").exit_status(), 2);
  EXPECT_EQ(Error(ErrorKind::kIo, "").exit_status(), 1);
  try {
    fail(ErrorKind::kIo, "{} of {}", 3, "x");
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "3 of x");
  }
}

TEST(Checks, PrintBothValuesAndTheDetail) {
  const int a = 3, b = 4;
  try {
    FATHOM_CHECK_EQ(a, b, "tensor '{}'", "q");
    ADD_FAILURE();
  } catch (const CheckFailure& failure) {
    const std::string what = failure.what();
    EXPECT_NE(what.find("check failed: a == b: 3 vs 4; tensor 'q'"), std::string::npos) << what;
    EXPECT_NE(what.find("error_test.cc:"), std::string::npos);
  }
  EXPECT_THROW(FATHOM_CHECK(false), CheckFailure);
  EXPECT_THROW(FATHOM_CHECK_LT(b, a), CheckFailure);
  EXPECT_NO_THROW(FATHOM_CHECK_LE(a, a));
  int evaluations = 0;
  FATHOM_CHECK_GE(++evaluations, 1);
  EXPECT_EQ(evaluations, 1);
}

TEST(NearestName, FindsSlipsOfThePenOnly) {
  const std::vector<std::string> names{"hidden_size", "vocab_size", "n_group"};
  EXPECT_EQ(nearest_name("hiden_size", names), "hidden_size");
  EXPECT_EQ(nearest_name("n_groups", names), "n_group");
  EXPECT_EQ(nearest_name("completely_different", names), "");
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("abc", "abc"), 0);
}

}  // namespace
}  // namespace fathom
