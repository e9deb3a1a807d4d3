// A browser tab with one of the editors, used as a person does: by what is written on buttons and tabs. Everything that the
// page does wrong by itself (an error in a script, what its policy forbids, a request to another host) is kept in `faults`.

/** How long something that was asked for may take. */
const PATIENCE_MS = 15_000;

export class Page {
  /** Opens the page at `path` of `url` in a tab of `context`. */
  static async open(context, url, name) {
    const page = new this(await context.newPage(), url, name);
    page.tab.setDefaultTimeout(PATIENCE_MS);
    await page.tab.goto(new URL(this.path, url).href);
    await page.tab.locator('.CodeMirror').first().waitFor();
    return page;
  }

  constructor(tab, url, name) {
    Object.assign(this, { tab, name, faults: [] });
    const { host } = new URL(url);
    const ask = (asked) => {
      const target = new URL(asked);
      if (/^(http|ws)s?:$/.test(target.protocol) && target.host !== host) this.faults.push(`${name}: asked ${asked}`);
    };
    tab.on('pageerror', (error) => this.faults.push(`${name}: ${error.message ?? error}`));
    tab.on('console', (line) => line.type() === 'error' && this.faults.push(`${name}: ${line.text()}`));
    tab.on('request', (request) => ask(request.url()));
    tab.on('websocket', (socket) => ask(socket.url()));
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

  /** Waits until the bar above the editor says `text`. */
  async says(text) {
    await this.tab.locator('header').getByText(text).first().waitFor();
  }

  /** Whether a token is in what this browser tab keeps, or in what outlives it. */
  keepsToken() {
    return this.tab.evaluate(() => {
      const lasting = document.body.appendChild(document.createElement('iframe')).contentWindow.localStorage;
      return [sessionStorage, lasting].map((kept) => JSON.stringify(kept).includes('eyJ'));
    });
  }

  async until(what, read, wanted) {
    const end = Date.now() + PATIENCE_MS;
    let value;
    while (Date.now() < end) {
      value = await read();
      if (wanted(value)) return value;
      await this.tab.waitForTimeout(50);
    }
    throw new Error(`${this.name}: waited in vain until ${what}; it is ${JSON.stringify(value)}`);
  }
}
