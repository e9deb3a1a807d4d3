// The page at / in Chromium: two people, a third device, and everything that the page offers.
//
//     node story.mjs [FOLDER]
//
// TIDINGS is the program, CHROMIUM the browser's path. FOLDER receives the screenshots of the README, and one of every device
// when a step fails.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Api } from './api.mjs';
import { launch } from './browser.mjs';
import { Device, until } from './device.mjs';
import { startTarget } from './target.mjs';

const [folder] = process.argv.slice(2);
if (folder) await mkdir(folder, { recursive: true });

const target = await startTarget();
const browser = await launch();
const devices = [];
const open = async (name, options) => {
  devices.push(await Device.open(browser, target.url, name, options));
  return devices.at(-1);
};
const photograph = async (device, name) => {
  if (folder) await device.tab.screenshot({ path: join(folder, `${name}.png`) });
};
const step = async (description, action) => {
  const started = Date.now();
  await action();
  console.log(`ok  ${description} (${Date.now() - started} ms)`);
};
const unreadIs = (device, total) => until(`${device.name} shows ${total}`, () => device.shown(), (shown) => shown?.total === total && shown.title === total);

/** Returns the keys of the messages that a device sends from now on, in the order of the requests. */
function keysOf(device) {
  const keys = [];
  device.tab.on('request', (request) => {
    const { operationName, variables } = request.postDataJSON() ?? {};
    if (operationName === 'SendMessage') keys.push(variables.input.clientKey);
  });
  return keys;
}

let ann, bob, bobSecond, annApi, bobApi, carolApi, direct, group;

async function signUp() {
  await step('a newcomer creates an account and sees what to do first', async () => {
    ann = await open('ann');
    await ann.accessible('the sign-in form');
    await ann.tab.getByLabel('Login').fill('ann');
    await ann.tab.getByLabel('Password').fill('wrong horse');
    await ann.tab.getByRole('button', { name: 'Sign in', exact: true }).click();
    await ann.tab.getByRole('alert').getByText('wrong').waitFor();
    await ann.register('ann', 'Ann');
    await ann.tab.getByText('No conversations yet').waitFor();
    await ann.accessible('the empty list');
    annApi = new Api(target.url, 'ann');
    await annApi.signIn();
    [bobApi, carolApi] = [await Api.register(target.url, 'bob', 'Bob'), await Api.register(target.url, 'carol', 'Carol')];
  });
}

async function talk() {
  await step('Ann finds Bob and writes to him, by keyboard alone', async () => {
    const { tab } = ann;
    await tab.getByRole('button', { name: 'New conversation' }).focus();
    await tab.keyboard.press('Enter');
    await tab.getByLabel('Search people').waitFor();
    await ann.accessible('the form of a new conversation');
    await tab.keyboard.press('Escape');
    assert.equal(await tab.evaluate(() => document.activeElement.textContent), 'New conversation', 'the focus returns');
    await tab.keyboard.press('Enter');
    await tab.getByLabel('Search people').pressSequentially('bob');
    await tab.getByRole('button', { name: /^Bob/ }).focus();
    await tab.keyboard.press('Enter');
    await tab.getByRole('button', { name: 'Start' }).focus();
    await tab.keyboard.press('Enter');
    await tab.getByRole('heading', { name: 'Bob' }).waitFor();
    [{ id: direct }] = await annApi.dialogs();
    await ann.write('Hello Bob');
    await ann.message('Hello Bob').getByText('Delivered', { exact: true }).waitFor();
  });
  await step('a badge appears on both devices of Bob, in the list, the title and the icon, and nothing moves', async () => {
    [bob, bobSecond] = [await open('bob'), await open('bob on another device')];
    for (const device of [bob, bobSecond]) await device.signIn(bobApi.login);
    for (const device of [bob, bobSecond]) await unreadIs(device, 1);
    const icon = () => bob.tab.evaluate(() => document.querySelector('link[rel=icon]').href);
    const withOne = await icon();
    const box = () => bob.tab.locator('[data-dialog] strong').first().boundingBox();
    const before = await box();
    await bob.openDialog(direct);
    for (const device of [bob, bobSecond]) await unreadIs(device, 0);
    assert.notEqual(await icon(), withOne);
    assert.deepEqual(await box(), before, 'the row keeps its place');
    await ann.tab.getByText('Read by Bob').waitFor();
  });
  await step('what is loaded in a hidden tab is not marked as read', async () => {
    await bob.show(false);
    await ann.write('Are you there?');
    await bob.message('Are you there?').waitFor();
    for (const device of [bob, bobSecond]) await unreadIs(device, 1);
    await bob.show(true);
    for (const device of [bob, bobSecond]) await unreadIs(device, 0);
  });
}

