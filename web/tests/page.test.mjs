// The page from end to end, in Chromium, against the double of the server: what a reader does, and what must hold while he does it.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openBrowser, openPage } from './browser.mjs';
import { makeMock } from './mock_server.mjs';

let browser;
before(async () => (browser = await openBrowser()));
after(async () => browser?.close());

/** A test with a server and a page of its own; whatever the page requested elsewhere or complained about fails it. */
function pageTest(name, options, body) {
  test(name, { timeout: 900_000 }, async () => {
    const mock = makeMock({ auth: options.auth ?? false, routes: options.routes, delayMs: options.delayMs });
    const origin = await mock.listen();
    const opened = await openPage(browser, origin, options.context);
    const { page } = opened;
    if (options.key) await opened.context.addInitScript((key) => localStorage.setItem('fathom.key', key), options.key);
    try {
      await page.goto(origin + (options.path ?? '/'));
      await body({ mock, origin, page, ...opened });
      assert.deepEqual(opened.trouble, []);
    } finally {
      await opened.context.close();
      await mock.close();
    }
  });
}
const answers = (page) => page.locator('article.assistant');
const lastAnswer = (page) => answers(page).last();
const field = (page) => page.locator('#message');
const sendButton = (page) => page.locator('form.composer button[type=submit]');
/** Sends a message. Enter does nothing while the page still looks for its server or the last reply still runs, so that is waited for. */
async function say(page, text) {
  await field(page).fill(text);
  await sendButton(page).and(page.locator(':enabled')).waitFor();
  await field(page).press('Enter');
  await eventually(async () => (await field(page).inputValue()) === '', 'the message was taken');
}
async function waitDone(page) {
  await sendButton(page).waitFor();
}
async function eventually(check, what) {
  for (let i = 0; i < 3600; i++) {
    if (await check()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`never: ${what}`);
}
/** Waits until the browser's own copy has `words`: only what is written there outlasts a reload that follows at once. */
async function kept(page, words) {
  const has = (text) => new Promise((resolve, reject) => {
    const open = indexedDB.open('fathom', 1);
    open.onerror = () => reject(open.error);
    open.onsuccess = () => {
      const all = open.result.transaction('conversations').objectStore('conversations').getAll();
      all.onsuccess = () => resolve(all.result.some((row) => JSON.stringify(row.conversation).includes(text)));
      all.onerror = () => reject(all.error);
      all.transaction.oncomplete = () => open.result.close();
    };
  });
  await eventually(() => page.evaluate(has, JSON.stringify(words).slice(1, -1)), `kept: ${words}`);
}

pageTest('a key is asked for, refused, taken and given up', { auth: true }, async ({ page, mock }) => {
  await page.getByLabel('Key', { exact: true }).fill('sk-wrong');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('does not know this key').waitFor();
  await page.getByLabel('Key', { exact: true }).fill('sk-user-test');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await field(page).waitFor();
  await page.reload();
  await field(page).waitFor();
  assert.ok(mock.state.requests.every((line) => !line.includes('sk-')), 'a key in an address');
  await page.getByRole('button', { name: 'Preferences' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Key', { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }).includes('sk-user')), false);
});

pageTest('talk: a reply streams in, with its figures, and is kept', {}, async ({ page, mock, origin }) => {
  await say(page, 'hello there');
  await answers(page).getByText('You said: hello there').waitFor();
  await waitDone(page);
  const figures = await lastAnswer(page).locator('.figures').innerText();
  for (const part of ['87.5 tokens/s', 'first after 12 ms', 'tokens', 'from cache', 'drafted tokens accepted', 'cost $']) assert.ok(figures.includes(part), figures);
  assert.match(page.url(), /\/c\/[0-9a-f]{32}$/);
  assert.equal(await page.title(), 'hello there · Fathom');
  const body = mock.state.bodies[0];
  assert.equal(body.stream, true);
  assert.equal(body.model, 'deepseek-chat');
  assert.equal(body.return_routes, undefined);
  assert.deepEqual(body.messages, [{ role: 'user', content: 'hello there' }]);
  assert.equal('temperature' in body, false);
  await say(page, 'and again');
  await waitDone(page);
  assert.deepEqual(mock.state.bodies[1].messages.map((message) => message.role), ['user', 'assistant', 'user']);
  await kept(page, 'You said: and again');
  await page.reload();
  await answers(page).getByText('You said: and again').waitFor();
  await page.goto(origin);
  await page.locator('aside').getByRole('link', { name: 'hello there' }).click();
  await answers(page).getByText('You said: and again').waitFor();
});

pageTest('thoughts are folded and can be read', {}, async ({ page, mock }) => {
  await say(page, 'think hard');
  await waitDone(page);
  const thoughts = lastAnswer(page).locator('details.thoughts');
  assert.match(await thoughts.locator('summary').innerText(), /^Thought for [\d.]+ s$/);
  assert.equal(await thoughts.getByText('First I look').isVisible(), false);
  await thoughts.locator('summary').click();
  assert.equal(await thoughts.getByText('First I look').isVisible(), true);
  assert.match(await lastAnswer(page).locator('.figures').innerText(), /of them thoughts/);
  await say(page, 'next');
  await waitDone(page);
  assert.equal(JSON.stringify(mock.state.bodies[1]).includes('First I look'), false, 'thoughts were sent back');
});

pageTest('mathematics, code and tables, with our own fonts only', { context: { permissions: ['clipboard-read', 'clipboard-write'] } }, async ({ page }) => {
  await say(page, 'show math');
  await waitDone(page);
  const answer = lastAnswer(page);
  await answer.locator('.katex').first().waitFor();
  await answer.locator('.katex-display').first().waitFor();
  assert.equal(await answer.locator('.katex-display').count(), 1);
  await eventually(() => page.evaluate(() => document.fonts.check('16px KaTeX_Main')), 'the font of the formulas came');
  // The view has followed the text to its end, although the formulas made it grow in jumps.
  await eventually(() => page.locator('.scroll').evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight < 60), 'the end is in view');
  // Heights are set, so KaTeX's styles got past the policy.
  assert.ok(await answer.locator('.katex-display .katex-strut').first().evaluate((node) => node.style.height !== ''));
  assert.equal(await answer.locator('td.align-right').count(), 4);
  assert.ok((await answer.locator('.hljs-keyword').count()) > 3);
  await answer.getByRole('button', { name: 'Copy' }).first().click();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def fib/);
});

pageTest('hostile reply: text and nothing else', {}, async ({ page }) => {
  await say(page, 'hostile please');
  await waitDone(page);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await lastAnswer(page).locator('img, script, iframe, style').count(), 0);
  assert.ok((await lastAnswer(page).locator('.prose').innerText()).includes('<script>window.hacked=1</script>'));
});

