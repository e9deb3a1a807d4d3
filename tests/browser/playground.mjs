// GraphQL Playground, which supports only the old graphql-ws subprotocol: Carol signs in and subscribes, Dave (a script)
// writes to her, nothing is sent for a minute, and his next message still arrives.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Page } from './page.mjs';

const PASSWORD = 'correct horse';
/** Three times Playground's timeout for keep-alive messages. */
const IDLE_MS = 60_000;

class Playground extends Page {
  static path = '/playground';

  constructor(...all) {
    super(...all);
    /** Sockets of the old protocol with their messages. The bar above the editor has a socket of the new protocol. */
    this.sockets = [];
    this.tab.on('websocket', (socket) => {
      const record = { sent: [], received: [], isOpen: true };
      const read = (into) => ({ payload }) => {
        const message = JSON.parse(payload);
        into.push(message);
        if (message.type === 'start') this.sockets.push(record);
      };
      socket.on('framesent', read(record.sent));
      socket.on('framereceived', read(record.received));
      socket.on('close', () => (record.isOpen = false));
    });
  }

  /** Opens the tab `name`. */
  async openTab(name) {
    await this.tab.locator('.playground > div').first().getByText(name, { exact: true }).click();
    await this.until(`the tab ${name} is open`, async () => (await this.editors()).written, (text) => text.includes(name));
  }

  /** Presses the round button, which runs the editor's text or stops the running subscription. */
  async pressButton() {
    await this.tab.getByTitle('Execute Query').click();
  }

  /** Scrolls down to the newest frame, in a window that is large enough for all of it. */
  async scrollToNewest() {
    const newest = this.tab.locator('.playground .CodeMirror').last();
    const width = 1280;
    const height = 800;
    await this.tab.setViewportSize({ width, height });
    await this.tab.mouse.move(width * 0.75, height * 0.5);
    const scroll = async () => {
      await this.tab.mouse.wheel(0, 1000);
      return newest.boundingBox();
    };
    await this.until('the newest frame is visible', scroll, (box) => box.y + box.height <= height);
  }

  /** Returns the text of the editor and the results beside it. */
  editors() {
    return this.tab.evaluate(() => {
      const all = [...document.querySelectorAll('.playground .CodeMirror')].map((one) => one.CodeMirror);
      const shown = all.filter((one) => one.getOption('readOnly')).map((one) => one.getValue());
      return { written: all[0].getValue(), shown: shown.filter((text) => text).map((text) => JSON.parse(text)) };
    });
  }

  /** Waits for a result that `isExpected` accepts, and returns it. */
  async answer(description, isExpected) {
    const { shown } = await this.until(description, () => this.editors(), ({ shown }) => shown.some(isExpected));
    return shown.find(isExpected);
  }
}

/** A user without a browser. */
class Script {
  constructor(url) {
    this.endpoint = new URL('/graphql', url).href;
    this.headers = { 'content-type': 'application/json' };
  }

  async execute(query, variables) {
    const response = await fetch(this.endpoint, { method: 'POST', headers: this.headers, body: JSON.stringify({ query, variables }) });
    const { data, errors } = await response.json();
    assert.equal(errors, undefined);
    return data;
  }

  async register(login) {
    const query = 'mutation($input: RegisterInput!) { register(input: $input) { accessToken } }';
    const { register } = await this.execute(query, { input: { login, password: PASSWORD } });
    this.headers.authorization = `Bearer ${register.accessToken}`;
  }

  async createDialog(id) {
    const query = 'mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }';
    this.dialog = (await this.execute(query, { input: { participantIds: [id] } })).createDialog.id;
  }

  async send(text) {
    const query = 'mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }';
    await this.execute(query, { input: { dialogId: this.dialog, text } });
  }
}

const isFrame = (kind, total) => ({ data }) => data?.unread?.kind === kind && data.unread.total === total;