async function history() {
  await step('a long history opens where reading began, and older pages appear above without a jump', async () => {
    await bob.tab.goto(`${target.url}/#/`);
    for (let n = 1; n <= 120; n += 1) await annApi.send(direct, `line ${n}`);
    await unreadIs(bob, 120);
    await bob.tab.reload();
    await bob.openDialog(direct);
    await bob.tab.getByRole('button', { name: 'To the newest message' }).waitFor();
    await unreadIs(bob, 120);
    const top = bob.message('line 21').first();
    const before = await top.boundingBox();
    await bob.tab.getByRole('button', { name: 'Show older messages' }).click();
    await bob.message('line 1').first().waitFor();
    const moved = (await top.boundingBox()).y - before.y;
    assert(Math.abs(moved) < 60, `what was read moved by ${moved} pixels`);
    await bob.tab.getByText('New messages').waitFor();
    await bob.tab.getByRole('button', { name: 'To the newest message' }).click();
    await bob.message('line 120').waitFor();
    for (const device of [bob, bobSecond]) await unreadIs(device, 0);
    const shown = await bob.tab.locator('.message .text').allTextContents();
    assert.deepEqual(shown.slice(-100), (await bobApi.messages(direct)).map(({ text }) => text));
    assert.equal(shown.length, 122);
    await bob.accessible('a conversation');
  });
  await step('a deleted message disappears everywhere, and its badge with it', async () => {
    await bob.tab.goto(`${target.url}/#/`);
    await ann.write('oops');
    await unreadIs(bob, 1);
    await ann.tab.getByRole('button', { name: 'Delete the message “oops”' }).click();
    await ann.tab.getByText('This message was deleted.').waitFor();
    for (const device of [bob, bobSecond]) await unreadIs(device, 0);
    await bob.tab.locator(`[data-dialog="${direct}"]`).getByText('Message deleted').waitFor();
  });
}