pageTest('stop: the connection closes, what came stays', {}, async ({ page, mock }) => {
  await say(page, 'a long story');
  await lastAnswer(page).getByText('and 5').waitFor();
  await page.getByRole('button', { name: 'Stop' }).click();
  await lastAnswer(page).getByText('Stopped.').waitFor();
  await eventually(() => mock.state.aborted === 1, 'the server saw the end');
  const text = await lastAnswer(page).locator('.prose').innerText();
  await kept(page, text);
  await page.reload();
  await lastAnswer(page).getByText('Stopped.').waitFor();
  assert.equal(await lastAnswer(page).locator('.prose').innerText(), text);
  await say(page, 'another long story');
  await answers(page).nth(1).getByText('and 3').waitFor();
  await page.keyboard.press('Escape');
  await eventually(() => mock.state.aborted === 2, 'Escape stops too');
});

pageTest('a reload in the middle of a reply keeps what came', {}, async ({ page }) => {
  await say(page, 'a long story');
  await kept(page, 'and 20');
  await page.reload();
  await lastAnswer(page).getByText('Stopped.').waitFor();
  // The words themselves: what an article off the screen shows, which has not been laid out yet, is nothing.
  const shown = await lastAnswer(page).locator('.prose').innerText();
  assert.ok(shown.includes('and 20'), shown);
});

