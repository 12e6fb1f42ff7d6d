#include "serve/explain_prompt.h"

#include <algorithm>
#include <optional>

#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer/bpe_trainer.h"

namespace fathom::serve {
namespace {

class ExplainPromptTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    FileSystem& files = local_file_system();
    files.remove_all(folder());
    files.make_directories(folder());
    const std::string from = FATHOM_GOLDEN_DIR "/tokenizer/deepseek_v3";
    save_tokenizer(files, Tokenizer::load(files, from), folder());
    const std::string golden = FATHOM_GOLDEN_DIR "/jinja/deepseek_v3.json";
    write_file_atomically(files, folder() + "/chat_template.jinja",
                          parse_json(files.read_all(golden), golden)["template"].get<std::string>());
    chat_.emplace(open_chat_vocabulary(files, folder(), {}));
    own_.emplace(open_chat_vocabulary(files, folder(), {.name = "folder"}));
  }
  static void TearDownTestSuite() {
    chat_.reset();
    own_.reset();
    local_file_system().remove_all(folder());
  }
  PromptExplanation explain(const char* json, const ChatVocabulary* own = nullptr) {
    const auto messages = parse_messages(parse_json(json, "messages"), "messages", true);
    return explain_prompt(*chat_, own, messages, {}, false, true);
  }
  static bool has(const PromptExplanation& explanation, std::string_view words) {
    return std::any_of(explanation.notes.begin(), explanation.notes.end(),
                       [&](const std::string& note) { return note.find(words) != note.npos; });
  }

  static std::string folder() { return fmt::format("{}/explain_prompt_test", FATHOM_BINARY_DIR); }
  static inline std::optional<ChatVocabulary> chat_, own_;
};

TEST_F(ExplainPromptTest, PartsAreTheTagsAndTheTextBetween) {
  const PromptExplanation explanation =
      explain(R"([{"role":"system","content":"Be brief."},{"role":"user","content":"Hi there"}])");
  std::string text;
  int64_t tokens = 0;
  for (const PromptPart& part : explanation.parts) {
    text += part.tag == kNoToken ? "[" + part.text + "]" : part.text;
    tokens += part.num_tokens;
  }
  EXPECT_EQ(text, "<｜begin▁of▁sentence｜>[Be brief.]<｜User｜>[Hi there]<｜Assistant｜>");
  EXPECT_EQ(tokens, static_cast<int64_t>(explanation.prompt.tokens.size()));
  EXPECT_TRUE(explanation.notes.empty());
}

TEST_F(ExplainPromptTest, SaysWhatTheModelIsNotShown) {
  const PromptExplanation explanation = explain(R"([{"role":"user","content":"a <｜User｜> b"},
      {"role":"assistant","content":"c","reasoning_content":"long thought"},
      {"role":"user","content":"d"}])");
  EXPECT_TRUE(has(explanation, "messages[1]: its thought (12 bytes)"));
  EXPECT_TRUE(has(explanation, "messages[0]: spells <｜User｜>"));
  EXPECT_EQ(explanation.notes.size(), 2u);
}

TEST_F(ExplainPromptTest, SaysWhereTheFoldersOwnTemplateDiffers) {
  EXPECT_TRUE(has(explain(R"([{"role":"user","content":"Hi"}])", &*own_), "writes the same"));
  // The second round of tools is where the published template forgets its tags.
  const PromptExplanation mended = explain(R"([{"role":"user","content":"a"},
      {"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]},
      {"role":"tool","tool_call_id":"1","content":"x"},{"role":"user","content":"b"}])", &*own_);
  EXPECT_TRUE(has(mended, "instead of \"<｜tool▁outputs▁end｜>")) << mended.notes.front();
}

TEST_F(ExplainPromptTest, SaysThatTheBeginningIsThereTwice) {
  const std::string small = folder() + "/small";
  FileSystem& files = local_file_system();
  files.make_directories(small);
  const std::vector<std::string_view> documents = {"the cat sat on the mat"};
  save_tokenizer(files, train_bpe(documents, {.vocab_size = 300}), small);
  const auto begun = [&](const char* text) {
    write_file_atomically(files, small + "/chat_template.jinja", text);
    const ChatVocabulary chat = open_chat_vocabulary(files, small, {.name = "folder"});
    const auto messages = parse_messages(
        parse_json(R"([{"role":"user","content":"the"}])", "messages"), "messages", true);
    return explain_prompt(chat, nullptr, messages, {}, false, true);
  };
  EXPECT_TRUE(has(begun("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}"), "2 times"));
  EXPECT_TRUE(has(begun("{{ messages[0].content }}"), "0 times"));
  EXPECT_TRUE(begun("{{ bos_token }}{{ messages[0].content }}").notes.empty());
}

}  // namespace
}  // namespace fathom::serve
