// Code snippets of docs/clients.md: extracted from the page into a folder beside the packages, where tests import them.
// Also the story that every client of the page passes.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { WebSocket } from 'ws';
import { Frames, ResettableProxy, Caller, STORY } from './story.mjs';

const LINES_MAX = 35;

// The snippets use the global WebSocket of browsers.
globalThis.WebSocket = WebSocket;

/** Folder with the snippets; removed at exit. */
export const FOLDER = mkdtempSync(new URL('.page-', import.meta.url).pathname);
process.on('exit', () => rmSync(FOLDER, { recursive: true, force: true }));

const page = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8');

/** Snippets by name. */
export const SNIPPETS = new Map();
for (const [, name, code] of page.matchAll(/^```\w+ (\S+)\n(.*?)^```$/gms)) {
  SNIPPETS.set(name, code);
  const lines = code.trimEnd().split('\n').length;
  assert(lines <= LINES_MAX, `${name} has ${lines} lines, ${LINES_MAX} at most`);
  writeFileSync(`${FOLDER}/${name}`, code);
  const ofPage = new URL(`../../web/app/src/client/${name}`, import.meta.url);
  if (existsSync(ofPage)) assert.equal(readFileSync(ofPage, 'utf8'), code, `the page at / uses ${name} as docs/clients.md has it`);
}

/** Imports a snippet as a module. */
export const importSnippet = (name) => import(pathToFileURL(`${FOLDER}/${name}`));

/** Counts the refreshes requested from now on. */
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

/** Returns a session with an expired access token: the first request for a token refreshes it. */
export async function expiredSession(url, caller) {
  const { Session } = await importSnippet('session.mjs');
  return new Session(url, { ...caller.tokens, accessToken: 'expired', expiresAt: new Date(0).toISOString() });
}

/**
 * Registers the story as a test. `watch` receives an address, a session and a queue for frames `{ kind, total }`, starts a
 * subscription and returns a function that ends it. `also` is called with the users and the dialog while one message is
 * unread, for assertions about the client.
 */
export function runStory(watch, also = () => {}) {
  let ann, bob, dialog, proxy, session, stop;
  const frames = new Frames();

  before(async () => {
    [ann, bob, proxy] = await Promise.all([Caller.register('ann'), Caller.register('bob'), ResettableProxy.open()]);
    dialog = await ann.createDialog(bob);
  });

  after(() => {
    stop?.();
    proxy?.close();
  });

  test(STORY, async () => {
    const refreshes = countRefreshes();
    session = await expiredSession(proxy.url, bob);
    stop = await watch(proxy.url, session, frames);
    const first = await frames.next();
    assert.deepEqual([first.kind, first.total], ['SNAPSHOT', 0], JSON.stringify(first));
    assert.equal(await bob.unread(), 0);
    await ann.send(dialog);
    const { kind, version } = await frames.untilTotal(1);
    assert.equal(kind, 'CHANGE');
    assert.equal(await bob.unread(version), 1, 'another gateway answers at least the version seen');
    await also({ ann, bob, dialog, session, url: proxy.url });
    assert.equal(refreshes.count, 1, 'one refresh for all requests for a token');
    await bob.read(dialog);
    await frames.untilTotal(0);

    proxy.cut();
    assert.equal((await frames.next()).kind, 'CURRENT', 'no frame was missed: the subscription resumed at its version');
    proxy.cut();
    await ann.send(dialog);
    const missed = await frames.untilTotal(1);
    assert(['SNAPSHOT', 'CHANGE'].includes(missed.kind));
  });
}
