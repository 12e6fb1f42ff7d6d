"""The official clients (openai, and anthropic where installed) against a running `fathom serve`.

    fathom serve --model DIR --port 8000 &
    python tools/check_openai_clients.py http://127.0.0.1:8000 [KEY]

Any model does: replies are checked for form, not for sense. Exits 1 when something is wrong.
"""

import sys

import openai

base = sys.argv[1]
key = sys.argv[2] if len(sys.argv) > 2 else "none"
failures = 0


def check(name, good, detail=""):
    global failures
    failures += not good
    print(("ok    " if good else "FAILED"), name, "" if good else detail)


for url in (base, base + "/v1"):
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    check("models", "deepseek-chat" in [m.id for m in client.models.list()])
    ask = dict(
        model="deepseek-chat",
        messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}],
        max_tokens=16,
        temperature=0,
    )
    reply = client.chat.completions.create(**ask)
    text = reply.choices[0].message.content
    check("chat", reply.object == "chat.completion" and reply.usage.completion_tokens > 0, reply)
    check("usage", reply.usage.prompt_cache_hit_tokens + reply.usage.prompt_cache_miss_tokens
          == reply.usage.prompt_tokens, reply.usage)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check("stream equals whole", streamed == text, (streamed, text))
    chunks = list(client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}))
    check("include_usage", chunks[-1].usage is not None and not chunks[-1].choices, chunks[-1])
    scored = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    content = scored.choices[0].logprobs.content
    check("logprobs", len(content) == scored.usage.completion_tokens
          and all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in content), content)
    check("logprobs spell the text", b"".join(bytes(t.bytes) for t in content).decode(
        "utf-8", "replace") == text, text)
    several = client.chat.completions.create(**{**ask, "temperature": 1}, n=3, seed=5)
    check("n", [c.index for c in several.choices] == [0, 1, 2])
    again = client.chat.completions.create(**{**ask, "temperature": 1}, n=3, seed=5)
    check("seed", [c.message.content for c in several.choices]
          == [c.message.content for c in again.choices])
    old = client.completions.create(model="deepseek-chat", prompt="Hello", max_tokens=4, logprobs=2,
                                    echo=True)
    check("completions", old.choices[0].text.startswith("Hello")
          and old.choices[0].logprobs.token_logprobs[0] is None, old)
    tools = [{"type": "function", "function": {
        "name": "weather", "description": "of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}]
    try:
        called = client.chat.completions.create(**ask, tools=tools)
        message = called.choices[0].message
        check("tools", (called.choices[0].finish_reason == "tool_calls") == bool(message.tool_calls))
    except openai.BadRequestError as error:
        check("tools", "vocabulary" in str(error) or "context" in str(error), error)
    for name, change, kind in (
        ("bad temperature", {"temperature": 9}, openai.BadRequestError),
        ("unknown field", {"extra_body": {"colour": "red"}}, openai.BadRequestError),
        ("unknown model", {"model": "gpt-9"}, openai.NotFoundError),
    ):
        try:
            client.chat.completions.create(**{**ask, **change})
            check(name, False, "was accepted")
        except kind as error:
            check(name, error.body["message"] != "", error.body)
if key != "none":
    try:
        openai.OpenAI(base_url=base, api_key="sk-wrong", max_retries=0).models.list()
        check("wrong key", False, "was accepted")
    except openai.AuthenticationError:
        check("wrong key", True)

try:
    import anthropic
except ImportError:
    anthropic = None
if anthropic is not None:
    client = anthropic.Anthropic(base_url=base, api_key=key, max_retries=0)
    ask = dict(model="deepseek-chat", max_tokens=12, system="Be short.",
               messages=[{"role": "user", "content": "Hello"}])
    ask["extra_body"] = {"top_k": 1}
    message = client.messages.create(**ask)
    text = "".join(block.text for block in message.content if block.type == "text")
    check("messages", message.type == "message" and message.usage.output_tokens > 0, message)
    with client.messages.stream(**ask) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("messages stream equals whole", streamed == text, (streamed, text))
    check("messages stop reason", final.stop_reason == message.stop_reason, final)
sys.exit(failures > 0)