pageTest('regenerate, edit, versions, branch', {}, async ({ page, mock }) => {
  await say(page, 'first question');
  await waitDone(page);
  await lastAnswer(page).hover();
  await lastAnswer(page).getByRole('button', { name: 'Regenerate' }).click();
  await lastAnswer(page).getByText('2 of 2').waitFor();
  await waitDone(page);
  await lastAnswer(page).getByRole('button', { name: 'Previous version' }).click();
  await lastAnswer(page).getByText('1 of 2').waitFor();
  await page.locator('article.user').first().hover();
  await page.locator('article.user').first().getByRole('button', { name: 'Edit' }).click();
  await page.getByRole('textbox', { name: 'Edit' }).fill('better question');
  await page.getByRole('textbox', { name: 'Edit' }).press('Enter');
  await answers(page).getByText('You said: better question').waitFor();
  await waitDone(page);
  assert.deepEqual(mock.state.bodies.at(-1).messages, [{ role: 'user', content: 'better question' }]);
  await page.locator('article.user').first().getByRole('button', { name: 'Previous version' }).click();
  await answers(page).getByText('You said: first question').waitFor();
  // The choice of a version is saved too; the server's copy follows the browser's.
  await eventually(() => [...mock.state.conversations.values()].some(({ data }) => {
    const shown = data.messages.find((message) => message.id === data.leaf);
    return data.messages.length === 5 && shown.content === 'You said: first question';
  }), 'the chosen version is kept');
  await page.reload();
  await answers(page).getByText('You said: first question').waitFor();
  const before = page.url();
  await lastAnswer(page).hover();
  await lastAnswer(page).getByRole('button', { name: 'New conversation from here' }).click();
  await eventually(() => page.url() !== before, 'a new address');
  await say(page, 'only here');
  await waitDone(page);
  await page.goBack();
  await answers(page).getByText('You said: first question').waitFor();
  assert.equal(await page.locator('article').getByText('only here').count(), 0);
  // The arrow in an empty field opens the last question.
  await field(page).press('ArrowUp');
  assert.equal(await page.getByRole('textbox', { name: 'Edit' }).inputValue(), 'first question');
});

pageTest('files go through the official template, byte for byte', {}, async ({ page, mock }) => {
  const folder = mkdtempSync(join(tmpdir(), 'fathom-page-'));
  writeFileSync(join(folder, 'notes.txt'), 'line one\nline [two]\n');
  writeFileSync(join(folder, '表.csv'), 'a,b\r\n1,2');
  writeFileSync(join(folder, 'picture.bin'), Buffer.from([0xff, 0xd8, 0, 1, 2]));
  await page.locator('form.composer input[type=file]').setInputFiles(['notes.txt', '表.csv', 'picture.bin'].map((name) => join(folder, name)));
  await page.getByText('picture.bin is not a text file').waitFor();
  await page.getByRole('button', { name: 'Remove 表.csv' }).waitFor();
  await say(page, 'What is this?');
  await waitDone(page);
  const expected = '[file name]: notes.txt\n[file content begin]\nline one\nline [two]\n\n[file content end]\n[file name]: 表.csv\n[file content begin]\na,b\n1,2\n[file content end]\nWhat is this?';
  assert.equal(mock.state.bodies[0].messages[0].content, expected);
  // The reader sees files and question, not the frame.
  assert.equal((await page.locator('article.user').textContent()).includes('[file content'), false);
  await kept(page, 'notes.txt');
  await page.reload();
  await page.locator('article.user').getByText('notes.txt').waitFor();
});

