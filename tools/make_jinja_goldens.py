"""Renderings by jinja2 in the environment that transformers sets up, for src/data/chat/jinja/template_test.cc.

Each case is a template, variables and either what comes out or the fact that it fails. The published template of
DeepSeek-V3 is read from a tokenizer_config.json; the conversations cover its branches.

    .venv-oracle/bin/python tools/make_jinja_goldens.py TOKENIZER_DIR
"""

import json
import pathlib
import sys

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(lineno)

    @jinja2.pass_eval_context
    def _render(self, context, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


V = {
    "x": 5, "y": 2, "f": 2.5, "neg": -7, "s": "Hello, Wörld", "empty": "", "none": None, "yes": True, "no": False,
    "list": [3, 1, 2], "words": ["b", "A", "c"], "d": {"b": 1, "a": [1, 2], "items": "key"}, "nested": [[1, 2], [3]],
    "objs": [{"n": "x", "v": 3, "in": {"k": 1}}, {"n": "y", "v": 1}, {"n": "x", "v": 2, "in": {"k": 0}}],
    "lines": "one\n two\n\nthree\n", "深": "度", "html": "<a href='x'>\"&\"</a>", "spaces": " \t a b  c \n", "big": 10**15,
}

SNIPPETS = r"""
{{ x + y * 2 - 1 }} {{ x / y }} {{ x // y }} {{ neg // y }} {{ neg % y }} {{ x % -3 }} {{ x ** y }} {{ -x ** 2 }} {{ 2 ** -1 }}
{{ f * 2 }} {{ f + 1 }} {{ 1.0 }} {{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 100000.5 }} {{ 1_000 }} {{ 3.0 // 2 }}
{{ s }} {{ s[0] }} {{ s[-1] }} {{ s[7:9] }} {{ s[::-1] }} {{ s[:3] }} {{ s[3:] }} {{ s[-3:] }} {{ s[1:9:2] }} {{ s|length }}
{{ list }} {{ d }} {{ nested }} {{ (1, 2) }} {{ (1,) }} {{ [] }} {{ {} }} {{ none }} {{ yes }} {{ [none, true, "it's", 'a"b', "\n"] }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1] }} {{ 'a' 'b' "c" }} {{ "tab\tnew\nquote\"\\ \x41 \u00e9 \d" }}
{{ 1 < 2 < 3 }} {{ 1 < 3 > 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 'a' != 'b' }} {{ none == none }}
{{ 'ell' in s }} {{ 3 in list }} {{ 9 not in list }} {{ 'a' in d }} {{ not yes }} {{ not not yes }} {{ yes and no or 5 }} {{ '' or 'z' }}
{{ 'p' if x > 3 else 'q' }} {{ 'p' if x > 9 }} {{ 'p' if no else 'q' if no else 'r' }} {{ (1 if yes else 2) + 1 }}
{{ missing }}|{{ missing is defined }}|{{ missing is undefined }}|{{ missing|default('dd') }}|{{ d.missing|default('m') }}|{{ empty|default('e', true) }}|{{ none|default('n') }}|{{ none|d('n', true) }}
{{ d.b }} {{ d['a'][1] }} {{ d.items()|list }} {{ d['items'] }} {{ d.get('b') }} {{ d.get('zz', 7) }} {{ d.get('zz') }} {{ d.keys()|list }} {{ d.values()|list }}
{{ list|sort }} {{ list|sort(reverse=true) }} {{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ objs|sort(attribute='v')|map(attribute='n')|list }} {{ list|reverse|list }} {{ 'abc'|reverse }}
{{ list|first }} {{ list|last }} {{ []|first }} {{ list|max }} {{ list|min }} {{ list|sum }} {{ objs|sum(attribute='v') }} {{ words|join(', ') }} {{ objs|join('-', attribute='n') }} {{ [1, 'a', none]|join }}
{{ objs|map(attribute='in.k', default='none')|list }} {{ words|map('upper')|list }} {{ words|map('replace', 'b', 'zz')|join }} {{ list|map('string')|join('+') }}
{{ objs|selectattr('n', 'equalto', 'x')|map(attribute='v')|list }} {{ objs|rejectattr('n', 'eq', 'x')|list|length }} {{ objs|selectattr('in')|list|length }} {{ objs|selectattr('in', 'defined')|list|length }} {{ list|select('odd')|list }} {{ list|reject('gt', 1)|list }} {{ ['', 'a', none]|select|list }}
{{ s|upper }} {{ s|lower }} {{ 'hELLO wORLD-foo (bar'|title }} {{ 'hELLO'|capitalize }} {{ spaces|trim }}| {{ 'xxaxx'|trim('x') }} {{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ 'straße'|upper }}
{{ lines|indent }}| {{ lines|indent(2, true) }}| {{ lines|indent(2, blank=true) }}| {{ lines|indent('> ') }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ 3.9|int }} {{ '3.9'|int }} {{ '1.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ true|int }} {{ -5|abs }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.9|round(method='floor') }} {{ 7|round }}
{{ d|tojson }} {{ s|tojson }} {{ html|tojson }} {{ [1, 2.5, none, true, "é\n\u0001"]|tojson }} {{ s|tojson(ensure_ascii=true) }} {{ []|tojson }} {{ {}|tojson }} {{ 1e20|tojson }}
{{ d|tojson(indent=2) }} {{ nested|tojson(indent=4) }} {{ {}|tojson(indent=2) }} {{ d|tojson(separators=(',', ':')) }} {{ d|tojson(sort_keys=true) }} {{ [[], {}]|tojson(indent=1) }}
{{ html|e }} {{ html|escape }} {{ html|safe }} {{ x|string ~ 'a' }} {{ d|items|list }} {{ d|dictsort }} {{ {'b': 1, 'A': 2}|dictsort(true) }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ [1, 2, 1, 'a', 'A']|unique|list }}
{{ spaces.split() }} {{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b c '.split(None, 1) }} {{ ' a  b c '.rsplit(None, 1) }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a</think>b'.split('</think>')[-1] }}
{{ '  a '.strip() }}| {{ '  a '.lstrip() }}| {{ '  a '.rstrip() }}| {{ 'xya'.strip('yx') }} {{ 'a\n\n'.rstrip('\n') }}| {{ s.startswith('Hell') }} {{ s.endswith(('x', 'd')) }} {{ s.find('W') }} {{ s.find('q') }} {{ s.rfind('l') }} {{ s.count('l') }} {{ s.upper() }} {{ s.title() }} {{ 'don\'t stop'.title() }} {{ s.replace('Hello', 'Bye') }} {{ '-'.join(words) }} {{ 'ab'.replace('', '.') }}
{{ 'a\r\nb\nc'.splitlines() }} {{ '12'.isdigit() }} {{ 'é'.isalpha() }} {{ 'prefix-a'.removeprefix('prefix-') }} {{ 'a.py'.removesuffix('.py') }} {{ list.index(1) }} {{ list.count(3) }} {{ 'ABC'.lower().capitalize() }}
{% for i in list %}{{ loop.index }}/{{ loop.length }}:{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for i in [] %}never{% else %}nothing{% endfor %} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }} {% endfor %}
{% for i in range(10) if i is odd %}{{ i }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }} {% endfor %} {% for c in 'añb' %}[{{ c }}]{% endfor %} {% for k in d %}{{ k }}{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %} {% for i in list %}{{ loop.previtem|default('-') }}<{{ i }}>{{ loop.nextitem|default('-') }} {% endfor %}
{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }} {% endfor %} {% for r in nested %}{% for i in r %}{{ i }}{{ loop.index }}{% endfor %}|{{ loop.index }}{% endfor %}
{% set a = 1 %}{% for i in list %}{% set a = i %}{{ a }}{% endfor %}{{ a }} {% set ns = namespace(n=0, seen=false) %}{% for i in list %}{% set ns.n = ns.n + i %}{% set ns.seen = true %}{% endfor %}{{ ns.n }}{{ ns.seen }} {% set a, b = 1, 2 %}{{ a + b }} {% if yes %}{% set a = 9 %}{% endif %}{{ a }}
{% set block %}x{{ x }}{% endset %}[{{ block }}] {% set up | upper %}abc{% endset %}{{ up }} {% filter upper %}abc{{ s }}{% endfilter %} {% filter replace('a', 'b') | upper %}aaa{% endfilter %}
{% macro m(a, b=2, c='z') %}<{{ a }},{{ b }},{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=5) }}{{ m(b=1, a=2) }}{{ m() }} {% macro rec(n) %}{{ n }}{% if n > 0 %}{{ rec(n - 1) }}{% endif %}{% endmacro %}{{ rec(3) }}
{% macro wrap(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call wrap('b') %}in {{ x }}{% endcall %} {% macro each(xs) %}{% for i in xs %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each(list) %}({{ i }}){% endcall %}
{% set g = 4 %}{% macro sees() %}{{ g }}{{ x }}{% endmacro %}{{ sees() }} {% macro local() %}{% set g = 5 %}{{ g }}{% endmacro %}{{ local() }}{{ g }}
{% if x > 4 and y < 3 %}A{% elif x %}B{% else %}C{% endif %}{% if missing %}D{% endif %}{% if none is none %}E{% endif %}{% if s is string and d is mapping and list is sequence and list is iterable and x is number %}F{% endif %}
{{ x is odd }} {{ x is even }} {{ x is divisibleby 5 }} {{ x is divisibleby(2) }} {{ x is integer }} {{ f is float }} {{ yes is boolean }} {{ yes is integer }} {{ yes is true }} {{ no is false }} {{ s is mapping }} {{ d is iterable }} {{ d is sequence }} {{ x is iterable }} {{ x is not none }} {{ x is eq 5 }} {{ x is sameas 5 }} {{ x is in list }} {{ 3 is in list }} {{ 'a' is lower }} {{ 'A' is upper }} {{ range is callable }} {{ missing is iterable }} {{ x is ge 5 }} {{ x is lt 5 }}
{%- if yes -%}   tight   {%- endif -%}   after
  {% if yes %}   loose   {% endif %}   after
a   {#- comment -#}   b {# c #} c {#
multi #}
{{- x -}}   {{ y }}   {{- f }}
   {%+ if yes %}kept{% endif +%}
next
{% raw %}{{ not }} {% a %} {# x #}{% endraw %} end {%- raw -%}  x  {%- endraw -%}  y
{{ '{{' }} {{ '%}' }} {{ {'a': {'b': 1}}['a']['b'] }} {{ {'a': {'b': 1}} }}
{{ [1, 2, 3][1:] }} {{ (1, 2, 3)[0] }} {{ list[-1] }} {{ list[5] is defined }} {{ list[:-1] }} {{ list[::-1] }} {{ d['nope'] is defined }} {{ 'abc'[5:] }} {{ 'abc'[-10:2] }} {{ list[10:] }}
{{ range(3)|list }} {{ range(1, 7, 2)|list }} {{ range(3, 0, -1)|list }} {{ dict(a=1, b=2) }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'ab' * 3 }} {{ [0] * 2 }} {{ 3 * 'x' }}
{% generation %}gen {{ x }}{% endgeneration %}|{% for i in list %}{% generation %}{{ i }}{% endgeneration %}{% endfor %}
{{ 深 }} {{ '深度'|length }} {{ '深度求索'[1:3] }} {{ "\U0001F433" }} {{ '🐳'|length }} {{ 'É'|lower }} {{ {'é': 1}|tojson }}
{{ x if x is defined else 'no' }} {{ (missing.attr is defined) if (missing is defined) else 'safe' }} {{ (missing or {}).get('a', 'b') }} {{ objs[0].in.k }} {{ objs[1].in is defined }} {{ d.a.0 }} {{ objs[0]['in']['k'] }}
{{ x|string|length }} {{ -x|abs }} {{ (-x)|abs }} {{ list|length > 2 }} {{ list|length + 1 }} {{ x ~ y|string }} {{ (1 + 2) ~ 3 }} {{ 2 * 3 ~ 4 }} {{ not x == 5 }} {{ 1 if [] else 2 }} {{ 10 - 2 - 3 }} {{ 2 ** 3 ** 2 }} {{ 7 // 2 * 2 }}
{{ 'a' if 'a' in 'abc' and 'z' not in 'abc' else 'b' }} {{ ('a', 'b') }} {{ ['a', 'b'][x > 3] }} {{ none|string }} {{ none|length if none else 0 }} {{ true and 'yes' }} {{ '%s' }} {{ 'x'|default }} {{ ''|default('q') }}
""".strip("\n")

FAILING = [
    "{{ missing.attr }}", "{{ missing.a.b }}", "{{ missing() }}", "{{ x.y() }}", "{{ 1 / 0 }}", "{{ x + s }}", "{{ s + x }}", "{{ missing + 1 }}",
    "{% for i in x %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{{ raise_exception('no') }}", "{{ x < s }}", "{{ none < 1 }}", "{{ x|length }}",
    "{% if %}{% endif %}", "{% if x %}", "{{ x ", "{% endif %}", "{{ 'a }}", "{{ x | nofilter }}", "{{ x is notest }}", "{{ (1 }}", "{{ ) }}", "{# open",
    "{% set x.y = 1 %}", "{{ list.append(1) }}", "{% raw %} open", "{{ a b }}", "{{ [1, 2 }}", "{{ {1: } }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% nonsense %}", "{% break %}", "{{ 'a'.join([1]) }}", "{{ 1 in 'a1' }}", "{{ none + 'a' }}",
    "{{ 'a'.index('z') }}", "{{ x[0][0] }}", "{{ missing < 1 }}", "{{ none|tojson|nosuch }}", "{% for %}{% endfor %}", "{{ }}", "{{ x is }}", "{{ x. }}",
]

USER, HELLO = {"role": "user", "content": "Hi <b>ü</b>"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be\nbrief."}


def call(name, arguments, content=None):
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


CALLS = {"role": "assistant", "content": None, "tool_calls": [call("get", '{"a": 1}')]}
TALKING_CALLS = {"role": "assistant", "content": "Let me see.", "tool_calls": [call("get", "{}"), call("put", '{"b": [1]}')]}
TOOL = {"role": "tool", "content": "42", "tool_call_id": "c"}
CONVERSATIONS = [
    [], [USER], [SYSTEM, USER], [SYSTEM, SYSTEM, USER, HELLO, USER], [USER, HELLO], [USER, SYSTEM, HELLO],
    [USER, {"role": "assistant", "content": "<think>\nhm</think>\n\nyes"}, USER], [USER, CALLS, TOOL], [USER, CALLS, TOOL, HELLO], [USER, TALKING_CALLS, TOOL, TOOL, HELLO, USER],
    [SYSTEM, USER, TALKING_CALLS, TOOL, TOOL, HELLO, USER, CALLS, TOOL, HELLO], [{"role": "other", "content": "x"}, USER], [USER, TALKING_CALLS],
]


def main():
    env = environment()
    cases = []

    def add(template, variables):
        try:
            cases.append({"template": template, "variables": variables, "output": env.from_string(template).render(**variables)})
        except Exception as error:  # whatever it is: ours is an error too
            cases.append({"template": template, "variables": variables, "error": f"{type(error).__name__}: {error}"})

    for snippet in SNIPPETS.split("\n"):
        add(snippet, V)
    multi = "\n".join(SNIPPETS.split("\n")[-22:-10])
    add(multi, V)
    add("{% for m in [1,2] %}\n  {% if m == 1 %}\n    one\n  {% else %}\n    two\n  {% endif %}\n{% endfor %}\nend\n", V)
    add("  {# note #}\n  {% set a = 1 %}\n\tx {% if a %}y{% endif %}\n\n{{ a }}\n\n", V)
    add("a\r\nb\rc\n{% if yes %}\r\nd{% endif %}\n", V)
    add("{%- for i in list %}\n  {{- i }}\n{%- endfor %}\n\n", V)
    for template in FAILING:
        add(template, V)
        assert "error" in cases[-1], template
    published = json.loads((pathlib.Path(sys.argv[1]) / "tokenizer_config.json").read_text())["chat_template"]
    dialogues = []
    for messages in CONVERSATIONS:
        for extra in ({}, {"add_generation_prompt": True}):
            variables = {"messages": messages, "bos_token": "<｜begin▁of▁sentence｜>", **extra}
            dialogues.append({"variables": variables, "output": env.from_string(published).render(**variables)})
    for case in cases:
        assert case.pop("variables") is V
    folder = pathlib.Path(__file__).parent.parent / "tests/golden/jinja"
    folder.mkdir(exist_ok=True)

    def lines(items):
        return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]"

    (folder / "snippets.json").write_text(
        '{"variables": ' + json.dumps(V, ensure_ascii=False) + ',\n"cases": ' + lines(cases) + "}\n")
    (folder / "deepseek_v3.json").write_text(
        '{"template": ' + json.dumps(published, ensure_ascii=False) + ',\n"cases": ' + lines(dialogues) + "}\n")
    bad = [case for case in cases if "error" in case and case["template"] not in FAILING]
    print(len(cases), "snippets,", len(dialogues), "conversations, jinja2", jinja2.__version__)
    for case in bad:
        print("fails:", case["template"], case["error"])


if __name__ == "__main__":
    main()
