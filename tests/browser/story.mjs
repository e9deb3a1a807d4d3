// The story of the README in a browser: Ann writes, what Bob has not read goes up on both of his devices while he watches,
// he reads on one and it is zero on both. Then signing out, and a session that is ended elsewhere.
//
//     node story.mjs URL [FOLDER]
//
// CHROMIUM is the browser's path; FOLDER gets screenshots, also where a step fails. It needs an empty DATA_DIR.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { Page } from './page.mjs';

const PASSWORD = 'correct horse';
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const [url, folder] = process.argv.slice(2);
assert(url, 'usage: node story.mjs URL [FOLDER]');
if (folder) await mkdir(folder, { recursive: true });
const html = await (await fetch(url)).text();
assert(html.includes('/assets/'), 'the page at / is the plain one: `make web` says why it could not be built');

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1280, height: 640 } });
const pages = [];

async function open(name) {
  pages.push(await Page.open(context, url, name));
  return pages.at(-1);
}

async function photograph(page) {
  if (folder) await page.tab.screenshot({ path: join(folder, `${page.name}.png`) });
}

async function step(sentence, action) {
  await action();
  console.log(`ok  ${sentence}`);
}

/** What the frames of WatchUnread say. */
const total = (frame) => frame.data?.unread?.total;

try {
  const [ann, bob, bobs] = [await open('ann'), await open('bob'), await open('bob-elsewhere')];
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
    await photograph(bob);
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
    assert.equal(await bob.tab.evaluate(() => JSON.stringify(sessionStorage).includes('eyJ')), false);
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
    await bob.says('Your session is over: sign in again.');
    await bobs.says('Your session is over: sign in again.');
    const last = await bob.answer('the subscription has ended', (answer) => answer.errors);
    assert.deepEqual(last.errors, [{ message: 'Unauthorized: the session is over', extensions: { closed: 4401 } }]);
  });

  await step('nothing went wrong unseen, and no other host was asked', async () => {
    assert.deepEqual(pages.flatMap((page) => page.faults), []);
  });
} catch (failure) {
  for (const page of pages) {
    await photograph(page);
    console.error(`${page.name}: ${await page.read('.result-window')} ${page.faults.join('\n')}`);
  }
  throw failure;
} finally {
  await browser.close();
}