pageTest('model, presets, temperature, instructions, recipes', {}, async ({ page, mock }) => {
  await page.getByRole('combobox', { name: 'Model' }).selectOption('deepseek-reasoner');
  await page.getByRole('button', { name: 'Settings of this conversation' }).click();
  await page.locator('select[name=preset]').selectOption('writing');
  await page.getByText('Temperature: 1.50').waitFor();
  await page.locator('select[name=preset]').selectOption('translation');
  assert.equal(await page.locator('select[name=preset]').inputValue(), 'translation');
  await page.locator('select[name=preset]').selectOption('code');
  await page.locator('textarea[name=system]').fill('Be brief.');
  await page.locator('input[name=max-tokens]').fill('77');
  await page.getByRole('button', { name: 'Done' }).click();
  await say(page, 'x');
  await waitDone(page);
  const body = mock.state.bodies[0];
  assert.equal(body.model, 'deepseek-reasoner');
  assert.equal(body.temperature, 0);
  assert.equal(body.max_tokens, 77);
  assert.deepEqual(body.messages[0], { role: 'system', content: 'Be brief.' });
  await page.getByRole('link', { name: 'New conversation' }).click();
  await page.getByRole('button', { name: 'Plan a journey' }).click();
  assert.match(await field(page).inputValue(), /^Plan a journey day by day/);
  await page.keyboard.type('Norway');
  assert.match(await field(page).inputValue(), /for whom: Norway$/);
  await field(page).press('Enter');
  await waitDone(page);
  assert.equal(mock.state.bodies[1].temperature, 1.3);
});

pageTest('busy: the page says so, waits as told, and comes through', {}, async ({ page, mock }) => {
  await field(page).waitFor();
  // Each notice stands for a second only: the page itself notes what it showed, however late the test looks.
  await page.evaluate(() => {
    window.shown = [];
    new MutationObserver(() => window.shown.push(document.querySelector('article.assistant .notice')?.textContent ?? '')).observe(document.querySelector('.column'), { subtree: true, childList: true, characterData: true });
  });
  await say(page, 'busy 2');
  await answers(page).getByText('You said: busy 2').waitFor();
  const shown = (await page.evaluate(() => window.shown)).join('\n');
  assert.match(shown, /The server is busy\. Trying again in 1 s \(2 of 5\)/);
  assert.match(shown, /The server is busy\. Trying again in 1 s \(3 of 5\)/);
  assert.equal(mock.state.bodies.length, 3);
  await say(page, 'busy 30 for 600'); // long waits: only the clicks below end them
  for (let i = 0; i < 4; i++) {
    await eventually(() => mock.state.bodies.length === 4 + i, `attempt ${i + 1}`);
    await page.getByRole('button', { name: 'Try now' }).click();
  }
  await page.getByText('still busy. Try again later').waitFor();
  assert.equal(mock.state.bodies.length, 8);
  await page.getByRole('button', { name: 'Try again' }).click();
  await eventually(() => mock.state.bodies.length === 9, 'asked again');
  await page.getByRole('button', { name: 'Give up' }).click();
  await lastAnswer(page).getByText('Stopped.').waitFor();
});

pageTest('a refused request and a broken stream say what happened', {}, async ({ page, mock }) => {
  await say(page, 'error please');
  await page.getByText('That did not work: the field is wrong').waitFor();
  mock.state.holdBreak = true; // a browser may drop what it has not read of a broken body, so it reads first
  await say(page, 'broken please and then more words');
  await answers(page).nth(1).getByText('You said: broken').waitFor();
  mock.state.holdBreak = false;
  await page.getByText('The reply broke off.').waitFor();
  assert.equal(await lastAnswer(page).locator('.prose').innerText(), 'You said: broken');
});

pageTest('offline: conversations stay, sending waits, and the server is found again', {}, async ({ page, mock, context }) => {
  await say(page, 'before the storm');
  await waitDone(page);
  mock.state.downFromNextChat = true; // whatever else the page asks until then is answered: the message is what meets the storm
  await say(page, 'into the storm');
  await page.getByRole('main').getByText('No connection to the server').first().waitFor();
  await page.getByText('Offline', { exact: true }).waitFor();
  await field(page).fill('not now');
  assert.equal(await sendButton(page).isDisabled(), true);
  await kept(page, 'into the storm');
  // The page itself opens without the server, from the service worker.
  await eventually(() => page.evaluate(async () => (await (await caches.open('fathom-page')).keys()).some((one) => one.url.includes('/assets/index-') && one.url.endsWith('.js'))), 'the page is kept');
  // From here the page's clock does not ask for the server by itself, so that it is the button that finds it; the phone's test below
  // leaves it to the clock.
  await page.addInitScript(() => {
    const real = window.setTimeout.bind(window);
    window.setTimeout = (work, ms, ...more) => (ms >= 1000 ? 0 : real(work, ms, ...more));
  });
  await page.reload();
  await answers(page).getByText('You said: before the storm').waitFor();
  mock.state.down = false;
  await page.locator('p.offline').getByRole('button', { name: 'Try again' }).click();
  await eventually(async () => (await page.getByText('Offline', { exact: true }).count()) === 0, 'connected again');
  await eventually(() => [...mock.state.conversations.values()].some((row) => JSON.stringify(row.data).includes('into the storm')), 'the server got what was kept');
  await say(page, 'after it');
  await answers(page).getByText('You said: after it').waitFor();
});

