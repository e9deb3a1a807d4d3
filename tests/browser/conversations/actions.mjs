// Random actions on three devices of two people: after each, every device shows exactly the counts that the API answers.
//
//     node actions.mjs
//
// ACTIONS is their number (200), SEED reproduces a run. TIDINGS is the program; with STACK_DIR and TIDINGS_URL, the stack that
// runs there is used and its gateways are killed.
import assert from 'node:assert/strict';
import { Api } from './api.mjs';
import { launch } from './browser.mjs';
import { Device, until } from './device.mjs';
import { startTarget } from './target.mjs';

const ACTIONS = Number(process.env.ACTIONS ?? 200);
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
/** Longest time until every device shows the counts of the API. A killed gateway is the longest pause. */
const SETTLED_MS = 30_000;

/** A generator of numbers from 0 to 1 that a seed reproduces (mulberry32). */
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const random = randomFrom(SEED);
/** The latest actions, for the message of a failure. */
const trail = [];
const pick = (list) => {
  const picked = list[Math.floor(random() * list.length)];
  if (picked instanceof Device) trail.push(`  ${picked.name}`);
  return picked;
};

const target = await startTarget();
const browser = await launch();
const annApi = await Api.register(target.url, 'ann', 'Ann');
const bobApi = await Api.register(target.url, 'bob', 'Bob');
const carolApi = await Api.register(target.url, 'carol', 'Carol');
const direct = await annApi.createDialog([bobApi]);
const groups = [await annApi.createDialog([bobApi, carolApi], 'one'), await carolApi.createDialog([bobApi, annApi], 'two')];

const ann = await Device.open(browser, target.url, 'ann');
const bob = await Device.open(browser, target.url, 'bob');
const bobSecond = await Device.open(browser, target.url, 'bob on another device');
const devices = [ann, bob, bobSecond];
const apiOf = new Map([[ann, annApi], [bob, bobApi], [bobSecond, bobApi]]);
for (const device of devices) {
  device.mayBeAway = true;
  device.offline = false;
  await device.signIn(apiOf.get(device).login);
}
let written = 0;
const text = () => `message ${(written += 1)}`;
/** Texts that were sent, by dialog: each must be stored once. */
const sent = new Map();
const note = (dialog, message) => sent.set(dialog, [...(sent.get(dialog) ?? []), message]);

const isOpen = (device) => device.tab.evaluate(() => decodeURIComponent(location.hash.slice(4)));
const dialogsOf = (device) => device.tab.$$eval('[data-dialog]', (rows) => rows.map(({ dataset }) => dataset.dialog));
const online = () => devices.filter(({ offline }) => !offline);

/** Returns the dialogs that a user takes part in. */
const memberships = async (api) => (await api.dialogs()).map(({ id }) => id);

