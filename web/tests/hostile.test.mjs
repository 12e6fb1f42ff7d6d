// Hostile model output runs nothing and requests nothing, wherever the stream is cut; and a streamed text ends as the same nodes
// as the same text at once. The checker itself is shown nodes that it must refuse.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openBrowser, openPage } from './browser.mjs';
import { kRichReply, makeMock } from './mock_server.mjs';

const E = 'https://evil.example/x';
const kHostile = [
  '<script>window.hacked=1</script>',
  '<img src=x onerror="window.hacked=1">',
  '<svg/onload=window.hacked=1>',
  `<iframe src="${E}"></iframe><object data="${E}"></object><embed src="${E}">`,
  `<style>@import url(${E})</style><link rel=stylesheet href="${E}"><base href="${E}">`,
  `<meta http-equiv=refresh content="0;url=${E}">`,
  '<a href="javascript:window.hacked=1">x</a><form action=javascript:window.hacked=1><button>x</button></form>',
  '[a](javascript:window.hacked=1) [b](JaVaScRiPt:window.hacked=1) [c](\tjavascript:window.hacked=1) [d](java\nscript:window.hacked=1)',
  '[a](&#106;avascript:window.hacked=1) [b](javascript&colon;window.hacked=1) [c](%6aavascript:x) <javascript:window.hacked=1>',
  '[a](data:text/html,<script>window.hacked=1</script>) [b](vbscript:x) [c](file:///etc/passwd) [d](blob:x) [e](//evil.example)',
  `![p](${E}.png) ![q][r]\n\n[r]: ${E}.png "t"\n\n[![in](${E}.png)](javascript:window.hacked=1)`,
  '![x](data:image/svg+xml;base64,PHN2Zy9vbmxvYWQ9d2luZG93LmhhY2tlZD0xPg==)',
  `[r]: javascript:window.hacked=1\n\n[r] [x][r]\n\n[s]: ${E}\n\n[s]`,
  '```html\n<script>window.hacked=1</script>\n',
  '```"><img/src=x/onerror=window.hacked=1>\ncode\n```',
  '````\n```\n</code></pre><script>window.hacked=1</script>\n```\n',
  '`<img src=x onerror=window.hacked=1>` ``<script>`` `',
  '$\\href{javascript:window.hacked=1}{x}$ $\\url{javascript:x}$',
  `$$\\includegraphics{${E}.png}$$ $\\htmlData{x=y}{z}$ $\\htmlStyle{background:url(${E})}{z}$`,
  '$\\text{</span><script>window.hacked=1</script>}$ \\(<img src=x onerror=window.hacked=1>\\)',
  '$$\n<script>window.hacked=1</script>\n$$\n\n\\[ \\def\\a{\\a\\a}\\a \\]',
  '$\\rule{9999em}{9999em}$ $\\kern9999em x$ $\\fcolorbox{red}{blue}{x}$ $\\pmb{x}$ $\\color{url(x)}y$',
  `| <script>window.hacked=1</script> | ![x](${E}) |\n|:--|--:|\n| <img src=x onerror=window.hacked=1> | [x](javascript:1) |\n`,
  '|a|b|\n|:-:|\n|---|---|\n|`|`|\n| \\| | x',
  '> > > <script>window.hacked=1</script>\n> - 1. > ```\n> <img src=x onerror=window.hacked=1>',
  '1. a\n   - b\n     > c\n       ```js\n       alert(1)\n\n<div onclick="window.hacked=1">x</div>',
  '<div><p><table><tr><td></div></p>**unclosed _nested `mixed** tags_`',
  '</div></article></main><body onload=window.hacked=1>',
  '<!--<img src="--><img src=x onerror=window.hacked=1>"> <![CDATA[<script>window.hacked=1</script>]]> <?x ?>',
  '<noscript><p title="</noscript><img src=x onerror=window.hacked=1>"></noscript>',
  '<math><mtext><table><mglyph><style><img src=x onerror=window.hacked=1></style></mglyph></table></mtext></math>',
  '<x id=a name=parts></x><form id=document><input name=body></form>',
  'https://evil.example/x http://evil.example" onmouseover="window.hacked=1 www.evil.example mailto:a@b.c ftp://evil.example',
  `<https://evil.example/"onmouseover=window.hacked=1> <mailto:a@b.c?subject=x>`,
  'a\u0000b \u202Ereversed\u202C \uFEFF \u2028 \ud800 lone \r\n carriage \r return &#0; &#x110000; &amp;lt;script&gt;',
  'para\n#\nhashtag\n#tag\npara\n===\n---\n***\n- \n+ x\n1) y\n    code\n\ttab\n',
  '[x]: <\n[y](<>) [z]( "t" ![ [[[[ ]]]] (((( ** __ ~~ ~ * _ `` ``` ~~~ $$ $ \\( \\[ \\',
  'costs $5 and $6, then $x$ and $$y$$ and $ z $ and \\$5\\$ and $a\n\nb$',
  '$$\nx\n\ny\n$$\n\n$$ unclosed',
];
// Fragments that random texts are made of: every sort of opener and closer, in any order.
const kFragments = [
  '<script>window.hacked=1</script>', '<img src=x onerror=window.hacked=1>', '[x](javascript:window.hacked=1)', `![x](${E})`, '`', '```', '~~~', '```html\n', '\n', '\n\n', '> ', '- ', '1. ', '    ',
  '| a | b |\n|---|---|\n', '|', '$', '$$', '\\(', '\\)', '\\[', '\\]', '\\frac{1}{', '}', '*', '**', '_', '[', ']', '(', ')', '<', '>', '"', "'", '&lt;', '#', '# ', '---', '===', '\t', 'word ', '中文', '🙂',
  '[r]: https://evil.example\n', '[r]', '\\', '!', '</div>', '<a href="', 'https://evil.example ', '\r\n',
];

