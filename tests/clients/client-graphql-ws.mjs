// graphql-ws 6, as docs/clients.md has it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { code, countRefreshes, old, tellsTheStory } from './page.mjs';
import { Frames, PROGRAM, Person, UNREAD } from './story.mjs';

const { openSocket } = await code('socket.mjs');
const { watchUnread } = await code('plain.mjs');
const shown = new Frames();

tellsTheStory(
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

test('many who want a token at once share one refresh, and the next sign-in goes on with it', async () => {
  const refreshes = countRefreshes();
  const carol = await Person.register('carol');
  const session = await old(`${PROGRAM}/graphql`, carol);
  const tokens = await Promise.all(Array.from({ length: 50 }, () => session.token()));
  assert.deepEqual([new Set(tokens).size, refreshes.count], [1, 1]);
  session.tokens.expiresAt = new Date(Date.now() + 9_000).toISOString();
  assert.notEqual(await session.token(), tokens[0], 'one that is about to end is not used any more');
  assert.equal(refreshes.count, 2);
});

test('a session that is over ends the socket for good, and a bad refresh token is told', async () => {
  const dave = await Person.register('dave');
  const { Session } = await code('session.mjs');
  const frames = new Frames();
  const url = `${PROGRAM}/graphql`;
  const stop = watchUnread(url, new Session(url, dave.tokens), (total) => frames.push({ total }), (error) => frames.push({ error }));
  await frames.next();
  await dave.ask('mutation { logout }');
  const { error } = await frames.next();
  assert.equal(error.code, 4401);
  stop();
  await assert.rejects((await old(url, dave)).token());
});