pageTest('the server keeps conversations per key; two browsers agree', { auth: true, key: 'sk-user-test' }, async ({ page, mock, origin }) => {
  await say(page, 'shared thought');
  await waitDone(page);
  await eventually(() => mock.state.conversations.size === 1, 'stored');
  const other = await openPage(browser, origin);
  await other.context.addInitScript(() => localStorage.setItem('fathom.key', 'sk-user-test'));
  await other.page.goto(page.url());
  await answers(other.page).getByText('You said: shared thought').waitFor();
  // Its list came too: a list that came after the next save would tell it of the new version.
  await eventually(() => mock.state.requests.filter((line) => line === 'GET /api/conversations').length === 2, 'both asked for the list');
  // Both go on from the same version: the second to save meets a conflict, and the messages of both survive.
  await say(page, 'from the first');
  await waitDone(page);
  await eventually(() => [...mock.state.conversations.values()][0].version === 2, 'the first saved');
  await say(other.page, 'from the second');
  await waitDone(other.page);
  await eventually(() => {
    const text = JSON.stringify([...mock.state.conversations.values()][0].data);
    return text.includes('from the first') && text.includes('from the second');
  }, 'merged');
  assert.deepEqual(other.trouble, []);
  // Another key sees nothing of it.
  const stranger = await openPage(browser, origin);
  await stranger.context.addInitScript(() => localStorage.setItem('fathom.key', 'sk-admin-test'));
  await stranger.page.goto(origin);
  await stranger.page.getByText('No conversations yet.').waitFor();
  await stranger.context.close();
  // Deleted there, gone here.
  await other.page.locator('aside li').first().hover();
  await other.page.getByRole('button', { name: /^Delete: shared/ }).click();
  await other.page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await eventually(() => mock.state.conversations.size === 0, 'deleted');
  await other.context.close();
});

pageTest('search, rename, export, import', { context: { acceptDownloads: true } }, async ({ page }) => {
  for (const words of ['apples and pears', 'the tides of Norway']) {
    await page.goto(new URL('/', page.url()).href);
    await say(page, words);
    await waitDone(page);
    await kept(page, `You said: ${words}`);
  }
  await page.keyboard.press('Control+k');
  await page.keyboard.type('said tides');
  await eventually(async () => (await page.locator('aside li').count()) === 1, 'one is found');
  await page.getByRole('searchbox').fill('no such words');
  await page.getByText('Nothing found.').waitFor();
  await page.getByRole('searchbox').fill('');
  await page.locator('aside li.here').hover();
  await page.getByRole('button', { name: /^Rename: the tides/ }).click();
  await page.getByRole('dialog').getByLabel('Title').fill('Seas');
  await page.getByRole('dialog').getByRole('button', { name: 'Save' }).click();
  await page.locator('aside').getByRole('link', { name: 'Seas' }).waitFor();
  const saved = {};
  for (const kind of ['markdown', 'json', 'training']) {
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('combobox', { name: 'Export' }).selectOption(kind)]);
    saved[kind] = { name: download.suggestedFilename(), path: await download.path() };
  }
  assert.equal(saved.markdown.name, 'Seas.md');
  assert.match(readFileSync(saved.markdown.path, 'utf8'), /^# Seas\n\n## You\n\nthe tides of Norway\n\n## Assistant \(deepseek-chat\)\n\nYou said/);
  assert.deepEqual(JSON.parse(readFileSync(saved.training.path, 'utf8')).messages.map((message) => message.role), ['user', 'assistant']);
  const before = await page.locator('aside li').count();
  await page.locator('aside input[type=file]').setInputFiles(saved.json.path);
  await eventually(async () => (await page.locator('aside li').count()) === before + 1, 'imported');
  await page.locator('aside input[type=file]').setInputFiles({ name: 'x.json', mimeType: 'application/json', buffer: Buffer.from('{"format":"fathom-conversation","conversation":{"id":"../x","messages":[{}]}}') });
  await page.getByText('not an exported conversation').waitFor();
});

