// What needs no model run: the list of models, and text as tokens and back.
#include "core/json.h"
#include "data/tokenizer/unicode.h"
#include "model/model.h"
#include "serve/api_error.h"
#include "serve/chat_prompt.h"
#include "serve/field_reader.h"
#include "serve/service.h"

namespace fathom::serve {

void Service::models(const HttpRequest& http, const Caller&,
                     const std::shared_ptr<HttpReply>& reply) {
  const auto entry = [this](const std::string& id, const ModelHost& host) {
    const PriceCard& price = host.price();
    return Json{{"id", id},
                {"object", "model"},
                {"created", 0},
                {"owned_by", "deepseek"},
                {"x_fathom",
                 {{"served_name", host.name()},
                  {"max_tokens", host.max_request_tokens()},
                  {"reasoning", host.chat().form != ChatForm::kV3},
                  {"template", chat_form_name(host.chat().form)},
                  {"vocab_size", host.tokenizer().vocab_size()},
                  {"routes", !moe_layers(host.config()).empty()},
                  {"price",
                   {{"currency", core_.config().currency},
                    {"hit_micro", price.hit_micro},
                    {"miss_micro", price.miss_micro},
                    {"output_micro", price.output_micro}}}}}};
  };
  Json list = Json::array();
  for (const char* name : {"deepseek-chat", "deepseek-reasoner"}) {
    if (Served* served = core_.find_model(name)) list.push_back(entry(name, *served->host));
  }
  for (const auto& served : core_.models()) {
    const std::string& name = served->host->name();
    if (name != "deepseek-chat" && name != "deepseek-reasoner")
      list.push_back(entry(name, *served->host));
  }
  bool is_beta = false;
  const std::string path = without_version(http.path, is_beta);
  constexpr std::string_view kOne = "/models/";
  if (!path.starts_with(kOne))
    return send(reply, HttpResponse::json(Json{{"object", "list"}, {"data", list}}.dump()));
  for (const Json& model : list) {
    if (model["id"] == path.substr(kOne.size()))
      return send(reply, HttpResponse::json(model.dump()));
  }
  throw_not_found("no model of this name", "model_not_found");
}

namespace {

// The model of a request that may name one; the first otherwise.
std::string model_or_first(FieldReader& fields) {
  return fields.text("model").value_or("deepseek-chat");
}

}  // namespace

void Service::tokenize(const HttpRequest& http, const Caller&,
                       const std::shared_ptr<HttpReply>& reply) {
  const Json body = parse_body(http.body);
  FieldReader fields(body, "");
  const ModelHost& host = *model_named(model_or_first(fields)).host;
  const Tokenizer& tokenizer = host.tokenizer();
  const auto prompt = fields.text("prompt"), content = fields.text("content");
  const Json* messages = fields.array("messages", kMaxMessages);
  if (int{prompt.has_value()} + int{content.has_value()} + int{messages != nullptr} != 1)
    throw_invalid("prompt", "give one of prompt, content and messages");
  // vLLM adds the first token to a prompt unless told not to; llama.cpp's "content" has none.
  const bool add = fields.flag("add_special_tokens")
                       .value_or(fields.flag("add_special").value_or(prompt.has_value()));
  const bool return_texts = fields.flag("return_token_strs").value_or(false);
  const bool with_pieces = fields.flag("with_pieces").value_or(false);
  const bool parse_special = fields.flag("parse_special").value_or(true);
  const bool generates = fields.flag("add_generation_prompt").value_or(true);
  fields.finish();
  std::vector<TokenId> ids;
  if (messages != nullptr) {
    ids = host.chat()
              .prompt(parse_messages(*messages, "messages", true), {}, /*thinking=*/false, generates)
              .tokens;
  } else {
    ids = tokenizer.encode(prompt ? *prompt : *content, {.allow_special = parse_special});
    const TokenId bos = tokenizer.special().bos;
    if (add && bos != kNoToken) ids.insert(ids.begin(), bos);
  }
  Json json{{"count", ids.size()}, {"max_model_len", host.max_request_tokens()}, {"tokens", ids}};
  if (with_pieces) {
    json["tokens"] = Json::array();
    for (const TokenId id : ids)
      json["tokens"].push_back(
          {{"id", id}, {"piece", utf8_with_replacement(tokenizer.token_bytes(id))}});
  }
  if (return_texts) {
    json["token_strs"] = Json::array();
    for (const TokenId id : ids)
      json["token_strs"].push_back(utf8_with_replacement(tokenizer.token_bytes(id)));
  }
  send(reply, HttpResponse::json(json.dump()));
}

void Service::detokenize(const HttpRequest& http, const Caller&,
                         const std::shared_ptr<HttpReply>& reply) {
  const Json body = parse_body(http.body);
  FieldReader fields(body, "");
  const Tokenizer& tokenizer = model_named(model_or_first(fields)).host->tokenizer();
  const Json* tokens = fields.array("tokens", 1 << 24);
  if (tokens == nullptr) throw_invalid("tokens", "missing, expected token ids");
  fields.finish();
  std::vector<TokenId> ids;
  for (size_t i = 0; i < tokens->size(); ++i) {
    const Json& value = (*tokens)[i];
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX ||
        !tokenizer.is_valid(value.get<TokenId>()))
      throw_out_of_range(fmt::format("tokens[{}]", i), json_kind(value),
                         fmt::format("0 to {}", tokenizer.vocab_size() - 1));
    ids.push_back(value.get<TokenId>());
  }
  const std::string text = utf8_text(tokenizer, ids);
  send(reply, HttpResponse::json(Json{{"prompt", text}, {"content", text}}.dump()));
}

