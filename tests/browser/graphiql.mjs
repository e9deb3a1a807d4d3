// The story of the README in GraphiQL: Ann writes, what Bob has not read goes up on both of his devices while he watches, he
// reads on one and it is zero on both. Then signing out, and a session that is ended elsewhere.
import assert from 'node:assert/strict';
import { Page } from './page.mjs';

const PASSWORD = 'correct horse';

/** What the frames of WatchUnread say. */
const total = (frame) => frame.data?.unread?.total;

class Graphiql extends Page {
  static path = '/';

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
}

export async function graphiqlStory({ open, step, photograph }) {
  const [ann, bob, bobs] = [await open(Graphiql, 'ann'), await open(Graphiql, 'bob'), await open(Graphiql, 'bob-elsewhere')];
  let dialog;

  await step('a wrong password is refused in words', async () => {
    await ann.enter('Sign in', 'ann', 'wrong horse');
    await ann.says('the login or the password is wrong');
  });

  await step('two people register, each in a browser tab, and one signs in on a second device', async () => {
    await ann.enter('Register', 'ann', PASSWORD);
    await ann.says('Signed in as ann');
    await bob.enter('Register', 'bob', PASSWORD);
    await bob.says('Signed in as bob');
    await bobs.enter('Sign in', 'bob', PASSWORD);
    await bobs.says('0 unread');
  });

  await step('the live subscription starts with a snapshot', async () => {
    await bob.turnTo('WatchUnread');
    const first = await bob.run();
    assert.deepEqual([first.data.unread.kind, total(first)], ['SNAPSHOT', 0]);
  });

  await step('the tabs find Bob and make a dialog with him', async () => {
    await ann.turnTo('FindPeople');
    const found = await ann.run();
    assert.deepEqual(found.data.users.nodes.map((user) => user.login), ['bob']);
    await ann.turnTo('CreateDialog');
    await ann.write(found.data.users.nodes[0].id, 'PUT-A-USER-ID-HERE');
    const made = await ann.run();
    assert.deepEqual(made.data.createDialog.participants.nodes.map((user) => user.name).sort(), ['ann', 'bob']);
    dialog = made.data.createDialog.id;
  });

  await step('what is unread goes up on every device while she sends', async () => {
    await ann.turnTo('SendMessage');
    await ann.write(dialog, 'PUT-THE-DIALOG-ID-HERE');
    for (const sent of [1, 2, 3]) {
      await ann.run();
      await bob.answer(`${sent} unread`, (frame) => total(frame) === sent);
      await bob.says(`${sent} unread`);
      await bobs.says(`${sent} unread`);
    }
    await ann.says('0 unread');
    await photograph(bob, 'graphiql');
  });

  await step('what is read on one device is zero on every device', async () => {
    await bobs.turnTo('MarkRead');
    await bobs.write(dialog, 'PUT-THE-DIALOG-ID-HERE');
    const read = await bobs.run();
    assert.deepEqual([read.data.markRead.total, read.data.markRead.dialog.readSeq], [0, 3]);
    const frame = await bob.answer('nothing is unread', (one) => total(one) === 0);
    assert.equal(frame.data.unread.kind, 'CHANGE');
    await bob.says('0 unread');
    await bobs.says('0 unread');
  });

  await step('a page that is loaded anew is signed in still', async () => {
    await bob.tab.reload();
    await bob.says('Signed in as bob');
    await bob.says('0 unread');
    await bob.turnTo('Unread');
    assert.equal(total(await bob.run()), 0);
  });

  await step('signing out takes the token out of the page', async () => {
    await bob.press('Sign out');
    await bob.says('Signed out.');
    await bob.until('the header editor is empty', () => bob.headers(), (text) => text === '');
    assert.deepEqual(await bob.keepsToken(), [false, false]);
    await bob.tab.locator('.graphiql-execute-button').click();
    await bob.answer('it says to sign in', (answer) => answer.errors?.[0].message === 'sign in first');
  });

  await step('a session that is ended elsewhere ends here, and so does its live subscription', async () => {
    await bob.enter('Sign in', 'bob', PASSWORD);
    await bob.turnTo('WatchUnread');
    await bob.run();
    await bobs.write('mutation LeaveEverywhere { logout(everywhere: true) }');
    await bobs.tab.locator('.graphiql-tab-active').getByText('LeaveEverywhere').waitFor();
    await bobs.run();
    await bob.says('Your session has ended. Sign in again.');
    await bobs.says('Your session has ended. Sign in again.');
    const last = await bob.answer('the subscription has ended', (answer) => answer.errors);
    assert.deepEqual(last.errors, [{ message: 'Unauthorized: the session is over', extensions: { closed: 4401 } }]);
  });
}