pageTest('console: a key is shown once, revoked, and its use is charted', { auth: true, key: 'sk-admin-test', path: '/console' }, async ({ page, mock }) => {
  await page.getByRole('button', { name: 'New key' }).click();
  await page.locator('input[name=key-name]').fill('build bot');
  await page.locator('input[name=balance]').fill('2.5');
  await page.locator('input[name=per-minute]').fill('60');
  await page.getByRole('button', { name: 'Create key' }).click();
  const secret = await page.locator('[data-made]').innerText();
  assert.ok(mock.state.keys.has(secret));
  assert.equal(mock.state.keys.get(secret).balance_micro, 2_500_000);
  assert.deepEqual(mock.state.keys.get(secret).limits, { requests_per_minute: 60, concurrency: null, spend_micro: null });
  await page.getByRole('dialog').getByRole('button', { name: 'Done' }).click();
  const row = page.locator('tr', { hasText: 'build bot' });
  await row.waitFor();
  assert.equal((await page.content()).includes(secret), false, 'the key is still in the page');
  await row.getByRole('button', { name: 'Top up' }).click();
  await page.getByRole('dialog').getByRole('textbox').fill('1');
  await page.getByRole('dialog').getByRole('button', { name: 'Top up' }).click();
  await row.getByText('$3.50').waitFor();
  await row.getByRole('button', { name: 'Revoke' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
  await row.getByText('revoked').waitFor();
  await eventually(async () => (await page.locator('.uplot canvas').count()) === 2, 'two charts');
  await page.locator('select[name=days]').selectOption('90');
  await page.getByText('As a table').click();
  await eventually(async () => (await page.locator('details table tbody tr').count()) > 60, 'ninety days in the table');
});

pageTest('console of an ordinary key shows its own use only', { auth: true, key: 'sk-user-test', path: '/console' }, async ({ page, mock }) => {
  await page.getByText('Only an administrator').waitFor();
  await page.locator('.uplot canvas').first().waitFor();
  assert.equal(await page.getByRole('button', { name: 'New key' }).count(), 0);
  assert.ok(mock.state.requests.every((line) => !line.includes('/api/console/')));
});

pageTest('status: figures and expert loads, by mouse and by keyboard', { path: '/status' }, async ({ page }) => {
  await page.getByText('211 / 512').waitFor();
  await page.getByText('position 1: 86 %').waitFor();
  await page.getByText('by themselves 130 · at their length 4 · cancelled 9').waitFor();
  const map = page.getByRole('img', { name: 'Expert loads' });
  await map.waitFor();
  assert.deepEqual(await map.evaluate((canvas) => [canvas.width, canvas.height]), [32, 6]);
  await map.focus();
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowDown');
  await page.getByText(/Layer 2, Expert 0: \d+, load [\d.]+/i).waitFor();
  await page.getByText('As a table').click();
  await eventually(async () => (await page.locator('details table tbody tr').count()) === 6, 'a row for each layer');
});

pageTest('experts of a token: shown where the server offers them', { routes: true }, async ({ page, mock }) => {
  await say(page, 'count 5');
  await waitDone(page);
  assert.equal(mock.state.bodies[0].return_routes, true);
  await lastAnswer(page).getByRole('button', { name: 'Show tokens' }).click();
  await lastAnswer(page).getByRole('button', { name: 'word3' }).click();
  await page.getByRole('heading', { name: 'Experts of “word3”' }).waitFor();
  await eventually(async () => (await lastAnswer(page).locator('section tbody tr').count()) === 6, 'a row for each layer');
});
pageTest('experts of a token: absent where it does not', {}, async ({ page }) => {
  await say(page, 'count 5');
  await waitDone(page);
  assert.equal(await page.getByRole('button', { name: 'Show tokens' }).count(), 0);
});

pageTest('keyboard, languages, themes', {}, async ({ page }) => {
  await field(page).fill('one');
  await field(page).press('Shift+Enter');
  await page.keyboard.type('two');
  assert.equal(await field(page).inputValue(), 'one\ntwo');
  // Enter that ends an input method's composition chooses a character and sends nothing.
  await field(page).dispatchEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true });
  assert.equal(await field(page).inputValue(), 'one\ntwo');
  await page.keyboard.press('Control+/');
  await page.getByRole('dialog', { name: 'Preferences' }).waitFor();
  await page.locator('select[name=language]').selectOption('zh');
  await page.getByRole('dialog', { name: '偏好' }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'zh-Hans');
  await page.locator('select[name=theme]').selectOption('dark');
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.locator('select[name=theme]').selectOption('light');
  await eventually(async () => (await ground()) !== dark, 'another ground');
  await page.keyboard.press('Escape');
  await page.reload();
  await page.getByRole('link', { name: '控制台' }).waitFor();
});

