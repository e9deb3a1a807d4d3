// The code of docs/clients.md, as it stands there: taken out of the page into a folder beside the packages, and imported. And
// the story that every client of the page tells.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { WebSocket } from 'ws';
import { Frames, Line, Person, STORY } from './story.mjs';

const LINES_MAX = 30;

// Browsers have one.
globalThis.WebSocket = WebSocket;

/** The folder that the code is in; gone when the process is. */
export const FOLDER = mkdtempSync(new URL('.page-', import.meta.url).pathname);
process.on('exit', () => rmSync(FOLDER, { recursive: true, force: true }));

const page = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8');

/** The pieces of code that stand there, by name. */
export const PIECES = new Map();
for (const [, name, code] of page.matchAll(/^```\w+ (\S+)\n(.*?)^```$/gms)) {
  PIECES.set(name, code);
  const lines = code.trimEnd().split('\n').length;
  assert(lines <= LINES_MAX, `${name} has ${lines} lines, ${LINES_MAX} at most`);
  writeFileSync(`${FOLDER}/${name}`, code);
}

/** A piece of the page's code, as a module. */
export const code = (name) => import(pathToFileURL(`${FOLDER}/${name}`));

/** What refreshes have been asked for since. */
export function countRefreshes() {
  const { fetch } = globalThis;
  const counted = { count: 0 };
  globalThis.fetch = (url, options) => {
    counted.count += String(options?.body).includes('refreshSession');
    return fetch(url, options);
  };
  after(() => (globalThis.fetch = fetch));
  return counted;
}

/** A sign-in whose access token is said to be over already: the first who wants one refreshes it. */
export async function old(url, person) {
  const { Session } = await code('session.mjs');
  return new Session(url, { ...person.tokens, accessToken: 'over', expiresAt: new Date(0).toISOString() });
}

/**
 * The story: `watch` is given an address, a sign-in and frames to fill with `{ kind, total }`, and gives what ends it. What it
 * gives `also` is called with the people and the dialog when one message is unread.
 */
export function tellsTheStory(watch, also = () => {}) {
  let ann, bob, dialog, line, session, stop;
  const frames = new Frames();

  before(async () => {
    [ann, bob, line] = await Promise.all([Person.register('ann'), Person.register('bob'), Line.open()]);
    dialog = await ann.talkTo(bob);
  });

  after(() => {
    stop?.();
    line?.close();
  });

  test(STORY, async () => {
    const refreshes = countRefreshes();
    session = await old(line.url, bob);
    stop = await watch(line.url, session, frames);
    const first = await frames.next();
    assert.deepEqual([first.kind, first.total], ['SNAPSHOT', 0], JSON.stringify(first));
    assert.equal(await bob.unread(), 0);
    await ann.send(dialog);
    const { kind, version } = await frames.untilTotal(1);
    assert.equal(kind, 'CHANGE');
    assert.equal(await bob.unread(version), 1, 'what was seen at one gateway is what another one answers');
    await also({ ann, bob, dialog, session, url: line.url });
    assert.equal(refreshes.count, 1, 'one refresh for all who wanted a token');
    await bob.read(dialog);
    await frames.untilTotal(0);

    line.cut();
    assert.equal((await frames.next()).kind, 'CURRENT', 'nothing was missed: it has gone on from where it was');
    line.cut();
    await ann.send(dialog);
    const missed = await frames.untilTotal(1);
    assert(['SNAPSHOT', 'CHANGE'].includes(missed.kind));
  });
}
