// `fathom template`: what a conversation looks like to the model.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include "cli/verbs.h"
#include "core/json.h"
#include "serve/api_error.h"
#include "serve/explain_prompt.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string model, messages = "-", form = "auto";
  bool as_published = false, thinking = false, whole = false, explain = false, json = false;
};

Json read_conversation(const Options& options) {
  const std::string name = options.messages == "-" ? "standard input" : options.messages;
  const std::string text =
      options.messages == "-"
          ? std::string(std::istreambuf_iterator<char>(std::cin), {})
          : local_file_system().read_all(options.messages);
  Json json = parse_json(text, name);
  if (json.is_array()) json = Json{{"messages", std::move(json)}};
  if (!json.is_object() || !json.contains("messages"))
    throw_bad_input({name, "messages", "none", "a list of messages, or an object with one", ""});
  return json;
}

void print_explanation(const serve::ChatVocabulary& chat,
                       const serve::PromptExplanation& explanation) {
  const std::vector<TokenId>& tokens = explanation.prompt.tokens;
  std::string ends;
  for (const TokenId id : chat.end_tokens)
    ends.append(ends.empty() ? "" : " ").append(chat.tokenizer.token_bytes(id));
  fmt::print("form    {}{}\ntokens  {}\nends    {}\n", serve::chat_form_name(chat.form),
             chat.as_published ? ", as published" : "", tokens.size(), ends);
  for (const std::string& note : explanation.notes) fmt::print("note    {}\n", note);
  fmt::print("\n");
  for (const serve::PromptPart& part : explanation.parts) {
    if (part.tag != kNoToken) {
      fmt::print("{:>7} {}\n", part.tag, part.text);
    } else {
      fmt::print("{:>7} {}\n", "", Json(part.text).dump());
    }
  }
  if (explanation.prompt.begins_in_thought) fmt::print("\nthe reply begins inside a thought\n");
}

int run(const Options& options) {
  const Json conversation = read_conversation(options);
  try {
    const auto messages = serve::parse_messages(conversation["messages"], "messages", true);
    std::vector<serve::Tool> tools;
    if (conversation.contains("tools")) tools = serve::parse_tools(conversation["tools"], "tools");
    FileSystem& files = local_file_system();
    const serve::ChatVocabulary chat = serve::open_chat_vocabulary(
        files, options.model, {options.form, options.as_published});
    if (!options.explain && !options.json) {
      const auto prompt = chat.prompt(messages, tools, options.thinking, !options.whole);
      fmt::print("{}\n", serve::utf8_text(chat.tokenizer, prompt.tokens));
      return kExitDone;
    }
    std::unique_ptr<serve::ChatVocabulary> own;
    if (chat.form != serve::ChatForm::kTemplate && !chat.chat_template.empty())
      own = std::make_unique<serve::ChatVocabulary>(
          serve::open_chat_vocabulary(files, options.model, {.name = "folder"}));
    const serve::PromptExplanation explanation = serve::explain_prompt(
        chat, own.get(), messages, tools, options.thinking, !options.whole);
    if (!options.json) {
      print_explanation(chat, explanation);
      return kExitDone;
    }
    fmt::print("{}\n", Json{{"form", serve::chat_form_name(chat.form)},
                            {"prompt", serve::utf8_text(chat.tokenizer, explanation.prompt.tokens)},
                            {"tokens", explanation.prompt.tokens},
                            {"begins_in_thought", explanation.prompt.begins_in_thought},
                            {"notes", explanation.notes}}
                           .dump());
    return kExitDone;
  } catch (const serve::ApiError& error) {
    throw Error(ErrorKind::kBadInput, error.what());
  }
}

}  // namespace

Verb template_verb() {
  auto options = std::make_shared<Options>();
  return {
      .name = "template",
      .help = "a conversation as the model gets it: its tags, its text, and why",
      .declare =
          [options](CommandLine& line) {
            line.add("--model", options->model, "model folder; its tokenizer and template are read")
                .required();
            line.add("--messages", options->messages,
                     "JSON file: messages, or an object with messages and tools; -: standard input");
            line.add("--template", options->form, "as in `fathom serve`")
                .one_of({"auto", "v3", "r1", "v3.1", "folder"});
            line.add("--template-as-published", options->as_published,
                     "DeepSeek's forms to the byte, with their known mistakes");
            line.add("--thinking", options->thinking, "the reply is to think first, where it may");
            line.add("--whole", options->whole, "the conversation alone, without the reply's opening");
            line.add("--explain", options->explain,
                     "tags with their ids, and notes on what is not obvious");
            line.add_json(options->json);
            line.epilog("example:  echo '[{\"role\":\"user\",\"content\":\"Hi\"}]' | fathom template "
                        "--model DIR --explain");
          },
      .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
