// A browser of one user with the page at /, operated by what a person sees. Console lines, script errors, violations of the
// content security policy and requests to other hosts are collected in `faults`.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { PASSWORD } from './api.mjs';

export const TIMEOUT_MS = 15_000;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Console lines of the browser itself while the program is away, which no script can avoid. */
const AWAY = /Failed to load resource: (net::ERR_|the server responded with a status of (401|503))|WebSocket connection to .* failed/;

export class Device {
  static async open(browser, url, name, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1100, height: 700 }, ...options });
    const device = new Device(context, url, name);
    await device.addTab();
    return device;
  }

  constructor(context, url, name) {
    Object.assign(this, { context, url, name, faults: [], mayBeAway: false });
  }

  /** Opens one more tab and makes it the one that is operated. */
  async addTab(path = '/') {
    const tab = await this.context.newPage();
    tab.setDefaultTimeout(TIMEOUT_MS);
    const { host } = new URL(this.url);
    const checkHost = (requested) => {
      const target = new URL(requested);
      if (/^(http|ws)s?:$/.test(target.protocol) && target.host !== host) this.faults.push(`${this.name}: requested ${requested}`);
    };
    tab.on('pageerror', (error) => this.faults.push(`${this.name}: ${error.message ?? error}`));
    tab.on('console', (line) => {
      if (!['error', 'warning'].includes(line.type()) || (this.mayBeAway && AWAY.test(line.text()))) return;
      this.faults.push(`${this.name}: ${line.text()}`);
    });
    tab.on('request', (request) => checkHost(request.url()));
    tab.on('websocket', (socket) => checkHost(socket.url()));
    this.tab = tab;
    await tab.goto(new URL(path, this.url).href);
    return tab;
  }

  async register(login, name) {
    await this.tab.getByRole('button', { name: 'New here? Create an account' }).click();
    await this.tab.getByLabel('Display name').fill(name);
    await this.#credentials(login, 'Create account');
  }

  async signIn(login) {
    await this.#credentials(login, 'Sign in');
  }

  async #credentials(login, button) {
    await this.tab.getByLabel('Login').fill(login);
    await this.tab.getByLabel('Password').fill(PASSWORD);
    await this.tab.getByRole('button', { name: button, exact: true }).click();
    await this.live();
  }

  /** Waits until the socket is connected and the counts are known. */
  async live() {
    await this.tab.locator('.status[data-link=live][data-total]').waitFor();
  }

  /** Opens a conversation from the list. */
  async openDialog(id) {
    await this.tab.locator(`[data-dialog="${id}"]`).click();
    await this.tab.getByLabel('Write a message').waitFor();
  }

  /** Writes a message into the open conversation and sends it. */
  async write(text) {
    await this.tab.getByLabel('Write a message').fill(text);
    await this.tab.keyboard.press('Enter');
  }

  /** Waits for a message of the open conversation. */
  message(text) {
    return this.tab.locator('.message', { hasText: text });
  }

  /** Returns the total and the badges that the page shows, and the total of the tab's title. Null while it is signed out. */
  shown(tab = this.tab) {
    return tab.evaluate(() => {
      const status = document.querySelector('.status');
      if (!status?.dataset.total) return null;
      const rows = {};
      for (const row of document.querySelectorAll('[data-dialog]')) {
        const { unread } = row.querySelector('.badge').dataset;
        if (unread !== '0') rows[row.dataset.dialog] = Number(unread);
      }
      const title = Number(/^\((\d+)\)/.exec(document.title)?.[1] ?? 0);
      return { total: Number(status.dataset.total), title, rows, link: status.dataset.link };
    });
  }

  /** Makes the tab look hidden or visible, as when the user switches to another tab. */
  async show(isVisible) {
    await this.tab.evaluate((visible) => {
      Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => (visible ? 'visible' : 'hidden') });
      document.hasFocus = () => visible;
      document.dispatchEvent(new Event('visibilitychange'));
    }, isVisible);
  }

  /** Lets the access token look expired, so that the next request needs a new one. */
  async expireToken() {
    await this.tab.evaluate(() => {
      const session = JSON.parse(localStorage.getItem('tidings.session'));
      localStorage.setItem('tidings.session', JSON.stringify({ ...session, expiresAt: new Date(0).toISOString() }));
    });
  }

  /** Asserts that axe finds nothing. It runs in a world of its own, as an extension does: the page's policy stays in force. */
  async accessible(view) {
    const session = await this.context.newCDPSession(this.tab);
    const { frameTree } = await session.send('Page.getFrameTree');
    const world = await session.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id, worldName: 'axe' });
    const run = async (expression) => {
      const options = { contextId: world.executionContextId, awaitPromise: true, returnByValue: true };
      const { result, exceptionDetails } = await session.send('Runtime.evaluate', { expression, ...options });
      assert(!exceptionDetails, JSON.stringify(exceptionDetails));
      return result.value;
    };
    await run(`${axe}; undefined`);
    const found = await run(
      `axe.run().then(({ violations, passes }) => JSON.stringify({ passes: passes.length,
        violations: violations.map(({ id, help, nodes }) => [id, help, nodes.map(({ html }) => html)]) }))`,
    );
    const { violations, passes } = JSON.parse(found);
    assert.deepEqual(violations, [], `${view}: ${JSON.stringify(violations, null, 1)}`);
    assert(passes > 10, `${view}: axe examined something`);
    await session.detach();
  }
}

/** Reads a value until `isExpected` accepts it, and returns it. */
export async function until(description, read, isExpected, timeoutMs = TIMEOUT_MS) {
  const end = Date.now() + timeoutMs;
  let value;
  do {
    value = await read();
    if (isExpected(value)) return value;
    await new Promise((resolve) => setTimeout(resolve, 50));
  } while (Date.now() < end);
  throw new Error(`timed out waiting until ${description}; last value: ${JSON.stringify(value)}`);
}