let mock, browser, origin, page, trouble, context;
before(async () => {
  mock = makeMock({ auth: false, harness: new URL('../../build/page-harness', import.meta.url).pathname });
  origin = await mock.listen();
  browser = await openBrowser();
  ({ page, trouble, context } = await openPage(browser, origin));
  await page.goto(`${origin}/harness/tests/harness.html`);
  await page.waitForFunction(() => window.parts);
  await page.evaluate(() => {
    const kTags = new Set('A BLOCKQUOTE BR CODE DEL DIV EM H1 H2 H3 H4 H5 H6 HR LI OL P PRE S SPAN STRONG TABLE TBODY TD TH THEAD TR UL BUTTON'.split(' '));
    // Why a node must not be in a reply; null when it may. Inside KaTeX's output its own elements and styles are allowed, but nothing that loads or runs.
    window.fault = (root) => {
      for (const element of root.querySelectorAll('*')) {
        const inMath = element.closest('.katex') !== null;
        const name = element.tagName;
        if (!kTags.has(name) && !(inMath && /^(svg|path|line|math|semantics|annotation|m[a-z]+|g)$/i.test(name))) return `element ${name}`;
        for (const { name: attribute, value } of element.attributes) {
          if (attribute.startsWith('on') || ['src', 'srcset', 'srcdoc', 'action', 'formaction', 'xlink:href', 'id', 'name', 'data', 'background'].includes(attribute)) return `attribute ${attribute}`;
          if (attribute === 'href' && !/^(https?:|mailto:)/i.test(value)) return `link ${value}`;
          if (attribute === 'style' && (!inMath || /url\(|expression|import/i.test(value))) return `style ${value}`;
        }
        if (name === 'A' && (element.target !== '_blank' || !element.relList.contains('noopener'))) return 'link without noopener';
      }
      return window.hacked === undefined ? null : 'a script ran';
    };
    // Feeds `text` in pieces and checks after each; gives the fault or null.
    window.feed = async (text, ends) => {
      const host = document.createElement('div');
      document.body.append(host);
      const renderer = new window.parts.MessageRenderer(host, () => 'Copy');
      for (const end of ends) {
        renderer.show(text.slice(0, end), false);
        const fault = window.fault(host);
        if (fault) return `after ${end}: ${fault}`;
      }
      renderer.show(text, true);
      const whole = document.createElement('div');
      document.body.append(whole);
      new window.parts.MessageRenderer(whole, () => 'Copy').show(text, true);
      const fault = window.fault(host) ?? window.fault(whole);
      const same = host.innerHTML === whole.innerHTML;
      const [streamed, atOnce] = [host.innerHTML, whole.innerHTML];
      host.remove();
      whole.remove();
      if (fault) return fault;
      return same ? null : `streamed and whole differ:\n${streamed}\n${atOnce}`;
    };
    // KaTeX is fetched at the first formula; all cases shall meet it.
    const warm = document.createElement('div');
    document.body.append(warm);
    new window.parts.MessageRenderer(warm, () => 'Copy').show('$x$', true);
  });
  await page.waitForSelector('.katex');
});
after(async () => {
  await context?.close();
  await browser?.close();
  await mock?.close();
});

test('the checker refuses what must not be there', async () => {
  const faults = await page.evaluate(() => {
    const shown = (html) => {
      const host = document.createElement('template');
      host.innerHTML = html; // inert: nothing in a template loads or runs
      return window.fault(host.content);
    };
    return ['<img>', '<p onclick="x"></p>', '<a href="javascript:x"></a>', '<a href="https://x">x</a>', '<p style="color:red"></p>', '<span id=a></span>', '<iframe></iframe>'].map(shown);
  });
  assert.ok(faults.every((fault) => fault !== null), JSON.stringify(faults));
  // Those nodes also met the policy, which shows that it is in force and that a breach would be seen. What the page says comes in
  // order, so nothing of it is left once a later word of its own is here.
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 300)));
  await page.evaluate(() => console.error('the last word'));
  for (let i = 0; i < 600 && !trouble.includes('console: the last word'); i++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(trouble.some((one) => one.startsWith('console: policy:')), JSON.stringify(trouble));
  assert.equal(trouble.at(-1), 'console: the last word');
  trouble.length = 0;
  assert.equal(await page.evaluate(() => { const t = document.createElement('template'); t.innerHTML = '<p><strong>x</strong></p>'; return window.fault(t.content); }), null);
});

