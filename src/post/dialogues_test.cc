#include "post/dialogues.h"

#include "core/file.h"
#include "data/tokenizer/bpe_trainer.h"
#include "model/config_json.h"
#include "post/demo.h"

namespace fathom {
namespace {

Tokenizer small_tokenizer() {
  const std::string_view text =
      "What is the job of Torvik? Torvik is a baker. And of Sal? Sal is a cook.";
  return train_bpe(std::span(&text, 1), {.vocab_size = 330});
}

TEST(Dialogues, OnlyTheAssistantCounts) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::vector<std::vector<Message>> dialogues{{{Role::kUser, "What is the job of Torvik?"},
                                                     {Role::kAssistant, "Torvik is a baker."},
                                                     {Role::kUser, "And of Sal?"},
                                                     {Role::kAssistant, "Sal is a cook."}}};
  const Source source = dialogue_source("dialogues", dialogues, tokenizer);
  ASSERT_EQ(source.documents.size(), 1u);
  const Document& document = source.documents[0];
  ASSERT_EQ(document.tokens.size(), document.is_label.size());
  std::vector<TokenId> counted;
  for (size_t i = 0; i < document.tokens.size(); ++i) {
    if (document.is_label[i] != 0) counted.push_back(document.tokens[i]);
  }
  const std::string eos(tokenizer.token_bytes(tokenizer.special().eos));
  EXPECT_EQ(tokenizer.decode(counted), "Torvik is a baker." + eos + "Sal is a cook." + eos);
}

TEST(Dialogues, WithoutAnAnswerIsAnErrorThatNamesTheDialogue) {
  const std::vector<std::vector<Message>> dialogues{
      {{Role::kUser, "Hi"}, {Role::kAssistant, "Hello"}}, {{Role::kUser, "Hi"}}};
  try {
    dialogue_source("lessons", dialogues, small_tokenizer());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("lessons: dialogue 1"), std::string::npos)
        << error.what();
  }
}

// Two dialogues packed into one row cost what they cost alone: neither sees the other (row 82).
TEST(Dialogues, PackedDialoguesHaveTheLossTheyHaveAlone) {
  ModelConfig config = demo_model_config();
  config.num_nextn_predict_layers = 0;
  const Tokenizer tokenizer = small_tokenizer();
  config.vocab_size = tokenizer.vocab_size();
  Context ctx(1);
  Model model(config, kPolicyFp32, 64);
  initialize_parameters(config, 5, model.weights());
  const auto loss_sum = [&](const std::vector<std::vector<Message>>& dialogues, int64_t& num_rows) {
    std::vector<Source> sources;
    sources.push_back(dialogue_source("dialogues", dialogues, tokenizer));
    Loader loader(tokenizer, std::move(sources), dialogue_loader_config(), 0, 64, 0);
    num_rows = loader.rows_in_epoch();
    Batch batch;
    loader.reserve(batch, num_rows);
    loader.next(num_rows, batch);
    TrainingPass pass(model, num_rows, 64);
    return pass
        .forward(ctx, {.num_rows = num_rows,
                       .context = batch.context,
                       .row_length = batch.row_length,
                       .tokens = batch.tokens.data(),
                       .is_label = batch.is_label.data(),
                       .first_key = batch.first_key.data(),
                       .positions = batch.positions.data()})
        .main;
  };
  const std::vector<Message> a{{Role::kUser, "Job of Torvik?"}, {Role::kAssistant, "A baker."}};
  const std::vector<Message> b{{Role::kUser, "And of Sal?"}, {Role::kAssistant, "Sal is a cook."}};
  int64_t rows_both = 0, rows_a = 0, rows_b = 0;
  const double both = loss_sum({a, b}, rows_both),
               alone = loss_sum({a}, rows_a) + loss_sum({b}, rows_b);
  EXPECT_EQ(rows_both, 1);
  EXPECT_NEAR(both, alone, 1e-4 * alone);
}

TEST(DemoModel, IsTheOneInConfigs) {
  const std::string path = fmt::format("{}/configs/models/demo.json", FATHOM_SOURCE_DIR);
  ModelConfig file = parse_config_json(local_file_system().read_all(path), path);
  EXPECT_EQ(to_config_json(file), to_config_json(demo_model_config()));
}

}  // namespace
}  // namespace fathom