const actions = {
  async 'the API sends'() {
    const sender = pick([annApi, bobApi, carolApi]);
    const dialog = pick(await memberships(sender));
    if (!dialog) return;
    const message = text();
    await sender.send(dialog, message);
    note(dialog, message);
  },
  async 'a device opens a conversation'() {
    const device = pick(devices);
    const dialog = pick(await dialogsOf(device));
    if (dialog) await device.tab.locator(`[data-dialog="${dialog}"]`).click();
  },
  async 'a device closes the conversation'() {
    await pick(devices).tab.evaluate(() => (location.hash = '#/'));
  },
  async 'a device writes'() {
    const device = pick(devices);
    const field = device.tab.getByLabel('Write a message');
    if ((await field.count()) === 0) return;
    const message = text();
    const dialog = await isOpen(device);
    await device.write(message);
    note(dialog, message);
  },
  async 'a device scrolls to the newest message'() {
    const button = pick(devices).tab.getByRole('button', { name: 'To the newest message' });
    if ((await button.count()) > 0) await button.click({ timeout: 2000 }).catch(() => {});
  },
  async 'the API marks as read'() {
    const api = pick([annApi, bobApi]);
    const dialog = pick(await memberships(api));
    if (dialog) await api.read(dialog);
  },
  async 'the API deletes a message'() {
    const api = pick([annApi, bobApi, carolApi]);
    const dialog = pick(await memberships(api));
    if (!dialog) return;
    const mine = (await api.messages(dialog)).filter(({ senderId, deletedAt }) => senderId === api.id && !deletedAt);
    const message = pick(mine.slice(-5));
    if (!message) return;
    await api.remove(message.id);
    sent.set(dialog, (sent.get(dialog) ?? []).filter((it) => it !== message.text));
  },
  async 'a user joins a group'() {
    const group = pick(groups);
    const inside = [];
    for (const api of [annApi, bobApi, carolApi]) if ((await memberships(api)).includes(group)) inside.push(api);
    const host = pick(inside);
    if (host) await host.add(group, [pick([annApi, bobApi, carolApi])]);
  },
  async 'a user leaves a group'() {
    const api = pick([annApi, bobApi]);
    const mine = (await memberships(api)).filter((id) => groups.includes(id));
    // What waits offline for a group that was left can never be sent.
    const waits = devices.some((device) => device.offline && apiOf.get(device) === api);
    if (mine.length > 0 && !waits) await api.leave(pick(mine));
    if (random() < 0.5) groups.push(await carolApi.createDialog([annApi, bobApi], `group ${groups.length}`));
  },
  async 'a tab is hidden, or shown again'() {
    const device = pick(devices);
    device.hidden = !device.hidden;
    await device.show(!device.hidden);
  },
  async 'a device goes offline, or comes back'() {
    const device = devices.find(({ offline }) => offline) ?? pick(devices);
    device.offline = !device.offline;
    await device.context.setOffline(device.offline);
  },
  async 'a gateway is killed'() {
    await target.restart();
  },
  async 'an access token expires'() {
    await pick(online()).expireToken();
  },
  async 'a page is loaded again'() {
    const device = pick(online());
    device.hidden = false;
    await device.tab.reload();
  },
  async 'Bob signs out everywhere on another device'() {
    if (devices.some(({ offline }) => offline)) return;
    await bobApi.execute('mutation { logout(everywhere: true) }');
    for (const device of [bob, bobSecond]) {
      await device.tab.getByText('Your session has ended').waitFor();
      device.hidden = false;
      await device.show(true);
      await device.signIn(bobApi.login);
    }
  },
};
/** How often an action is chosen. */
const weights = { 'the API sends': 5, 'a device writes': 4, 'a device opens a conversation': 4, 'a gateway is killed': 0.5, 'Bob signs out everywhere on another device': 0.5 };
const wheel = Object.keys(actions).flatMap((name) => Array(Math.round(2 * (weights[name] ?? 1))).fill(name));

/** Waits until every connected device shows what the API answers, with nothing left to be sent. */
async function compare() {
  const differences = async () => {
    const found = [];
    for (const device of online()) {
      const [{ total, rows }, shown] = [await apiOf.get(device).unread(), await device.shown()];
      const waiting = await device.tab.getByText('Waiting to be sent').count();
      const isEqual = shown?.total === total && shown.title === total && JSON.stringify(sorted(shown.rows)) === JSON.stringify(sorted(rows));
      if (!isEqual || waiting > 0) found.push({ device: device.name, shown, expected: { total, rows }, waiting });
    }
    return found;
  };
  await until('every device shows the counts of the API', differences, (found) => found.length === 0, SETTLED_MS);
}

const sorted = (rows) => Object.entries(rows).sort(([a], [b]) => (a < b ? -1 : 1));

const tally = {};
let slowest = 0;
try {
  for (let number = 1; number <= ACTIONS; number += 1) {
    const name = number <= Object.keys(actions).length ? Object.keys(actions)[number - 1] : pick(wheel);
    const started = Date.now();
    trail.push(`${number} ${name}`);
    try {
      await actions[name]();
      await compare();
    } catch (error) {
      error.message = `action ${number}, ${name} (SEED=${SEED}): ${error.message}\n${trail.slice(-24).join('\n')}`;
      throw error;
    }
    tally[name] = (tally[name] ?? 0) + 1;
    slowest = Math.max(slowest, Date.now() - started);
  }
  for (const device of devices) await device.context.setOffline((device.offline = false));
  await compare();
  for (const [dialog, texts] of sent) {
    const reader = carolApi && (await memberships(carolApi)).includes(dialog) ? carolApi : annApi;
    if (!(await memberships(reader)).includes(dialog)) continue;
    const stored = (await reader.messages(dialog)).map((message) => message.text);
    const expected = texts.filter((it) => stored.length < 100 || it === stored.find((other) => other === it));
    for (const it of expected) assert.equal(stored.filter((other) => other === it).length, 1, `${it} is stored once`);
  }
  assert.deepEqual(devices.flatMap(({ faults }) => faults), []);
  console.log(Object.entries(tally).map(([name, count]) => `    ${String(count).padStart(3)} ${name}`).join('\n'));
  console.log(`ok  ${ACTIONS} random actions, 0 differences; the slowest took ${slowest} ms (SEED=${SEED})`);
} catch (failure) {
  for (const device of devices) console.error(device.faults.join('\n'));
  throw failure;
} finally {
  await browser.close();
  await target.stop();
}
