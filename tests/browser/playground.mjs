// GraphQL Playground, which speaks the old graphql-ws subprotocol alone: Carol signs in and watches, Dave (a program) writes
// to her, a minute passes in which nothing happens, and what he writes then arrives as well.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Page } from './page.mjs';

const PASSWORD = 'correct horse';
/** Three times as long as Playground waits for a sign of life. */
const IDLE_MS = 60_000;

class Playground extends Page {
  static path = '/playground';

  constructor(...all) {
    super(...all);
    /** Its sockets in the old protocol (the bar has one in the new), each with what was said on it. */
    this.sockets = [];
    this.tab.on('websocket', (socket) => {
      const kept = { said: [], heard: [], isOpen: true };
      const read = (into) => ({ payload }) => {
        const message = JSON.parse(payload);
        into.push(message);
        if (message.type === 'start') this.sockets.push(kept);
      };
      socket.on('framesent', read(kept.said));
      socket.on('framereceived', read(kept.heard));
      socket.on('close', () => (kept.isOpen = false));
    });
  }

  /** Turns to the tab that is called `name`. */
  async turnTo(name) {
    await this.tab.locator('.playground > div').first().getByText(name, { exact: true }).click();
    await this.until(`the tab ${name} is open`, async () => (await this.editors()).written, (text) => text.includes(name));
  }

  /** Presses the round button: it runs the editor's text, or stops what runs. */
  async pressButton() {
    await this.tab.getByTitle('Execute Query').click();
  }

  /** What is in the editor, and the answers beside it. */
  editors() {
    return this.tab.evaluate(() => {
      const all = [...document.querySelectorAll('.playground .CodeMirror')].map((one) => one.CodeMirror);
      const shown = all.filter((one) => one.getOption('readOnly')).map((one) => one.getValue());
      return { written: all[0].getValue(), shown: shown.filter((text) => text).map((text) => JSON.parse(text)) };
    });
  }

  /** Waits for an answer beside the editor that is as wanted, and gives it. */
  async answer(what, wanted) {
    const { shown } = await this.until(what, () => this.editors(), ({ shown }) => shown.some(wanted));
    return shown.find(wanted);
  }
}

/** Somebody who needs no browser. */
class Program {
  constructor(url) {
    this.endpoint = new URL('/graphql', url).href;
    this.headers = { 'content-type': 'application/json' };
  }

  async ask(query, variables) {
    const response = await fetch(this.endpoint, { method: 'POST', headers: this.headers, body: JSON.stringify({ query, variables }) });
    const { data, errors } = await response.json();
    assert.equal(errors, undefined);
    return data;
  }

  async register(login) {
    const query = 'mutation($input: RegisterInput!) { register(input: $input) { accessToken } }';
    const { register } = await this.ask(query, { input: { login, password: PASSWORD } });
    this.headers.authorization = `Bearer ${register.accessToken}`;
  }

  async meet(id) {
    const query = 'mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }';
    this.dialog = (await this.ask(query, { input: { participantIds: [id] } })).createDialog.id;
  }

  async send(text) {
    const query = 'mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }';
    await this.ask(query, { input: { dialogId: this.dialog, text } });
  }
}

const isFrame = (kind, total) => ({ data }) => data?.unread?.kind === kind && data.unread.total === total;

/** Its first half; the second, to be called later, waits until a minute has passed. */
export async function playgroundStory({ open, step, photograph, url }) {
  const carol = await open(Playground, 'carol');
  const dave = new Program(url);
  let me;
  let quietSince;

  await step('Playground: she registers, and a query knows who she is', async () => {
    await carol.enter('Register', 'carol', PASSWORD);
    await carol.says('Signed in as carol');
    await carol.says('0 unread');
    await carol.pressButton();
    me = (await carol.answer('the query has an answer', ({ data }) => data?.me)).data.me;
    assert.equal(me.name, 'carol');
  });

  await step('Playground: a live subscription starts with a snapshot, over the old protocol', async () => {
    await carol.turnTo('WatchUnread');
    await carol.pressButton();
    await carol.answer('there is a snapshot', isFrame('SNAPSHOT', 0));
    const [{ said }] = carol.sockets;
    assert.deepEqual(said.map(({ type }) => type), ['connection_init', 'start']);
    assert.match(said[0].payload.authorization, /^Bearer eyJ/);
  });

  await step("Playground: another person's message is a frame", async () => {
    await dave.register('dave');
    await dave.meet(me.id);
    await dave.send('hello');
    await carol.answer('one is unread', isFrame('CHANGE', 1));
    await carol.says('1 unread');
    quietSince = Date.now();
  });

  return async () => {
    await step('Playground: after a minute without a frame the next one arrives on the same socket', async () => {
      await sleep(quietSince + IDLE_MS - Date.now());
      assert.equal(carol.sockets.length, 1);
      const [socket] = carol.sockets;
      assert(socket.isOpen);
      const alive = socket.heard.filter(({ type }) => type === 'ka').length;
      assert(alive >= 5, `${alive} signs of life in a minute`);
      await dave.send('still there?');
      await carol.answer('two are unread', isFrame('CHANGE', 2));
      assert.equal(carol.sockets.length, 1);
      await photograph(carol, 'playground');
    });

    await step('Playground: the button stops the subscription', async () => {
      await carol.pressButton();
      const [{ said }] = carol.sockets;
      await carol.until('it was stopped', async () => said.at(-1).type, (type) => type === 'stop');
      await dave.send('and now?');
      await carol.says('3 unread');
      assert(!(await carol.editors()).shown.some(isFrame('CHANGE', 3)));
    });

    await step('Playground: a refused document and a page that is loaded anew', async () => {
      await carol.tab.reload();
      await carol.says('Signed in as carol');
      await carol.turnTo('WatchMessages');
      await carol.pressButton();
      const refused = await carol.answer('it is refused', ({ error }) => error);
      assert.equal(refused.error[0].extensions.code, 'NOT_FOUND');
    });

    await step('Playground: one goes to GraphiQL and back, and signs out', async () => {
      await carol.tab.locator('header').getByRole('link', { name: 'GraphiQL' }).click();
      await carol.tab.locator('.graphiql-query-editor').waitFor();
      await carol.says('3 unread');
      await carol.tab.locator('header').getByRole('link', { name: 'Playground' }).click();
      await carol.tab.locator('.playground').waitFor();
      await carol.says('Signed in as carol');
      assert.deepEqual(await carol.keepsToken(), [true, false]);
      await carol.press('Sign out');
      await carol.says('Signed out.');
      await carol.until('the token is forgotten', () => carol.keepsToken(), ([here]) => !here);
      await carol.turnTo('Unread');
      await carol.pressButton();
      await carol.answer('it says to sign in', ({ errors }) => errors?.[0].message === 'sign in first');
    });
  };
}
