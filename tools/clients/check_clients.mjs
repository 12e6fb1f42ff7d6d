// The official clients from npm (openai, @anthropic-ai/sdk) against a running `fathom serve`: the same scenarios as
// check_clients.py beside it has with the PyPI ones.
//
//     node tools/clients/check_clients.mjs http://127.0.0.1:8000 [KEY [KEY_FOR_ONE_AT_A_TIME]]
//
// Any model does: replies are checked for form, not for sense. Exits 1 when something is wrong.
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const [base, key = 'none', limited] = process.argv.slice(2);
let failures = 0;

function check(name, good, detail = '') {
  failures += good ? 0 : 1;
  console.log(good ? 'ok    ' : 'FAILED', name, good ? '' : JSON.stringify(detail));
}
async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}
async function refused(name, call, kind) {
  try {
    await call();
    check(name, false, 'was accepted');
  } catch (error) {
    check(name, error instanceof kind && error.message !== '', String(error));
  }
}

const tools = [
  { type: 'function', function: { name: 'weather', description: 'of a place', parameters: { type: 'object', properties: { place: { enum: ['Rome', 'Oslo'] } }, required: ['place'] } } },
];
const schema = { type: 'object', properties: { answer: { enum: ['yes', 'no'] } }, required: ['answer'], additionalProperties: false };

for (const url of [base, `${base}/v1`]) {
  const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
  const models = await collect(await client.models.list());
  check('models', models.some((model) => model.id === 'deepseek-chat'), models);
  const ask = {
    model: 'deepseek-chat',
    messages: [{ role: 'system', content: 'Be short.' }, { role: 'user', content: 'Hello' }],
    max_tokens: 16,
    temperature: 0,
  };
  const reply = await client.chat.completions.create(ask);
  const text = reply.choices[0].message.content;
  check('chat', reply.object === 'chat.completion' && reply.usage.completion_tokens > 0, reply);
  check('usage', reply.usage.prompt_cache_hit_tokens + reply.usage.prompt_cache_miss_tokens === reply.usage.prompt_tokens, reply.usage);
  let chunks = await collect(await client.chat.completions.create({ ...ask, stream: true }));
  check('stream equals whole', chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('') === text, text);
  chunks = await collect(await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }));
  check('include_usage', chunks.at(-1).usage != null && chunks.at(-1).choices.length === 0, chunks.at(-1));
  const helped = client.chat.completions.stream(ask);
  check('stream helper', (await helped.finalContent()) === text, text);
  const scored = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 });
  const tokens = scored.choices[0].logprobs.content;
  check('logprobs', tokens.length === scored.usage.completion_tokens && tokens.every((token) => token.top_logprobs.length === 3 && token.logprob <= 0), tokens);
  const spelt = tokens.filter((token) => !/^<(｜|\||\/?think)/.test(token.token)).flatMap((token) => token.bytes);
  check('logprobs spell the text', new TextDecoder().decode(Uint8Array.from(spelt)) === text, text);
  const several = await client.chat.completions.create({ ...ask, temperature: 1, n: 3, seed: 5 });
  const again = await client.chat.completions.create({ ...ask, temperature: 1, n: 3, seed: 5 });
  check('n and seed', JSON.stringify(several.choices) === JSON.stringify(again.choices) && several.choices.length === 3);
  const old = await client.completions.create({ model: 'deepseek-chat', prompt: 'Hello', max_tokens: 4, logprobs: 2, echo: true });
  check('completions', old.choices[0].text.startsWith('Hello') && old.choices[0].logprobs.token_logprobs[0] === null, old);

  const called = await client.chat.completions.create({ ...ask, max_tokens: 200, temperature: 1, tools, tool_choice: 'required' });
  const [call] = called.choices[0].message.tool_calls ?? [];
  check('tools', called.choices[0].finish_reason === 'tool_calls' && ['Rome', 'Oslo'].includes(JSON.parse(call.function.arguments).place), called);
  const toolStream = client.chat.completions.stream({ ...ask, max_tokens: 200, temperature: 1, tools, tool_choice: { type: 'function', function: { name: 'weather' } } });
  const streamedCall = (await toolStream.finalChatCompletion()).choices[0].message.tool_calls[0];
  check('tools streamed', streamedCall.function.name === 'weather' && ['Rome', 'Oslo'].includes(JSON.parse(streamedCall.function.arguments).place), streamedCall);
  const answered = await client.chat.completions.create({
    ...ask,
    messages: [...ask.messages, called.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'rain' }],
  });
  check('a tool\'s result', answered.usage.prompt_tokens > reply.usage.prompt_tokens, answered.usage);
  const json = await client.chat.completions.create({
    ...ask, max_tokens: 200, temperature: 1, response_format: { type: 'json_schema', json_schema: { name: 'a', strict: true, schema } },
  });
  check('JSON', ['yes', 'no'].includes(JSON.parse(json.choices[0].message.content).answer), json);

  await refused('bad temperature', () => client.chat.completions.create({ ...ask, temperature: 9 }), OpenAI.BadRequestError);
  await refused('unknown field', () => client.chat.completions.create({ ...ask, colour: 'red' }), OpenAI.BadRequestError);
  await refused('unknown model', () => client.chat.completions.create({ ...ask, model: 'gpt-9' }), OpenAI.BadRequestError);
  if (key !== 'none')
    await refused('wrong key', () => new OpenAI({ baseURL: url, apiKey: 'sk-wrong', maxRetries: 0 }).models.list(), OpenAI.AuthenticationError);
  const stopped = await client.chat.completions.create({ ...ask, max_tokens: 1000, stream: true, ignore_eos: true });
  for await (const chunk of stopped) {
    if (chunk.choices.length > 0) break; // closes the stream
  }
  check('a stream that was left', (await client.chat.completions.create(ask)).choices[0].message.content === text);
}

// One at a time: the second is told 429 and when to come back, and the client does.
if (limited) {
  const statuses = [];
  const client = new OpenAI({
    baseURL: base, apiKey: limited, maxRetries: 5,
    fetch: async (...request) => {
      const response = await fetch(...request);
      statuses.push(response.status);
      return response;
    },
  });
  const ask = { model: 'deepseek-chat', messages: [{ role: 'user', content: 'Hello' }] };
  const long = await client.chat.completions.create({ ...ask, max_tokens: 1500, ignore_eos: true, stream: true });
  setTimeout(() => long.controller.abort(), 500);
  const [, second] = await Promise.all([collect(long).catch(() => null), client.chat.completions.create({ ...ask, max_tokens: 4 })]);
  check('retries', second.choices.length === 1 && statuses.includes(429) && statuses.at(-1) === 200, statuses);
}

const client = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });
const ask = { model: 'deepseek-chat', max_tokens: 12, system: 'Be short.', messages: [{ role: 'user', content: 'Hello' }], top_k: 1 };
const message = await client.messages.create(ask);
const text = message.content.map((block) => block.text ?? '').join('');
check('messages', message.type === 'message' && message.usage.output_tokens > 0, message);
const final = await client.messages.stream(ask).finalMessage();
check('messages streamed', final.content.map((block) => block.text ?? '').join('') === text && final.stop_reason === message.stop_reason, final);
process.exit(failures > 0 ? 1 : 0);
