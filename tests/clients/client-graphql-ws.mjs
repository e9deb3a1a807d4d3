// graphql-ws 6 with the code of docs/clients.md.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { importSnippet, countRefreshes, expiredSession, runStory } from './snippets.mjs';
import { Frames, PROGRAM, Caller, ResettableProxy, UNREAD } from './story.mjs';

const { openSocket } = await importSnippet('socket.mjs');
const { watchUnread } = await importSnippet('plain.mjs');
const shown = new Frames();

runStory(
  (url, session, frames) => {
    const fail = (error) => frames.push({ error });
    const next = ({ data }) => frames.push(data.unread);
    const socket = openSocket(url, session);
    const stops = [
      socket.subscribe({ query: UNREAD }, { next, error: fail, complete() {} }),
      watchUnread(url, session, (total, counts) => shown.push({ total, counts: new Map(counts) }), fail),
    ];
    return () => [...stops, socket.dispose].forEach((stop) => stop());
  },
  async ({ dialog }) => {
    const { counts } = await shown.untilTotal(1);
    assert.deepEqual([...counts], [[dialog, 1]]);
  },
);

test('concurrent requests for a token share one refresh', async () => {
  const refreshes = countRefreshes();
  const carol = await Caller.register('carol');
  const session = await expiredSession(`${PROGRAM}/graphql`, carol);
  const tokens = await Promise.all(Array.from({ length: 50 }, () => session.token()));
  assert.deepEqual([new Set(tokens).size, refreshes.count], [1, 1]);
  session.tokens.expiresAt = new Date(Date.now() + 9_000).toISOString();
  assert.notEqual(await session.token(), tokens[0], 'a token that is about to expire is not used');
  assert.equal(refreshes.count, 2);
});

test('a revoked session closes the socket for good, and an invalid refresh token is an error', async () => {
  const dave = await Caller.register('dave');
  const { Session } = await importSnippet('session.mjs');
  const frames = new Frames();
  const url = `${PROGRAM}/graphql`;
  const stop = watchUnread(url, new Session(url, dave.tokens), (total) => frames.push({ total }), (error) => frames.push({ error }));
  await frames.next();
  await dave.execute('mutation { logout }');
  const { error } = await frames.next();
  assert.equal(error.code, 4401);
  stop();
  await assert.rejects((await expiredSession(url, dave)).token());
});

test('a refresh that fails for a moment delays the counts and does not end them', async (t) => {
  const erin = await Caller.register('erin');
  const url = `${PROGRAM}/graphql`;
  const session = await expiredSession(url, erin);
  const { fetch } = globalThis;
  let failures = 2;
  t.mock.method(globalThis, 'fetch', (...request) => {
    failures -= 1;
    if (failures === 1) throw new TypeError('fetch failed');
    if (failures === 0) return Response.json({ errors: [{ message: 'auth is away', extensions: { code: 'UNAVAILABLE' } }] });
    return fetch(...request);
  });
  const frames = new Frames();
  const stop = watchUnread(url, session, (total) => frames.push({ total }), (error) => frames.push({ error }));
  assert.deepEqual(await frames.next(), { total: 0 });
  assert(failures < 0, 'both failures happened');
  stop();
});

test('an outage that refuses connections delays the counts and does not end them', async () => {
  const [gus, hal, proxy] = await Promise.all([Caller.register('gus'), Caller.register('hal'), ResettableProxy.open()]);
  const dialog = await gus.createDialog(hal);
  const { Session } = await importSnippet('session.mjs');
  const frames = new Frames();
  const session = new Session(proxy.url, hal.tokens);
  const stop = watchUnread(proxy.url, session, (total) => frames.push({ total }), (error) => frames.push({ error }));
  assert.deepEqual(await frames.next(), { total: 0 });
  proxy.close();
  await gus.send(dialog);
  await setTimeout(2500);
  await proxy.listen();
  await frames.untilTotal(1);
  stop();
  proxy.close();
});
