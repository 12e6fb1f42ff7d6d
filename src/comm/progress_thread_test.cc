#include "comm/progress_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

namespace fathom {
namespace {

void wait_for(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  ASSERT_TRUE(condition());
}

TEST(ProgressThread, AsksUntilNothingIsLeft) {
  std::atomic<int> left{5}, asked{0};
  ProgressThread thread([&] {
    ++asked;
    return --left > 0;
  });
  EXPECT_EQ(asked, 0);  // nobody woke it
  thread.wake();
  wait_for([&] { return left == 0; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(asked, 5);  // and not once more
  left = 2;
  thread.wake();
  wait_for([&] { return left == 0; });
}

TEST(ProgressThread, AnErrorIsTheOwnersToReport) {
  std::atomic<int> asked{0};
  ProgressThread thread([&]() -> bool {
    ++asked;
    throw std::runtime_error("a rank died");
  });
  thread.wake();
  wait_for([&] { return asked >= 1; });
  thread.wake();
  wait_for([&] { return asked >= 2; });
}

// Woken for something that never comes.
TEST(ProgressThread, StopsWhileItWaits) {
  std::atomic<int> asked{0};
  ProgressThread thread([&] {
    ++asked;
    return true;
  });
  thread.wake();
  wait_for([&] { return asked >= 3; });
  thread.stop();
  const int before = asked;
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(asked, before);
  thread.wake();  // too late
  EXPECT_EQ(asked, before);
}

}  // namespace
}  // namespace fathom