async function outbox() {
  await step('what is written offline is kept, also in a closed tab, and sent once and in order', async () => {
    const texts = ['offline 1', 'offline 2', 'offline 3'];
    ann.mayBeAway = true;
    await ann.context.setOffline(true);
    await ann.tab.getByText('Offline.').waitFor();
    for (const text of texts) await ann.write(text);
    await until('three messages wait', () => ann.tab.getByText('Waiting to be sent').count(), (count) => count === 3);
    await ann.accessible('messages that wait');
    await ann.context.setOffline(false);
    await ann.live();
    await ann.message('offline 3').getByText('Delivered', { exact: true }).waitFor();
    const sent = (await bobApi.messages(direct)).map(({ text }) => text).filter((text) => texts.includes(text));
    assert.deepEqual(sent, texts);
    ann.mayBeAway = false;
  });
  await step('a message whose answer was lost is sent again and is one message', async () => {
    ann.mayBeAway = true;
    const keys = keysOf(ann);
    let lost = 0;
    await ann.tab.route('**/graphql', async (route) => {
      if (route.request().postDataJSON()?.operationName !== 'SendMessage' || (lost += 1) > 1) return route.continue();
      await route.fetch();
      return route.abort();
    });
    await ann.write('only once');
    await ann.message('only once').getByText('Delivered', { exact: true }).waitFor();
    await until('it is sent again', () => keys.length, (count) => count === 2);
    await ann.tab.unroute('**/graphql');
    assert.equal(keys[0], keys[1]);
    assert.equal((await bobApi.messages(direct)).filter(({ text }) => text === 'only once').length, 1);
    assert.equal(await ann.message('only once').count(), 1);
    ann.mayBeAway = false;
  });
  await step('a refused message says why and is sent again with a new key', async () => {
    const keys = keysOf(ann);
    let refused = 0;
    await ann.tab.route('**/graphql', (route) => {
      if (route.request().postDataJSON()?.operationName !== 'SendMessage' || (refused += 1) > 1) return route.continue();
      return route.fulfill({ json: { errors: [{ message: 'not today', extensions: { code: 'BAD_USER_INPUT' } }] } });
    });
    await ann.write('refused');
    await ann.message('refused').getByText('not today').waitFor();
    await ann.message('refused').getByRole('button', { name: 'Try again: “refused”' }).click();
    await ann.message('refused').getByText('Delivered', { exact: true }).waitFor();
    await ann.tab.unroute('**/graphql');
    assert.equal(new Set(keys).size, 2);
  });
  await step('a message that is not counted is taken back, and is sent again as another one', async () => {
    const device = await open('ann, of whom a message is refused');
    let refused;
    await device.context.routeWebSocket('**/graphql', (page) => {
      const server = page.connectToServer();
      server.onMessage((frame) => {
        const message = JSON.parse(frame).payload?.data?.messages?.message;
        const isRefused = message?.text === 'never counted' && message.status === 'COMMITTED' && (refused ??= message.id) === message.id;
        page.send(isRefused ? frame.replaceAll('COMMITTED', 'FAILED').replace('"failureReason":null', '"failureReason":"left"') : frame);
      });
    });
    await device.tab.reload();
    await device.signIn('ann');
    await device.openDialog(direct);
    await device.write('never counted');
    await device.message('never counted').getByText('Not delivered').waitFor();
    await device.message('never counted').getByText('left', { exact: true }).waitFor();
    await device.accessible('a refused message');
    await device.message('never counted').getByRole('button', { name: 'Try again: “never counted”' }).click();
    await device.message('never counted').getByText('Delivered', { exact: true }).waitFor();
    assert.equal(await device.message('never counted').count(), 2);
    await device.context.close();
  });
  await step('an old answer that arrives late undoes nothing', async () => {
    const { tab } = ann;
    let answers = 0;
    await tab.route('**/graphql', async (route) => {
      if (route.request().postDataJSON()?.operationName !== 'Dialogs') return route.continue();
      const response = await route.fetch();
      const text = (await response.text()).replaceAll('COMMITTED', 'PENDING');
      await route.fulfill({ response, body: text });
      answers += 1;
    });
    await ann.context.setOffline(true);
    await tab.getByText('Offline.').waitFor();
    await ann.context.setOffline(false);
    await until('the list is loaded again', () => answers, (count) => count > 0);
    await tab.waitForTimeout(200);
    assert.equal(await tab.getByText(/^Sent$/).count(), 0);
    await tab.unroute('**/graphql');
  });
  await step('a text over the limit cannot be sent and is kept', async () => {
    await ann.tab.getByLabel('Write a message').fill('x'.repeat(4003));
    await ann.tab.getByText('3 characters too many').waitFor();
    assert(await ann.tab.getByRole('button', { name: 'Send', exact: true }).isDisabled());
    await ann.tab.getByLabel('Write a message').fill('');
  });
}

async function groups() {
  await step('a group: created, renamed, more people, left', async () => {
    const { tab } = ann;
    await tab.getByRole('button', { name: 'New conversation' }).click();
    await tab.getByLabel('Search people').fill('bob');
    await tab.getByRole('button', { name: /^Bob/ }).click();
    await tab.getByLabel('Title of the group').fill('Excursion');
    await tab.getByRole('button', { name: 'Start' }).click();
    await tab.getByRole('heading', { name: 'Excursion' }).waitFor();
    group = (await annApi.dialogs()).find(({ direct: isDirect }) => !isDirect).id;
    await bob.tab.locator(`[data-dialog="${group}"]`).waitFor();
    await tab.getByRole('button', { name: 'Members' }).click();
    await tab.getByLabel('Search people').fill('carol');
    await tab.getByRole('button', { name: /^Carol/ }).click();
    await tab.getByRole('button', { name: 'Add', exact: true }).click();
    await tab.locator('.members').getByText('Carol').first().waitFor();
    await ann.accessible('the members of a group');
    await tab.getByLabel('Title of the group').fill('Long excursion');
    await tab.getByRole('button', { name: 'Rename' }).click();
    await bob.tab.locator(`[data-dialog="${group}"]`).getByText('Long excursion').waitFor();
    await tab.keyboard.press('Escape');
    await carolApi.send(group, 'thank you');
    await ann.message('thank you').getByText('Carol').waitFor();
    await unreadIs(bob, (await bobApi.unread()).total);
    await bob.openDialog(group);
    await bob.tab.getByRole('button', { name: 'Members' }).click();
    await bob.tab.getByRole('button', { name: 'Leave the group' }).click();
    await bob.tab.getByRole('button', { name: 'Leave now' }).click();
    await bob.tab.getByText('Choose a conversation').waitFor();
    await bobSecond.tab.locator(`[data-dialog="${group}"]`).waitFor({ state: 'detached' });
    const first = bob.tab;
    const other = await bob.addTab(`/#/d/${group}`);
    await other.getByText('does not exist').waitFor();
    await other.close();
    bob.tab = first;
  });
}

