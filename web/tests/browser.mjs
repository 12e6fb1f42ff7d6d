// Opens Chromium, and watches each page: requests that leave the server's origin, breaches of the content-security policy, script errors, dialogs.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

export function chromiumPath() {
  return [process.env.FATHOM_CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => path && existsSync(path));
}

export async function openBrowser() {
  // A sandbox needs a user that is not root and kernel support that containers lack; the pages under test come from this very process.
  return chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox', '--disable-dev-shm-usage'], timeout: 180_000 });
}

/** A new page in a context of its own, and what went wrong in it. */
export async function openPage(browser, origin, options = {}) {
  const context = await browser.newContext({ locale: 'en-GB', viewport: { width: 1180, height: 800 }, ...options });
  // On a machine that is busy with other things a page can take a minute to load. Nothing here waits for time to pass, so patience costs nothing.
  context.setDefaultTimeout(180_000);
  const trouble = [];
  // Refusals of our own double ("busy", "no such key") reach the console as failed loads; those are the tests' own doing.
  const expected = /Failed to load resource|net::ERR_|the server responded with a status/;
  await context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
  });
  const watch = (page) => {
    page.on('request', (request) => {
      const url = request.url();
      if (!url.startsWith(origin + '/') && !url.startsWith('blob:')) trouble.push(`request to ${url}`);
    });
    page.on('pageerror', (error) => trouble.push(`script error: ${error.stack ?? error}`));
    page.on('console', (message) => ['error', 'warning'].includes(message.type()) && !expected.test(message.text()) && trouble.push(`console: ${message.text()}`));
    page.on('dialog', (dialog) => {
      trouble.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
  };
  context.on('page', watch);
  const page = await context.newPage();
  return { context, page, trouble };
}