test('hostile texts at every split', async () => {
  for (const text of [...kHostile, kRichReply]) {
    const fault = await page.evaluate(async (one) => window.feed(one, Array.from({ length: one.length + 1 }, (_, i) => i)), text);
    assert.equal(fault, null, `${JSON.stringify(text)}: ${fault}`);
  }
  assert.deepEqual(trouble, []);
});

test('random texts of hostile fragments at random splits', async () => {
  const seed = Number(process.env.FATHOM_SEED ?? 1);
  const fault = await page.evaluate(
    async ({ fragments, start }) => {
      let state = start >>> 0;
      const random = (n) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return Math.floor((state / 2 ** 32) * n);
      };
      for (let round = 0; round < 400; round++) {
        const text = Array.from({ length: 3 + random(25) }, () => fragments[random(fragments.length)]).join('');
        const ends = [];
        for (let end = 0; end < text.length; end += 1 + random(9)) ends.push(end);
        const found = await window.feed(text, ends);
        if (found) return `${JSON.stringify(text)}: ${found}`;
      }
      return null;
    },
    { fragments: kFragments, start: seed },
  );
  assert.equal(fault, null, `seed ${seed}: ${fault}`);
  assert.deepEqual(trouble, []);
});

test('huge and deep texts end', async () => {
  const huge = {
    table: '|' + 'a|'.repeat(20) + '\n|' + '-|'.repeat(20) + '\n' + ('|' + 'x|'.repeat(20) + '\n').repeat(1500),
    quotes: '>'.repeat(20000) + ' deep',
    lists: Array.from({ length: 300 }, (_, i) => ' '.repeat(i * 2) + '- x').join('\n'),
    brackets: '['.repeat(50000),
    links: '[a]('.repeat(20000),
    stars: '*a_'.repeat(20000),
    ticks: '`'.repeat(40000),
    dollars: '$a '.repeat(20000),
    openers: '\\('.repeat(30000) + '\\['.repeat(30000),
    tex: '$' + '\\frac{'.repeat(500) + '$ $' + '{'.repeat(4000) + '$',
    line: 'x'.repeat(300000),
    entities: '&amp;'.repeat(40000),
  };
  for (const [name, text] of Object.entries(huge)) {
    const began = Date.now();
    const fault = await page.evaluate(async (one) => window.feed(one, [0.3, 0.6, 0.9].map((part) => Math.floor(one.length * part))), text);
    if (process.env.FATHOM_VERBOSE) console.log(name, Date.now() - began);
    assert.equal(fault?.slice(0, 300) ?? null, null, name);
  }
  assert.deepEqual(trouble, []);
});

test('a settled block is rendered once', async () => {
  const counts = await page.evaluate(() => {
    const text = Array.from({ length: 200 }, (_, i) => `Paragraph ${i} with *some* text.\n\n`).join('');
    const host = document.createElement('div');
    const renderer = new window.parts.MessageRenderer(host, () => 'Copy');
    renderer.show(text.slice(0, 40), false);
    const first = host.firstElementChild;
    for (let end = 40; end <= text.length; end += 10) renderer.show(text.slice(0, end), false);
    renderer.show(text, true);
    return { rendered: renderer.rendered, steps: Math.ceil(text.length / 10), blocks: host.children.length, kept: host.firstElementChild === first };
  });
  assert.equal(counts.blocks, 200);
  assert.ok(counts.kept);
  // Each step renders the block that grows, and at times the one that it settles.
  assert.ok(counts.rendered <= counts.steps + 2 * counts.blocks, JSON.stringify(counts));
});