void Service::tokenizer_info(const HttpRequest& http, const Caller&,
                             const std::shared_ptr<HttpReply>& reply) {
  std::string name = http.parameter("model");
  if (name.empty()) name = "deepseek-chat";
  const ModelHost& host = *model_named(name).host;
  const Tokenizer& tokenizer = host.tokenizer();
  const auto text = [&](TokenId id) {
    return id == kNoToken ? Json(nullptr) : Json(std::string(tokenizer.token_bytes(id)));
  };
  const SpecialTokens& special = tokenizer.special();
  send(reply, HttpResponse::json(Json{{"tokenizer_class", "LlamaTokenizerFast"},
                                      {"bos_token", text(special.bos)},
                                      {"eos_token", text(special.eos)},
                                      {"pad_token", text(special.pad != kNoToken ? special.pad
                                                                                 : special.eos)},
                                      {"bos_token_id", special.bos},
                                      {"eos_token_id", special.eos},
                                      {"vocab_size", tokenizer.vocab_size()},
                                      {"model_max_length", host.max_request_tokens()},
                                      {"template", chat_form_name(host.chat().form)},
                                      {"chat_template", host.chat().chat_template}}
                                     .dump()));
}

void Service::apply_template(const HttpRequest& http, const Caller&,
                             const std::shared_ptr<HttpReply>& reply) {
  const Json body = parse_body(http.body);
  FieldReader fields(body, "");
  const std::string name = model_or_first(fields);
  const ModelHost& host = *model_named(name).host;
  const Json* messages = fields.array("messages", kMaxMessages);
  if (messages == nullptr) throw_invalid("messages", "missing, expected an array");
  std::vector<Tool> tools;
  if (const Json* list = fields.array("tools", kMaxTools)) tools = parse_tools(*list, "tools");
  const bool thinking = fields.flag("thinking").value_or(name == "deepseek-reasoner");
  const bool generates = fields.flag("add_generation_prompt").value_or(true);
  fields.finish();
  const ChatPrompt prompt = host.chat().prompt(parse_messages(*messages, "messages", true), tools,
                                               thinking, generates);
  send(reply, HttpResponse::json(Json{{"prompt", utf8_text(host.tokenizer(), prompt.tokens)},
                                      {"tokens", prompt.tokens}}
                                     .dump()));
}

}  // namespace fathom::serve