async function sessions() {
  await step('many tabs share one refresh and show the same counts', async () => {
    const first = bob.tab;
    const tabs = [first, await bob.addTab(), await bob.addTab()];
    for (const tab of tabs) await tab.locator('.status[data-link=live][data-total]').waitFor();
    let refreshes = 0;
    bob.context.on('request', (request) => (refreshes += request.postData()?.includes('refreshSession') ? 1 : 0));
    await bob.expireToken();
    // Every tab asks the server for something at the same time.
    await Promise.all(tabs.map((tab) => tab.goto(`${target.url}/#/d/${direct}`)));
    for (const tab of tabs) await tab.getByLabel('Write a message').waitFor();
    await Promise.all(tabs.map((tab) => tab.reload()));
    for (const tab of tabs) await tab.locator('.status[data-link=live][data-total]').waitFor();
    assert.equal(refreshes, 1);
    for (const tab of tabs) assert.deepEqual(await bob.shown(tab), await bob.shown(first));
    for (const tab of tabs.slice(1)) await tab.close();
    bob.tab = first;
  });
  await step('a changed name is shown, and signing out here ends this device only', async () => {
    await ann.tab.getByRole('button', { name: 'Account' }).click();
    await ann.accessible('the account');
    await ann.tab.getByLabel('Display name').fill('Ann Lee');
    await ann.tab.getByRole('button', { name: 'Save' }).click();
    await ann.tab.getByText('Saved').waitFor();
    await ann.tab.getByRole('button', { name: 'Sign out', exact: true }).click();
    await ann.tab.getByText('You are signed out.').waitFor();
    assert.equal(await ann.tab.evaluate(() => JSON.stringify(localStorage).includes('eyJ')), false);
    await annApi.execute('{ me { id } }');
    await ann.signIn('ann');
    await ann.tab.getByRole('button', { name: 'Account: Ann Lee' }).waitFor();
  });
  await step('the list of sessions shows every device, and ends one of them', async () => {
    await bobSecond.tab.getByRole('button', { name: 'Account' }).click();
    const { sessions } = (await bobApi.execute('{ me { sessions { id current } } }')).me;
    const rows = bobSecond.tab.locator('.sessions li');
    await until('every session is shown', () => rows.count(), (count) => count === sessions.length);
    await bobSecond.tab.getByText('this device').waitFor();
    await bobSecond.accessible('the sessions');
    bob.mayBeAway = true;
    // The newest use first: this device, then the other one.
    await bobSecond.tab.getByRole('button', { name: /^Sign out Mozilla/ }).first().click();
    await bob.tab.getByText('Your session has ended').waitFor();
    await until('it is gone from the list', () => rows.count(), (count) => count === sessions.length - 1);
    await bobSecond.tab.keyboard.press('Escape');
    await bob.signIn(bobApi.login);
  });
  await step('signing out everywhere on one device signs the other out at once', async () => {
    for (const device of [bob, bobSecond]) device.mayBeAway = true;
    await bob.tab.getByRole('button', { name: 'Account' }).click();
    await bob.tab.getByRole('button', { name: 'Sign out everywhere' }).click();
    await bob.tab.getByText('You are signed out.').waitFor();
    await bobSecond.tab.getByText('Your session has ended').waitFor();
    assert.equal(await bobSecond.tab.title(), 'Tidings');
    for (const device of [bob, bobSecond]) await device.signIn(bobApi.login);
  });
}

async function outage() {
  await step('while the program is away the page says so, and it goes on by itself', async () => {
    for (const device of devices) device.mayBeAway = true;
    await ann.openDialog(direct);
    await target.kill();
    await bob.tab.getByText('Reconnecting…').waitFor();
    await ann.write('written while it was away');
    await target.restart();
    for (const device of [ann, bob, bobSecond]) await device.live();
    await unreadIs(bob, (await bobApi.unread()).total);
    await until('the message is sent', () => bobApi.messages(direct), (all) => all.at(-1).text === 'written while it was away');
  });
}