/** Runs the first half and returns the second, which waits until a minute has passed. */
export async function playgroundStory({ open, step, photograph, url }) {
  const carol = await open(Playground, 'carol');
  const dave = new Script(url);
  let me;
  let quietSince;

  await step('Playground: she registers, and a query returns her account', async () => {
    await carol.enter('Register', 'carol', PASSWORD);
    await carol.waitForText('Signed in as carol');
    await carol.waitForText('0 unread');
    await carol.pressButton();
    me = (await carol.answer('the query has an answer', ({ data }) => data?.me)).data.me;
    assert.equal(me.name, 'carol');
  });

  await step('Playground: a live subscription starts with a snapshot, over the old protocol', async () => {
    await carol.openTab('WatchUnread');
    await carol.pressButton();
    await carol.answer('there is a snapshot', isFrame('SNAPSHOT', 0));
    const [{ sent }] = carol.sockets;
    assert.deepEqual(sent.map(({ type }) => type), ['connection_init', 'start']);
    assert.match(sent[0].payload.authorization, /^Bearer eyJ/);
  });

  await step("Playground: another user's message is a frame", async () => {
    await dave.register('dave');
    await dave.createDialog(me.id);
    await dave.send('hello');
    await carol.answer('one is unread', isFrame('CHANGE', 1));
    await carol.waitForText('1 unread');
    quietSince = Date.now();
  });

  return async () => {
    await step('Playground: after a minute without a frame the next one arrives on the same socket', async () => {
      await sleep(quietSince + IDLE_MS - Date.now());
      assert.equal(carol.sockets.length, 1);
      const [socket] = carol.sockets;
      assert(socket.isOpen);
      const alive = socket.received.filter(({ type }) => type === 'ka').length;
      assert(alive >= 5, `${alive} keep-alive messages in a minute`);
      await dave.send('still there?');
      await carol.answer('two are unread', isFrame('CHANGE', 2));
      assert.equal(carol.sockets.length, 1);
      await carol.scrollToNewest();
      await photograph(carol, 'playground');
    });

    await step('Playground: the subscription continues while another tab is open', async () => {
      await carol.openTab('Unread');
      await dave.send('over here');
      await carol.waitForText('3 unread');
      await carol.openTab('WatchUnread');
      await carol.answer('three are unread', isFrame('CHANGE', 3));
    });

    await step('Playground: the button stops the subscription', async () => {
      await carol.pressButton();
      const [{ sent }] = carol.sockets;
      await carol.until('the subscription is stopped', async () => sent.at(-1).type, (type) => type === 'stop');
      await dave.send('and now?');
      await carol.waitForText('4 unread');
      assert(!(await carol.editors()).shown.some(isFrame('CHANGE', 4)));
    });

    await step('Playground: a reloaded page has the same tab, and a rejected document shows its error', async () => {
      await carol.tab.reload();
      await carol.waitForText('Signed in as carol');
      await carol.until('the same tab is open', async () => (await carol.editors()).written, (text) => text.includes('WatchUnread'));
      await carol.openTab('WatchMessages');
      await carol.pressButton();
      const rejected = await carol.answer('the document is rejected', ({ error }) => error);
      assert.equal(rejected.error.extensions.code, 'NOT_FOUND');
    });

    await step('Playground: switching to GraphiQL and back keeps the session, and signing out ends it', async () => {
      await carol.tab.locator('header').getByRole('link', { name: 'GraphiQL' }).click();
      await carol.tab.locator('.graphiql-query-editor').waitFor();
      await carol.waitForText('4 unread');
      // Playground requests the schema with the token it starts with, some 0.7 s later. After signing out it would be refused.
      const schema = carol.tab.waitForResponse((response) => response.request().method() === 'POST');
      await carol.tab.locator('header').getByRole('link', { name: 'Playground' }).click();
      await carol.tab.locator('.playground').waitFor();
      await schema;
      await carol.waitForText('Signed in as carol');
      assert.deepEqual(await carol.storesToken(), [true, false]);
      await carol.press('Sign out');
      await carol.waitForText('Signed out.');
      await carol.until('the token is removed', () => carol.storesToken(), ([here]) => !here);
      await carol.openTab('Unread');
      await carol.pressButton();
      await carol.answer('the result asks to sign in', ({ errors }) => errors?.[0].message === 'sign in first');
    });
  };
}
