// The page against `fathom serve` itself, where the program and a model are given; the rest of the suite uses the double. What it holds: the
// program carries the page and answers it, under its own content-security policy, with nothing requested elsewhere.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { openBrowser, openPage } from './browser.mjs';

const { FATHOM_PROGRAM: program, FATHOM_PAGE_MODEL: model } = process.env;

test('talk, reload, console and status with the real server', { skip: !(program && model) && 'FATHOM_PROGRAM and FATHOM_PAGE_MODEL are not set', timeout: 900_000 }, async () => {
  const server = spawn(program, ['serve', '--model', `trial=${model}`, '--no-auth', '--port', '0'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise((resolve) => server.once('exit', resolve));
  let browser;
  try {
    const origin = await new Promise((resolve, reject) => {
      let said = '';
      server.stderr.on('data', (bytes) => {
        said += bytes;
        const address = /listening on (http:\/\/\S+)/.exec(said);
        if (address) resolve(address[1]);
      });
      server.once('exit', (status) => reject(new Error(`the server ended with ${status}: ${said}`)));
    });
    browser = await openBrowser();
    const { page, trouble } = await openPage(browser, origin);
    await page.goto(origin);
    await page.locator('#message').fill('What is 38 + 47?');
    // While the page still looks for its server, Enter does nothing.
    await page.locator('form.composer button[type=submit]').and(page.locator(':enabled')).waitFor();
    await page.locator('#message').press('Enter');
    const figures = page.locator('article.assistant .figures');
    await figures.waitFor();
    assert.match(await figures.innerText(), /tokens\/s/);
    const reply = await page.locator('article.assistant .prose').innerText();
    assert.notEqual(reply.trim(), '');
    // The conversation goes to the server a moment later.
    const stored = async () => {
      const answer = await fetch(`/api/conversations/${location.pathname.split('/').pop()}`);
      return answer.ok && (await answer.json()).data.messages.some((message) => message.role === 'assistant' && message.finish);
    };
    let isStored = false;
    for (let i = 0; i < 3600 && !isStored; i++, await new Promise((resolve) => setTimeout(resolve, 50))) isStored = await page.evaluate(stored);
    assert.ok(isStored, 'the server keeps the conversation');
    const other = await openPage(browser, origin); // another browser: what it shows came from the server
    await other.page.goto(page.url());
    await other.page.locator('article.assistant .prose').waitFor();
    assert.equal(await other.page.locator('article.assistant .prose').innerText(), reply);
    await page.goto(`${origin}/console`);
    await page.locator('.uplot canvas').first().waitFor();
    await page.goto(`${origin}/status`);
    await page.getByRole('region', { name: 'trial' }).waitFor();
    assert.deepEqual([...trouble, ...other.trouble], []);
  } finally {
    await browser?.close();
    server.kill('SIGTERM');
    assert.equal(await ended, 0);
  }
});