async function looks() {
  await step('dark, at phone width, from right to left, with long words: nothing overflows and axe finds nothing', async () => {
    const views = {
      light: {},
      dark: { colorScheme: 'dark' },
      phone: { viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, colorScheme: 'light' },
    };
    await carolApi.signIn();
    const tour = await annApi.createDialog([bobApi, carolApi], 'Excursion on Sunday');
    for (const [sender, text] of [
      [annApi, 'Shall we take the early train?'], [bobApi, 'Yes! I will bring the map 🗺️'], [carolApi, 'And I the coffee ☕'],
      [annApi, 'صباح الخير، القطار في السابعة'], [carolApi, `A very long word: ${'Donaudampfschifffahrt'.repeat(8)}`],
      [bobApi, 'See you at the station'],
    ]) await sender.send(tour, text);
    for (const [name, options] of Object.entries(views)) {
      const device = await open(name, options);
      await device.signIn('ann');
      await device.tab.locator(`[data-dialog="${tour}"]`).waitFor();
      await device.accessible(`${name}: the list`);
      if (name === 'phone') await photograph(device, 'page-phone-list');
      await device.openDialog(tour);
      await device.message('See you at the station').waitFor();
      await unreadIs(device, (await annApi.unread()).total);
      await device.accessible(`${name}: a conversation`);
      await photograph(device, `page-${name}`);
      await device.tab.evaluate(() => (document.documentElement.dir = 'rtl'));
      await device.accessible(`${name}: from right to left`);
      const overflow = await device.tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(overflow <= 0, `${name}: ${overflow} pixels wider than the window`);
      await device.tab.evaluate(() => (document.documentElement.dir = 'ltr'));
      await annApi.execute('{ me { id } }');
    }
  });
}

async function limits() {
  await step('without JavaScript, a sentence', async () => {
    const plain = await browser.newContext({ javaScriptEnabled: false });
    const tab = await plain.newPage();
    await tab.goto(target.url);
    const sentence = tab.locator('noscript p');
    assert.match(await sentence.textContent(), /^This page needs JavaScript/);
    assert((await sentence.boundingBox()).height > 10, 'it is shown');
    await plain.close();
  });
  await step('the first badge is there within a second of loading', async () => {
    const device = await open('in a hurry');
    const visitor = await Api.register(target.url, 'dora', 'Dora');
    const talk = await annApi.createDialog([visitor], 'to be fast');
    await annApi.send(talk);
    await device.signIn(visitor.login);
    const times = [];
    for (let run = 0; run < 3; run += 1) {
      const started = Date.now();
      await device.tab.reload({ waitUntil: 'commit' });
      await device.tab.locator('.badge[data-unread="1"]').waitFor();
      times.push(Date.now() - started);
    }
    console.log(`    first badge after ${times.join(', ')} ms`);
    assert(Math.min(...times) < 1000, `${times}`);
  });
  await step('with introspection off and trusted documents only, the page works and the tools are absent', async () => {
    const list = join(target.folder, 'trusted.json');
    await writeFile(list, JSON.stringify({ me: '{ me { id } }' }));
    const strict = await startTarget({ INTROSPECTION: 'off', TRUSTED_DOCUMENTS: list });
    try {
      for (const path of ['/graphiql', '/playground']) assert.equal((await fetch(strict.url + path)).status, 404, path);
      const device = await Device.open(browser, strict.url, 'strict');
      devices.push(device);
      await device.register('sam', 'Sam');
      device.mayBeAway = true;
      await device.tab.getByText('No conversations yet').waitFor();
      await device.expireToken();
      await device.tab.reload();
      await device.live();
      await device.context.close();
    } finally {
      await strict.stop();
    }
  });
}

try {
  for (const part of [signUp, talk, history, outbox, groups, sessions, outage, looks, limits]) await part();
  await step('no console line, no request to another host, no violation of the policy', () => {
    assert.deepEqual(devices.flatMap(({ faults }) => faults), []);
  });
} catch (failure) {
  for (const device of devices) {
    await photograph(device, `failed-${device.name.replaceAll(' ', '-')}`).catch(() => {});
    console.error(device.faults.join('\n'));
  }
  throw failure;
} finally {
  await browser.close();
  await target.stop();
}