pageTest('contrast of every text colour, in both themes', {}, async ({ page }) => {
  for (const theme of ['light', 'dark']) {
    const low = await page.evaluate((name) => {
      document.documentElement.dataset.theme = name;
      const style = getComputedStyle(document.documentElement);
      const luminance = (token) => {
        const hex = style.getPropertyValue(token).trim().slice(1);
        const [r, g, b] = (hex.length === 3 ? [...hex].map((c) => c + c) : hex.match(/../g)).map((c) => parseInt(c, 16) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const pairs = [['--on-accent', '--accent'], ['--warn', '--warn-ground'], ['--danger', '--danger-ground'], ['--text', '--accent-ground']];
      for (const ground of ['--ground', '--ground-2', '--ground-3']) for (const text of ['--text', '--muted', '--accent']) pairs.push([text, ground]);
      for (const text of ['keyword', 'string', 'number', 'comment', 'title', 'type']) pairs.push([`--c-${text}`, '--code-ground']);
      return pairs.map(([a, b]) => {
        const [high, below] = [luminance(a), luminance(b)].sort((x, y) => y - x);
        return { pair: `${a} on ${b}`, ratio: (high + 0.05) / (below + 0.05) };
      }).filter(({ ratio }) => !(ratio >= 4.5));
    }, theme);
    assert.deepEqual(low, [], theme);
  }
});

/** Console and status, once what they ask for has come. */
async function settled(page, path) {
  await page.locator('.page h1').waitFor();
  if (path === '/console') await page.locator('.uplot canvas').nth(1).waitFor();
  if (path === '/status') await page.getByRole('img', { name: 'Expert loads' }).waitFor();
}
pageTest('every control has a name', {}, async ({ page, origin }) => {
  await say(page, 'show math');
  await waitDone(page);
  for (const path of [null, '/console', '/status']) {
    if (path) {
      await page.goto(origin + path);
      await settled(page, path);
    }
    const nameless = await page.evaluate(() => [...document.querySelectorAll('button, a[href], input, select, textarea')]
      .filter((node) => node.getAttribute('aria-hidden') !== 'true')
      .filter((node) => !(node.getAttribute('aria-label') || node.labels?.length || node.textContent.trim() || node.closest('label')))
      .map((node) => node.outerHTML.slice(0, 120)));
    assert.deepEqual(nameless, []);
  }
});

pageTest('phone: nothing wider than the screen, the list slides in', { context: { viewport: { width: 360, height: 700 }, hasTouch: true, isMobile: true } }, async ({ page, origin, mock }) => {
  await field(page).waitFor();
  // Elements that stick out to the right, but for those inside a frame that scrolls by itself. The width of the document alone says
  // nothing, since the column hides what is too wide.
  const wide = () => page.evaluate(() => [...document.querySelectorAll('#app *')]
    .filter((node) => node.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }) && !node.closest('pre, .table-frame, .math-display, .frame, .hidden-text, aside, .katex, .skip') && node.getBoundingClientRect().right > window.innerWidth + 1)
    .map((node) => node.outerHTML.slice(0, 80)));
  assert.deepEqual(await wide(), []);
  await page.evaluate(() => document.querySelector('.bar').insertAdjacentHTML('beforeend', '<p id="probe">' + 'x'.repeat(200) + '</p>'));
  assert.notDeepEqual(await wide(), [], 'the check sees what is too wide');
  await page.evaluate(() => document.querySelector('#probe').remove());
  await field(page).fill('show math');
  await field(page).press('Enter'); // a line, on a touch screen
  await sendButton(page).tap();
  await lastAnswer(page).locator('.katex-display').first().waitFor();
  await waitDone(page);
  assert.deepEqual(await wide(), []);
  const list = page.locator('aside');
  assert.equal(await list.isVisible(), false);
  await page.getByRole('button', { name: 'Conversations' }).tap();
  await list.getByRole('link', { name: 'show math' }).tap();
  await eventually(async () => !(await list.isVisible()), 'the list closes');
  await field(page).fill('into the storm');
  // The server goes away with this message and not before it: a push of the conversation that failed first would switch the button off.
  mock.state.downFromNextChat = true;
  await sendButton(page).tap();
  await page.getByText('Offline', { exact: true }).waitFor();
  assert.deepEqual(await wide(), [], 'offline');
  mock.state.down = false;
  await eventually(async () => (await page.getByText('Offline', { exact: true }).count()) === 0, 'the page finds the server by itself');
  for (const path of ['/console', '/status']) {
    await page.goto(origin + path);
    await settled(page, path);
    assert.deepEqual(await wide(), [], path);
  }
});

