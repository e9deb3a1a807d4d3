// The session that the tabs of a browser share, with the code of docs/clients.md. Locks and storage are those of this process.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Caller, PROGRAM } from './story.mjs';
import { countRefreshes, importSnippet } from './snippets.mjs';

const stored = new Map();
const localStorage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) };
let last = Promise.resolve();
const locks = { request: (_, action) => (last = last.then(action, action)) };
Object.defineProperty(globalThis, 'localStorage', { value: localStorage, configurable: true });
Object.defineProperty(globalThis, 'navigator', { value: { locks }, configurable: true });

test('three tabs that need a new token share one refresh', async () => {
  const { SharedSession } = await importSnippet('shared-session.mjs');
  const ida = await Caller.register('ida');
  const url = `${PROGRAM}/graphql`;
  const tabs = [new SharedSession(url, ida.tokens), new SharedSession(url), new SharedSession(url)];
  assert.equal(await tabs[1].token(), ida.token);
  const refreshes = countRefreshes();
  tabs[0].tokens = { expiresAt: new Date(0).toISOString() };
  const tokens = await Promise.all(tabs.map((tab) => tab.token()));
  assert.equal(refreshes.count, 1);
  assert.deepEqual([new Set(tokens).size, tokens[0] === ida.token], [1, false]);
  tabs[2].tokens = { expiresAt: new Date(0).toISOString() };
  assert.notEqual(await tabs[2].token(), tokens[0], 'the refresh token of the first refresh is the next one');
  assert.equal(refreshes.count, 2);
});
