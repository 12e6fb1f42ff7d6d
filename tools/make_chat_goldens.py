"""What DeepSeek's published chat templates make of conversations, by jinja2, for src/serve/chat_prompt_test.cc.

V3's template is read from its tokenizer_config.json. R1's is the same with another opening of the reply. V3.1's is read
from the file assets/chat_template.jinja of its repository (MIT) and kept beside the results, for our own interpreter.

    .venv-oracle/bin/python tools/make_chat_goldens.py TOKENIZER_DIR V3_1_TEMPLATE_FILE
"""

import json
import pathlib
import sys

from make_jinja_goldens import CALLS, HELLO, SYSTEM, TALKING_CALLS, TOOL, USER, environment

THOUGHT = {"role": "assistant", "content": "<think>\nhm</think>\n\nyes</think>!"}
ERROR = {"role": "tool", "content": "no\nsuch", "tool_call_id": "c"}
PREFIX = {"role": "assistant", "content": "I think", "prefix": True}
ROUND = [USER, CALLS, TOOL]
CONVERSATIONS = [
    [USER], [SYSTEM, USER], [SYSTEM, SYSTEM, USER, HELLO, USER], [USER, HELLO], [USER, HELLO, USER, HELLO, SYSTEM, USER],
    [SYSTEM], [HELLO], [USER, USER], [USER, HELLO, HELLO], [USER, THOUGHT, USER], [USER, THOUGHT],
    ROUND, ROUND + [HELLO], ROUND + [THOUGHT, USER], [USER, CALLS], [USER, TALKING_CALLS, TOOL, ERROR, HELLO, USER],
    ROUND + [CALLS, TOOL], ROUND + [USER], ROUND + [HELLO, USER, TALKING_CALLS, TOOL, ERROR, HELLO], [CALLS, TOOL, HELLO],
    ROUND + [TALKING_CALLS, TOOL, TOOL, USER, HELLO, USER, CALLS, ERROR],
]
PARAMETERS = {"type": "object", "properties": {"城市": {"type": "string", "enum": ["Zürich", "深圳"]}, "n": {"type": "integer"}},
              "required": ["城市"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The \"weather\"", "parameters": PARAMETERS}},
         {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}}]
# As the model card of V3.1 gives it (its json.dumps does not escape here: the card's example has no such letters).
CARD = """## Tools
You have access to the following tools:
{tools}
IMPORTANT: ALWAYS adhere to this exact format for tool use:
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>{{additional_tool_calls}}<｜tool▁calls▁end｜>

Where:

- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema
- For multiple tool calls, chain them directly without separators or spaces
"""


def card_text():
    tools = "".join(f"\n### {f['name']}\nDescription: {f['description']}\n\nParameters: {json.dumps(f['parameters'], ensure_ascii=False)}\n"
                    for f in (tool["function"] for tool in TOOLS))
    return CARD.format(tools=tools)


def main():
    v3 = json.loads((pathlib.Path(sys.argv[1]) / "tokenizer_config.json").read_text())["chat_template"]
    opening = "{{'<｜Assistant｜>'}}{% endif %}"
    assert v3.endswith(opening)
    r1 = v3[:-len(opening)] + "{{'<｜Assistant｜><think>\\n'}}{% endif %}"
    env = environment()
    cases = []

    def add(form, template, messages, tools=(), spoken=None, **variables):
        text = env.from_string(template).render(messages=spoken or messages, bos_token="<｜begin▁of▁sentence｜>", **variables)
        cases.append({"form": form, "messages": messages, "tools": list(tools), "thinking": False, **variables, "output": text})

    folder = pathlib.Path(__file__).parent.parent / "tests/golden/jinja"
    v31 = pathlib.Path(sys.argv[2]).read_text()
    (folder / "deepseek_v3.1.jinja").write_text(v31)
    for form, template in (("v3", v3), ("r1", r1), ("v3.1", v31)):
        for messages in CONVERSATIONS:
            for generate in (False, True):
                for thinking in (False, True) if form == "v3.1" else (False,):
                    add(form, template, messages, add_generation_prompt=generate, thinking=thinking)
        # The template ends what it is to go on from; whoever serves takes the end away.
        add(form, template, [USER, PREFIX], add_generation_prompt=False, thinking=False)
    add("v3.1", v31, [USER, PREFIX], add_generation_prompt=False, thinking=True)
    for before in ([], [SYSTEM]):
        text = "\n\n".join([message["content"] for message in before] + [card_text()])
        add("v3.1", v31, [*before, USER], tools=TOOLS, spoken=[{"role": "system", "content": text}, USER],
            add_generation_prompt=True, thinking=False)
    (folder / "chat_forms.json").write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
    print(len(cases), "conversations")


main()