pageTest('five hundred messages: a stream touches the last one only', { delayMs: 2 }, async ({ page }) => {
  const messages = [];
  for (let i = 0; i < 500; i++) {
    messages.push({ id: `m${i}`, parent: i ? `m${i - 1}` : null, role: i % 2 ? 'assistant' : 'user', createdMs: i, finish: 'stop', content: i % 2 ? `Answer ${i} with $x^{${i}}$ and\n\n\`\`\`python\nprint(${i})\n\`\`\`\n\nmore **text**.` : `Question ${i}?` });
  }
  const conversation = { id: 'long', title: 'Long', titleIsOwn: true, createdMs: 1, updatedMs: 1, settings: { model: 'small', temperature: null, system: '', maxTokens: null }, messages, leaf: 'm499' };
  await page.locator('aside input[type=file]').setInputFiles({ name: 'long.json', mimeType: 'application/json', buffer: Buffer.from(JSON.stringify({ format: 'fathom-conversation', version: 1, conversation })) });
  await page.getByText('Answer 499 with').waitFor();
  assert.equal(await page.locator('article').count(), 60);
  while (await page.locator('button.earlier').count()) await page.locator('button.earlier').click();
  assert.equal(await page.locator('article').count(), 500);
  await page.evaluate(() => {
    window.touched = new Set();
    window.frames = [];
    new MutationObserver((list) => {
      for (const { target } of list) {
        const article = (target.nodeType === 1 ? target : target.parentElement)?.closest('article');
        if (article) window.touched.add(article.dataset.message);
      }
    }).observe(document.querySelector('.scroll'), { subtree: true, childList: true, characterData: true });
    let last = performance.now();
    const tick = (now) => {
      window.frames.push(now - last);
      last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  await say(page, 'count 1500');
  // Asked seldom, so that the asking is not what the frames show.
  await page.waitForFunction(() => document.querySelector('article:last-child .figures'), null, { polling: 500, timeout: 300_000 });
  assert.match(await lastAnswer(page).locator('.prose').innerText(), /word1499$/);
  const touched = await page.evaluate(() => [...window.touched]);
  assert.ok(touched.every((id) => !/^m\d+$/.test(id) || id === 'm499'), touched.join(' ')); // m499 is no longer the last: its tools fold
  const frames = await page.evaluate(() => window.frames.sort((a, b) => a - b));
  const slow = frames.filter((ms) => ms > 50).length;
  console.log(`frames while streaming: ${frames.length}, median ${frames[frames.length >> 1].toFixed(1)} ms, ${slow} above 50 ms, longest ${frames.at(-1).toFixed(1)} ms`);
});
