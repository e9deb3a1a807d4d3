// The story of the README in GraphiQL: Ann writes, Bob's unread count increases on both of his clients, he reads on one and
// it is zero on both. Then signing out, and a session that is revoked from another client.
import assert from 'node:assert/strict';
import { Page } from './page.mjs';

const PASSWORD = 'correct horse';

/** Returns the total in a frame of WatchUnread. */
const total = (frame) => frame.data?.unread?.total;

class Graphiql extends Page {
  static path = '/graphiql';

  /** Opens the tab `name`. */
  async openTab(name) {
    await this.tab.locator('.graphiql-tab').getByText(name, { exact: true }).click();
    await this.until(`the tab ${name} is open`, () => this.read('.graphiql-query-editor'), (text) => text.includes(name));
  }

  /** Replaces `placeholder`, or the whole content of the editor, by `text`. */
  async write(text, placeholder) {
    const before = await this.read('.graphiql-query-editor');
    await this.tab.locator('.graphiql-query-editor .CodeMirror').click();
    await this.tab.keyboard.press('Control+A');
    await this.tab.keyboard.insertText(placeholder ? before.replace(placeholder, text) : text);
  }

  /** Runs the editor's text and returns the first result. */
  async run() {
    await this.tab.locator('.graphiql-execute-button').click();
    return this.answer('there is a result', () => true);
  }

  /** Waits for a result that `isExpected` accepts, and returns it. */
  async answer(description, isExpected) {
    const text = await this.until(description, () => this.read('.result-window'), (shown) => {
      if (!shown) return false;
      return isExpected(JSON.parse(shown));
    });
    return JSON.parse(text);
  }

  /** Returns the text of an editor. */
  read(selector) {
    return this.tab.evaluate((selector) => document.querySelector(`${selector} .CodeMirror`)?.CodeMirror.getValue(), selector);
  }

  /** Returns the content of the header editor. */
  async headers() {
    const texts = this.tab.locator('.graphiql-editor-tool .CodeMirror');
    return (await texts.evaluateAll((all) => all.map((one) => one.CodeMirror.getValue()))).join('');
  }
}

export async function graphiqlStory({ open, step, photograph }) {
  const [ann, bob, bobSecond] = [await open(Graphiql, 'ann'), await open(Graphiql, 'bob'), await open(Graphiql, 'bob-second-client')];
  let dialog;

  await step('a wrong password shows an error message', async () => {
    await ann.enter('Sign in', 'ann', 'wrong horse');
    await ann.waitForText('the login or the password is wrong');
  });

  await step('two users register, each in a browser tab, and one signs in with a second client', async () => {
    await ann.enter('Register', 'ann', PASSWORD);
    await ann.waitForText('Signed in as ann');
    await bob.enter('Register', 'bob', PASSWORD);
    await bob.waitForText('Signed in as bob');
    await bobSecond.enter('Sign in', 'bob', PASSWORD);
    await bobSecond.waitForText('0 unread');
  });

  await step('the live subscription starts with a snapshot', async () => {
    await bob.openTab('WatchUnread');
    const first = await bob.run();
    assert.deepEqual([first.data.unread.kind, total(first)], ['SNAPSHOT', 0]);
  });

  await step('the example queries find Bob and create a dialog with him', async () => {
    await ann.openTab('FindPeople');
    const found = await ann.run();
    assert.deepEqual(found.data.users.nodes.map((user) => user.login), ['bob']);
    await ann.openTab('CreateDialog');
    await ann.write(found.data.users.nodes[0].id, 'PUT-A-USER-ID-HERE');
    const created = await ann.run();
    assert.deepEqual(created.data.createDialog.participants.nodes.map((user) => user.name).sort(), ['ann', 'bob']);
    dialog = created.data.createDialog.id;
  });

  await step('the count increases on every client while she sends', async () => {
    await ann.openTab('SendMessage');
    await ann.write(dialog, 'PUT-THE-DIALOG-ID-HERE');
    for (const sent of [1, 2, 3]) {
      await ann.run();
      await bob.answer(`${sent} unread`, (frame) => total(frame) === sent);
      await bob.waitForText(`${sent} unread`);
      await bobSecond.waitForText(`${sent} unread`);
    }
    await ann.waitForText('0 unread');
    await photograph(bob, 'graphiql');
  });

  await step('reading on one client clears the count on every client', async () => {
    await bobSecond.openTab('MarkRead');
    await bobSecond.write(dialog, 'PUT-THE-DIALOG-ID-HERE');
    const read = await bobSecond.run();
    assert.deepEqual([read.data.markRead.total, read.data.markRead.dialog.readSeq], [0, 3]);
    const frame = await bob.answer('nothing is unread', (one) => total(one) === 0);
    assert.equal(frame.data.unread.kind, 'CHANGE');
    await bob.waitForText('0 unread');
    await bobSecond.waitForText('0 unread');
  });

  await step('a reloaded page stays signed in', async () => {
    await bob.tab.reload();
    await bob.waitForText('Signed in as bob');
    await bob.waitForText('0 unread');
    await bob.openTab('Unread');
    assert.equal(total(await bob.run()), 0);
  });

  await step('signing out removes the token from the page', async () => {
    await bob.press('Sign out');
    await bob.waitForText('Signed out.');
    await bob.until('the header editor is empty', () => bob.headers(), (text) => text === '');
    assert.deepEqual(await bob.storesToken(), [false, false]);
    await bob.tab.locator('.graphiql-execute-button').click();
    await bob.answer('the result asks to sign in', (answer) => answer.errors?.[0].message === 'sign in first');
  });

  await step('revoking the session from another client signs out and ends the subscription', async () => {
    await bob.enter('Sign in', 'bob', PASSWORD);
    await bob.openTab('WatchUnread');
    await bob.run();
    await bobSecond.write('mutation LeaveEverywhere { logout(everywhere: true) }');
    await bobSecond.tab.locator('.graphiql-tab-active').getByText('LeaveEverywhere').waitFor();
    await bobSecond.run();
    await bob.waitForText('Your session has ended. Sign in again.');
    await bobSecond.waitForText('Your session has ended. Sign in again.');
    const last = await bob.answer('the subscription has ended', (answer) => answer.errors);
    assert.deepEqual(last.errors, [{ message: 'Unauthorized: the session has ended', extensions: { closed: 4401 } }]);
  });
}
