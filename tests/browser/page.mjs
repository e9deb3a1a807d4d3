// A browser tab with one of the editors, operated by the visible text of buttons and tabs. Errors of the page itself (script
// errors, violations of the content security policy, requests to other hosts) are collected in `faults`.

/** Maximum time to wait for an expected change. */
const TIMEOUT_MS = 15_000;

export class Page {
  /** Opens the page at `path` of `url` in a tab of `context`. */
  static async open(context, url, name) {
    const page = new this(await context.newPage(), url, name);
    page.tab.setDefaultTimeout(TIMEOUT_MS);
    await page.tab.goto(new URL(this.path, url).href);
    await page.tab.locator('.CodeMirror').first().waitFor();
    return page;
  }

  constructor(tab, url, name) {
    Object.assign(this, { tab, name, faults: [] });
    const { host } = new URL(url);
    const checkHost = (requested) => {
      const target = new URL(requested);
      if (/^(http|ws)s?:$/.test(target.protocol) && target.host !== host) this.faults.push(`${name}: requested ${requested}`);
    };
    tab.on('pageerror', (error) => this.faults.push(`${name}: ${error.message ?? error}`));
    tab.on('console', (line) => line.type() === 'error' && this.faults.push(`${name}: ${line.text()}`));
    tab.on('request', (request) => checkHost(request.url()));
    tab.on('websocket', (socket) => checkHost(socket.url()));
  }

  /** Fills in the form above the editor and presses `button`. */
  async enter(button, login, password) {
    await this.tab.getByLabel('Login').fill(login);
    await this.tab.getByLabel('Password').fill(password);
    await this.press(button);
  }

  /** Presses a button of the bar above the editor. */
  async press(button) {
    await this.tab.locator('header').getByRole('button', { name: button, exact: true }).click();
  }

  /** Waits until the bar above the editor contains `text`. */
  async waitForText(text) {
    await this.tab.locator('header').getByText(text).first().waitFor();
  }

  /** Returns whether session storage and local storage contain a token. */
  storesToken() {
    return this.tab.evaluate(() => {
      const local = document.body.appendChild(document.createElement('iframe')).contentWindow.localStorage;
      return [sessionStorage, local].map((storage) => JSON.stringify(storage).includes('eyJ'));
    });
  }

  /** Reads a value until `isExpected` accepts it, and returns it. */
  async until(description, read, isExpected) {
    const end = Date.now() + TIMEOUT_MS;
    let value;
    while (Date.now() < end) {
      value = await read();
      if (isExpected(value)) return value;
      await this.tab.waitForTimeout(50);
    }
    throw new Error(`${this.name}: timed out waiting until ${description}; last value: ${JSON.stringify(value)}`);
  }
}
