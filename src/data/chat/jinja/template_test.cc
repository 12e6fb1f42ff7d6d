// Templates byte for byte against jinja2 (golden files made by tools/make_jinja_goldens.py), and
// what must end in an Error.
#include "data/chat/jinja/template.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace fathom {
namespace {

Json golden(const std::string& name) {
  return parse_json(local_file_system().read_all(FATHOM_GOLDEN_DIR "/jinja/" + name), name);
}

// The output, or "error: …".
std::string render(const std::string& source, const Json& variables, std::time_t now = 0,
                   const TemplateLimits& limits = {}) {
  try {
    return ChatTemplate(source, "t").render(variables, now, limits);
  } catch (const Error& error) {
    return std::string("error: ") + error.what();
  }
}

TEST(ChatTemplateTest, RendersAsJinja2) {
  const Json all = golden("snippets.json");
  int failing = 0;
  for (const Json& one : all["cases"]) {
    const std::string source = one["template"];
    const std::string found = render(source, all["variables"]);
    if (one.contains("error")) {
      ++failing;
      EXPECT_TRUE(found.starts_with("error: "))
          << source << "\ngave: " << found << "\njinja2: " << one["error"];
    } else {
      EXPECT_EQ(found, one["output"].get<std::string>()) << source;
    }
  }
  EXPECT_GT(failing, 40);
  EXPECT_GT(all["cases"].size(), 90u);
}

TEST(ChatTemplateTest, RendersThePublishedTemplateOfDeepSeekV3) {
  const Json all = golden("deepseek_v3.json");
  const ChatTemplate chat(all["template"].get<std::string>());
  for (const Json& one : all["cases"]) {
    EXPECT_EQ(chat.render(one["variables"]), one["output"].get<std::string>())
        << one["variables"].dump();
  }
  EXPECT_GT(all["cases"].size(), 20u);
}

TEST(ChatTemplateTest, ErrorsNameTheLineAndTheReason) {
  const Json none = Json::object();
  const auto error = [&](const std::string& source) { return render(source, none); };
  EXPECT_NE(error("a\n\n{{ x.y }}").find("t:3 ('x' is undefined)"), std::string::npos)
      << error("a\n\n{{ x.y }}");
  EXPECT_NE(error("\n{{ raise_exception('roles must alternate') }}").find("roles must alternate"),
            std::string::npos);
  EXPECT_NE(error("{% include 'x' %}").find("the block 'include'"), std::string::npos);
  EXPECT_NE(error("{{ 1 | nosuch }}").find("the filter 'nosuch'"), std::string::npos);
  EXPECT_NE(error("{{ 1 is nosuch }}").find("the test 'nosuch'"), std::string::npos);
  EXPECT_NE(error("{% if 1 %}\n").find("found the end of the template"), std::string::npos);
  for (const char* source : {"{{ 99999999999999999999 }}", "{{ x.99999999999999999999 }}"})
    EXPECT_NE(error(source).find("an integer beyond 64 bits"), std::string::npos) << source;
}

TEST(ChatTemplateTest, TheClockIsTheCallers) {
  // 2024-08-20 12:34:56 UTC
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y %H:%M') }}", Json::object(), 1724157296),
            "20 Aug 2024 12:34");
  EXPECT_EQ(render("{{ strftime_now('') }}.", Json::object()), ".");
}

TEST(ChatTemplateTest, HostileTemplatesEndInAnError) {
  const auto repeated = [](const std::string& part, int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += part;
    return text;
  };
  const std::vector<std::string> bombs{
      "{{ " + repeated("(", 100'000),
      "{{ " + repeated("[", 100'000),
      "{{ " + repeated("-", 100'000) + "1 }}",
      "{{ " + repeated("not ", 100'000) + "1 }}",
      "{{ 1" + repeated(" + 1", 100'000) + " }}",
      "{{ x" + repeated(".a", 100'000) + " }}",
      "{{ 1" + repeated(" if 1 else 1", 100'000) + " }}",
      repeated("{% if 1 %}", 100'000),
      repeated("{% for i in [1] %}", 1000) + repeated("{% endfor %}", 1000),
      "{% for i in range(1000000000) %}{% endfor %}",
      "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
      "{{ 'x' * 1000000000000 }}",
      "{{ [0] * 1000000000000 }}",
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
      "{% endfor %}{{ ns.s }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}"
      "{% endfor %}{{ ns.l|tojson }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{{ 'a'|indent(1000000000) }}",
      "{{ 2 ** 1000000 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 99999999999999999999 }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ strftime_now('%Y' * 100000) }}",
  };
  for (const std::string& bomb : bombs) {
    const std::string found = render(bomb, Json::object());
    EXPECT_TRUE(found.starts_with("error: ")) << bomb.substr(0, 60) << ": " << found.substr(0, 60);
  }
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.x = ns %}ok", Json::object()), "ok");
  EXPECT_EQ(render("x", Json::array()).substr(0, 6), "error:");
}

}  // namespace
}  // namespace fathom
