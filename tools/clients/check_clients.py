"""The official clients (openai, and anthropic where installed) against a running `fathom serve`.

    fathom serve --model DIR --port 8000 &
    python tools/clients/check_clients.py http://127.0.0.1:8000 [KEY [KEY_FOR_ONE_AT_A_TIME]]

Any model does: replies are checked for form, not for sense. Exits 1 when something is wrong.
"""

import json
import sys
import threading

import openai

base = sys.argv[1]
key = sys.argv[2] if len(sys.argv) > 2 else "none"
limited = sys.argv[3] if len(sys.argv) > 3 else None
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
    spelt = b"".join(bytes(t.bytes) for t in content if not t.token.startswith(("<｜", "<|", "<think", "</think")))
    check("logprobs spell the text", spelt.decode("utf-8", "replace") == text, text)
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
        "parameters": {"type": "object", "properties": {"place": {"enum": ["Rome", "Oslo"]}}, "required": ["place"]}}}]
    call_it = {**ask, "max_tokens": 200, "temperature": 1, "tools": tools, "tool_choice": "required"}
    called = client.chat.completions.create(**call_it)
    message = called.choices[0].message
    check("tools", called.choices[0].finish_reason == "tool_calls"
          and json.loads(message.tool_calls[0].function.arguments)["place"] in ("Rome", "Oslo"), called)
    with client.chat.completions.stream(**call_it) as events:
        for _ in events:
            pass
        streamed_call = events.get_final_completion().choices[0].message.tool_calls[0].function
    check("tools streamed", streamed_call.name == "weather" and json.loads(streamed_call.arguments)["place"] in ("Rome", "Oslo"),
          streamed_call)
    answered = client.chat.completions.create(**{**ask, "messages": [
        *ask["messages"], message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]})
    check("a tool's result", answered.usage.prompt_tokens > reply.usage.prompt_tokens, answered.usage)
    schema = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}
    formed = client.chat.completions.create(**{**ask, "max_tokens": 200, "temperature": 1}, response_format={
        "type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    check("JSON", json.loads(formed.choices[0].message.content)["answer"] in ("yes", "no"), formed)
    for name, change, kind in (
        ("bad temperature", {"temperature": 9}, openai.BadRequestError),
        ("unknown field", {"extra_body": {"colour": "red"}}, openai.BadRequestError),
        ("unknown model", {"model": "gpt-9"}, openai.BadRequestError),
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

# One at a time: the second is told 429 and when to come back, and the client does.
if limited is not None:
    client = openai.OpenAI(base_url=base, api_key=limited, max_retries=5)
    ask = dict(model="deepseek-chat", messages=[{"role": "user", "content": "Hello"}])
    running = client.chat.completions.create(**ask, max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
    threading.Timer(0.5, running.close).start()
    second = client.chat.completions.with_raw_response.create(**ask, max_tokens=4)
    check("retries", len(second.parse().choices) == 1 and second.retries_taken > 0, second.retries_taken)

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
