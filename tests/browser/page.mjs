// A browser tab with the page at /, used as a person does: by what is written on buttons and tabs, with the keyboard in the
// editor. Everything that the page does wrong by itself (an error in a script, a request to another host) is kept in `faults`.

/** How long something that was asked for may take. */
const PATIENCE_MS = 15_000;

export class Page {
  /** Opens the page at `url` in a tab of `context`. */
  static async open(context, url, name) {
    const page = new Page(await context.newPage(), url, name);
    page.tab.setDefaultTimeout(PATIENCE_MS);
    await page.tab.goto(url);
    await page.tab.locator('.graphiql-query-editor .CodeMirror').waitFor();
    return page;
  }

  constructor(tab, url, name) {
    Object.assign(this, { tab, name, faults: [] });
    tab.on('pageerror', (error) => this.faults.push(`${name}: ${error.message ?? error}`));
    tab.on('console', (line) => line.type() === 'error' && this.faults.push(`${name}: ${line.text()}`));
    tab.on('request', (request) => {
      const { protocol, host } = new URL(request.url());
      if (protocol.startsWith('http') && host !== new URL(url).host) this.faults.push(`${name}: asked ${request.url()}`);
    });
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

  /** Turns to the tab that is called `name`. */
  async turnTo(name) {
    await this.tab.locator('.graphiql-tab').getByText(name, { exact: true }).click();
    await this.until(`the tab ${name} is open`, () => this.read('.graphiql-query-editor'), (text) => text.includes(name));
  }

  /** Writes `text` where the editor says `placeholder`, or over everything. */
  async write(text, placeholder) {
    const before = await this.read('.graphiql-query-editor');
    await this.tab.locator('.graphiql-query-editor .CodeMirror').click();
    await this.tab.keyboard.press('Control+A');
    await this.tab.keyboard.insertText(placeholder ? before.replace(placeholder, text) : text);
  }

  /** Presses the button that runs the editor's text; the first answer. */
  async run() {
    await this.tab.locator('.graphiql-execute-button').click();
    return this.answer('there is an answer', () => true);
  }

  /** Waits for an answer beside the editor that is as wanted, and gives it. */
  async answer(what, wanted) {
    const text = await this.until(what, () => this.read('.result-window'), (shown) => {
      if (!shown) return false;
      return wanted(JSON.parse(shown));
    });
    return JSON.parse(text);
  }

  /** The text of an editor. */
  read(where) {
    return this.tab.evaluate((place) => document.querySelector(`${place} .CodeMirror`)?.CodeMirror.getValue(), where);
  }

  /** What the header editor holds. */
  async headers() {
    const texts = this.tab.locator('.graphiql-editor-tool .CodeMirror');
    return (await texts.evaluateAll((all) => all.map((one) => one.CodeMirror.getValue()))).join('');
  }

  async until(what, read, wanted) {
    const end = Date.now() + PATIENCE_MS;
    let value;
    while (Date.now() < end) {
      value = await read();
      if (wanted(value)) return value;
      await this.tab.waitForTimeout(50);
    }
    throw new Error(`${this.name}: waited in vain until ${what}; it is ${value}`);
  }
}
