// A double of `fathom serve` for the page's tests: the same paths, bodies, headers and errors, replies from a script instead of a
// model. It serves web/dist with the real server's content-security policy. What a user message says chooses what happens:
//   "long story" a slow reply that waits to be stopped        "think"     a reply with thoughts
//   "math"      mathematics, code and a table                "busy N"    503 with Retry-After: 1, N times, then a reply
//   "broken"    the stream ends in the middle                "busy N for S"  the same with Retry-After: S
//   "error"     400 with a message                           "hostile"   scripts, links and images as text
//   "count N"   N words
// `state` steers what no message can: down (every connection is cut), downFromNextChat (from the next chat request on, that one
// included, so that nothing the page asks by itself fails before it), holdBreak ("broken" waits with its end).
// Run alone (`node tests/mock_server.mjs [port]`) it serves the page for development; no key is needed then.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const kRoot = join(dirname(fileURLToPath(import.meta.url)), '..');
export const kPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; " +
  "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const kTypes = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2',
  '.webmanifest': 'application/manifest+json',
};

export const kRichReply = `Euler's identity is $e^{i\\pi} + 1 = 0$, and

$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$

| n | \\(n^2\\) | note |
|--:|----:|:-----|
| 1 | 1 | one |
| 12 | 144 | a dozen |

\`\`\`python
def fib(n: int) -> int:
    """The n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a  # 0, 1, 1, 2, 3, 5
\`\`\`

- first, with **weight**
- second, with \`code\`

> Quoted, and a [link](https://example.org/).
`;
const kHostileReply = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1"> [a](javascript:window.hacked=1)
![p](https://evil.example/p.png) <iframe src="https://evil.example"></iframe> <style>*{display:none}</style>`;

const now = () => Math.floor(Date.now() / 1000);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function makeMock({ auth = true, delayMs = 4, routes = false, harness = null } = {}) {
  const keys = new Map(); // secret -> row
  const conversations = new Map(); // owner/id -> row
  const busy = new Map(); // text -> how often it was refused
  const log = []; // what was asked, for the tests
  const startedAt = Date.now();
  let outputTokens = 0;
  let expertCounts = Array.from({ length: 6 }, () => new Array(32).fill(0));
  const state = { down: false, downFromNextChat: false, holdBreak: false, requests: log, conversations, keys, aborted: 0, bodies: [] };

  function addKey(name, role, secret = 'sk-' + randomBytes(16).toString('hex')) {
    const row = { id: 'k_' + randomBytes(4).toString('hex'), name, prefix: secret.slice(0, 7), role, created: now(), revoked: null, last_used: null, balance_micro: null,
      spent_micro: 0, limits: { requests_per_minute: null, concurrency: null, spend_micro: null } };
    keys.set(secret, row);
    return { ...row, key: secret };
  }
  addKey('first', 'admin', 'sk-admin-test');
  addKey('reader', 'user', 'sk-user-test');

  function json(reply, status, body, headers = {}) {
    reply.writeHead(status, { 'Content-Type': 'application/json', ...headers });
    reply.end(JSON.stringify(body));
  }
  function fail(reply, status, code, message, headers = {}, more = {}) {
    json(reply, status, { error: { message, type: code, param: null, code }, ...more }, headers);
  }

  function usageSeries(url) {
    const from = Number(url.searchParams.get('from')), to = Number(url.searchParams.get('to'));
    const series = [];
    for (let start = Math.floor(from / 86400) * 86400, i = 0; start <= to; start += 86400, i++) {
      if (i % 7 === 5) continue; // a day without use
      const scale = url.searchParams.get('key') ? 0.4 : 1;
      const n = Math.round(scale * (40 + 30 * Math.sin(i / 3) + (i * 7919) % 23));
      series.push({ start, requests: n, prompt_cache_hit_tokens: n * 900, prompt_cache_miss_tokens: n * 450, completion_tokens: n * 320, cost_micro: n * 520 });
    }
    return series;
  }

  function replyFor(text) {
    const count = /count (\d+)/.exec(text);
    if (count) return { content: Array.from({ length: Number(count[1]) }, (_, i) => `word${i}`).join(' ') };
    if (text.includes('math')) return { content: kRichReply };
    if (text.includes('hostile')) return { content: kHostileReply };
    if (text.includes('think')) return { reasoning: 'First I look at the question. Then at what is known.', content: 'After some thought: **42**.' };
    if (text.includes('long story')) return { content: Array.from({ length: 4000 }, (_, i) => `and ${i}`).join(' ') };
    return { content: `You said: ${text.slice(-200)}` };
  }

  async function chat(request, reply, body) {
    const model = body.model;
    if (!['deepseek-chat', 'deepseek-reasoner', 'small'].includes(model)) return fail(reply, 400, 'invalid_request_error', `unknown model: ${model}`);
    const last = body.messages.at(-1).content;
    const refusals = /busy (\d+)(?: for (\d+))?/.exec(last);
    if (refusals) {
      const seen = busy.get(last) ?? 0;
      busy.set(last, seen + 1);
      if (seen < Number(refusals[1])) return fail(reply, seen % 2 ? 429 : 503, 'overloaded', 'the queue is full', { 'Retry-After': refusals[2] ?? '1' });
    }
    if (last.includes('error')) return fail(reply, 400, 'invalid_request_error', 'the field is wrong');
    const id = randomBytes(8).toString('hex');
    reply.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
    let gone = false;
    reply.on('close', () => {
      if (!reply.writableFinished) state.aborted++;
      gone = true;
    });
    const send = (choice, more = {}) => reply.write(`data: ${JSON.stringify({ id, object: 'chat.completion.chunk', created: now(), model, choices: choice ? [{ index: 0, finish_reason: null, ...choice }] : [], ...more })}\n\n`);
    reply.write(': keep-alive\n\n');
    send({ delta: { role: 'assistant', content: '' } });
    const { reasoning, content } = replyFor(last);
    let tokens = 0;
    const pieces = (text) => text.match(/\s*\S+|\s+$/g) ?? [];
    const slow = last.includes('long story') ? 25 : delayMs;
    for (const piece of pieces(reasoning ?? '')) {
      if (gone) return;
      send({ delta: { reasoning_content: piece, content: null } });
      tokens++;
      await wait(slow);
    }
    const total = pieces(content).length;
    for (const [i, piece] of pieces(content).entries()) {
      if (gone) return;
      if (last.includes('broken') && i >= Math.min(3, total - 1)) {
        do await wait(100);
        while (state.holdBreak && !gone);
        return reply.socket.destroySoon();
      }
      const more = routes && body.return_routes ? { token_routes: [{ text: piece, layers: expertCounts.map((_, l) => [(i + l) % 32, (i * 3 + l) % 32]), gates: expertCounts.map(() => [0.7, 0.3]) }] } : {};
      send({ delta: { content: piece, reasoning_content: null }, ...more });
      tokens++;
      outputTokens++;
      expertCounts.forEach((layer, l) => { for (let k = 0; k < 2; k++) layer[(i * (k + 1) * (l + 1) + k * 5) % 32] += 1; });
      if (slow > 0) await wait(slow);
    }
    const prompt = JSON.stringify(body.messages).length >> 2;
    const hit = Math.floor(prompt / 64) * 64;
    send({ delta: { content: '' }, finish_reason: 'stop' });
    send(null, {
      usage: { prompt_tokens: prompt, completion_tokens: tokens, total_tokens: prompt + tokens, prompt_cache_hit_tokens: hit, prompt_cache_miss_tokens: prompt - hit,
        prompt_tokens_details: { cached_tokens: hit }, completion_tokens_details: { reasoning_tokens: pieces(reasoning ?? '').length } },
      x_fathom: { queue_ms: 1, first_token_ms: 12, total_ms: 100, tokens_per_second: 87.5, drafted_tokens: tokens, accepted_tokens: Math.floor(tokens * 0.8), cost_micro: tokens * 2 },
    });
    reply.end('data: [DONE]\n\n');
  }

  function conversationCall(method, owner, id, body, reply) {
    const name = `${owner}/${id}`;
    const row = conversations.get(name);
    if (method === 'GET') return row ? json(reply, 200, row) : fail(reply, 404, 'not_found', 'no such conversation');
    if (method === 'DELETE') {
      conversations.delete(name);
      return json(reply, 200, { deleted: true });
    }
    if (JSON.stringify(body.data).length > 1 << 20) return fail(reply, 413, 'request_too_large', 'data is larger than 1 MiB');
    if (body.version !== (row?.version ?? 0)) return fail(reply, 409, 'conflict', 'another version is stored', {}, { current: row ?? null });
    const saved = { id, title: body.title, version: body.version + 1, updated: Date.now(), data: body.data };
    conversations.set(name, saved);
    return json(reply, 200, { id, version: saved.version, updated: saved.updated });
  }

  function consoleCall(method, url, body, reply) {
    const path = url.pathname.slice('/api/console/'.length);
    if (path === 'keys' && method === 'GET') return json(reply, 200, { keys: [...keys.values()] });
    if (path === 'keys' && method === 'POST') {
      const made = addKey(body.name, body.role ?? 'user');
      Object.assign(keys.get(made.key), { balance_micro: body.balance_micro ?? null, limits: body.limits ?? null });
      return json(reply, 200, { ...keys.get(made.key), key: made.key });
    }
    const change = /^keys\/([^/]+)\/(revoke|top-up)$/.exec(path);
    if (change && method === 'POST') {
      const row = [...keys.values()].find((one) => one.id === change[1]);
      if (!row) return fail(reply, 404, 'not_found', 'no such key');
      if (change[2] === 'revoke') row.revoked = now();
      else row.balance_micro = (row.balance_micro ?? 0) + body.amount_micro;
      return json(reply, 200, row);
    }
    if (path === 'usage') return json(reply, 200, { step: 'day', series: usageSeries(url) });
    if (path === 'ledger') {
      return json(reply, 200, { entries: Array.from({ length: 5 }, (_, i) => ({ time: now() - i * 300, key: 'k', model: 'deepseek-chat', prompt_cache_hit_tokens: 128 * i,
        prompt_cache_miss_tokens: 40 + i, completion_tokens: 200 + 9 * i, cost_micro: 350 + 20 * i, status: 'done' })) });
    }
    return fail(reply, 404, 'not_found', 'no such path');
  }

  function file(url, reply) {
    const page = /^\/($|console$|status$|c\/)/.test(url.pathname);
    const path = normalize(decodeURIComponent(page ? '/index.html' : url.pathname));
    let at = join(kRoot, 'dist', path);
    if (harness && url.pathname.startsWith('/harness/')) at = join(harness, path.slice('/harness'.length));
    else if (harness && !existsSync(at)) at = join(harness, path);
    if (!existsSync(at) || !statSync(at).isFile()) return fail(reply, 404, 'not_found', 'no such file');
    const bytes = readFileSync(at);
    reply.writeHead(200, {
      'Content-Type': kTypes[extname(at)] ?? 'application/octet-stream', 'Content-Security-Policy': kPolicy, 'X-Content-Type-Options': 'nosniff',
      'Referrer-Policy': 'no-referrer', 'Cross-Origin-Opener-Policy': 'same-origin', 'X-Frame-Options': 'DENY', ETag: `"${createHash('sha256').update(bytes).digest('hex')}"`,
      'Cache-Control': url.pathname.startsWith('/assets/') ? 'public, max-age=31536000, immutable' : 'no-cache',
    });
    reply.end(bytes);
  }

  async function answer(request, reply) {
    const url = new URL(request.url, 'http://localhost');
    const path = url.pathname.replace(/^\/v1(?=\/)/, '');
    log.push(`${request.method} ${url.pathname}`);
    if (state.downFromNextChat && path === '/chat/completions') {
      state.downFromNextChat = false;
      state.down = true;
    }
    if (state.down) return reply.destroy();
    if (path === '/health') return json(reply, 200, { status: 'ok' });
    const isApi = /^\/(api\/|models$|chat\/|experts$|user\/)/.test(path);
    if (!isApi) return file(url, reply);
    let bytes = '';
    for await (const piece of request.setEncoding('utf8')) bytes += piece;
    const body = bytes === '' ? null : JSON.parse(bytes);
    if (path === '/chat/completions') state.bodies.push(body);
    let row = { id: 'k_open', name: '', prefix: '', role: 'admin' };
    if (auth) {
      row = keys.get((request.headers.authorization ?? '').replace(/^Bearer /, ''));
      if (!row || row.revoked) return fail(reply, 401, 'authentication_error', 'the key is not known');
      row.last_used = now();
    }
    if (path === '/chat/completions') return chat(request, reply, body);
    if (path === '/api/me') return json(reply, 200, { auth: auth ? 'key' : 'none', key: { id: row.id, name: row.name, prefix: row.prefix, role: row.role }, balance_micro: row.balance_micro ?? null, currency: 'USD', version: '0.1.0' });
    if (path === '/models') {
      const price = { hit_micro: 70000, miss_micro: 270000, output_micro: 1100000 };
      const more = (served_name, reasoning) => ({ served_name, max_tokens: 65536, reasoning, vocab_size: 129280, price, ...(routes ? { routes: true } : {}) });
      return json(reply, 200, { object: 'list', data: [
        { id: 'deepseek-chat', object: 'model', owned_by: 'deepseek', x_fathom: more('small', false) },
        { id: 'deepseek-reasoner', object: 'model', owned_by: 'deepseek', x_fathom: more('small', true) },
        { id: 'small', object: 'model', owned_by: 'fathom', x_fathom: more('small', false) },
      ] });
    }
    if (path === '/api/conversations') {
      const mine = [...conversations.entries()].filter(([name]) => name.startsWith(`${row.id}/`)).map(([, one]) => ({ id: one.id, title: one.title, version: one.version, updated: one.updated, bytes: 1 }));
      return json(reply, 200, { conversations: mine.sort((a, b) => b.updated - a.updated) });
    }
    const one = /^\/api\/conversations\/([A-Za-z0-9_-]{1,64})$/.exec(path);
    if (one) return conversationCall(request.method, row.id, one[1], body, reply);
    if (path === '/api/usage') return json(reply, 200, { step: 'day', series: usageSeries(url) });
    if (path.startsWith('/api/console/')) return row.role === 'admin' ? consoleCall(request.method, url, body, reply) : fail(reply, 403, 'permission_error', 'for administrators');
    if (path === '/api/status') {
      return json(reply, 200, { uptime_s: 93784 + (Date.now() - startedAt) / 1000, state: 'ok', streams: 3, http_requests: log.length, models: [
        { name: 'small', running: 2, waiting: 1, steps: 5120, prompt_tokens: 48230, cached_tokens: 30976, output_tokens: 18230 + outputTokens + Math.floor((Date.now() - startedAt) / 30), preemptions: 1,
          pages: { total: 512, free: 301 }, speculation: { drafted: [9200], accepted: [7912] }, finished: { stop: 130, length: 4, cancelled: 9, deadline: 0, error: 0 } }] });
    }
    if (path === '/experts') {
      const layers = expertCounts.map((counts, l) => ({ layer: l + 1, counts: counts.map((n, e) => n + 200 + Math.round(90 * Math.sin(e * 1.7 + l * 2.1) + 60 * Math.cos(e * 0.6 * (l + 1)))), max_violation: 0.4, entropy: 3.41 - 0.01 * l }));
      return json(reply, 200, { model: 'small', layers, num_experts: 32 });
    }
    return fail(reply, 404, 'not_found', 'no such path');
  }

  const server = createServer((request, reply) => {
    answer(request, reply).catch((error) => {
      console.error(error);
      reply.destroy();
    });
  });
  return {
    state,
    addKey,
    listen: (port = 0) => new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}`))),
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(await makeMock({ auth: false, delayMs: 30, routes: true }).listen(Number(process.argv[2] ?? 8099)));
}
