// graphql-sse 2 with a connection for each operation: counts are live, and a lost connection resumes from its cursor.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createClient } from 'graphql-sse';
import { Frames, ResettableProxy, Caller, STORY, UNREAD } from './story.mjs';

let ann, bob, dialog, proxy, client, cursor;
const connections = [];

before(async () => {
  [ann, bob, proxy] = await Promise.all([Caller.register('ann'), Caller.register('bob'), ResettableProxy.open()]);
  dialog = await ann.createDialog(bob);
  client = createClient({
    url: proxy.url,
    // The library does not resume by itself. It passes on every message and calls `headers` before each connection.
    headers: () => ({ authorization: bob.authorization, ...(cursor && { 'last-event-id': cursor }) }),
    onMessage: ({ data }) => (cursor = data?.extensions?.cursor ?? cursor),
    retry: () => new Promise((resolve) => setTimeout(resolve, 100)),
    on: { connected: (again) => connections.push(again) },
  });
});

after(() => {
  client?.dispose();
  proxy?.close();
});

async function results(query) {
  const all = [];
  for await (const result of client.iterate({ query })) all.push(result);
  return all;
}

test('a query and a mutation are one result each', async () => {
  assert.deepEqual(await results('{ __typename }'), [{ data: { __typename: 'Query' } }]);
  assert.deepEqual(await results('mutation { updateMe(name: "Bob") { name } }'), [{ data: { updateMe: { name: 'Bob' } } }]);
});

test('an invalid document is reported immediately and not retried', async () => {
  const [rejected, ...more] = await results('{ nonsense }');
  assert.deepEqual([rejected.errors[0].extensions.code, more], ['GRAPHQL_VALIDATION_FAILED', []]);
});

test(STORY, async () => {
  const frames = new Frames();
  const stop = client.subscribe({ query: UNREAD }, {
    next: (result) => frames.push(result.data.unread),
    error: (error) => frames.push({ error }),
    complete: () => frames.push({ complete: true }),
  });
  const first = await frames.next();
  assert.deepEqual([first.kind, first.total], ['SNAPSHOT', 0]);
  await ann.send(dialog);
  assert.equal((await frames.untilTotal(1)).kind, 'CHANGE');
  await bob.read(dialog);
  const zero = await frames.untilTotal(0);
  assert.equal(cursor, zero.version);

  proxy.cut();
  assert.equal((await frames.next()).kind, 'CURRENT', 'no frame was missed');
  proxy.cut();
  await ann.send(dialog);
  const missed = await frames.untilTotal(1);
  assert(['SNAPSHOT', 'CHANGE'].includes(missed.kind));
  assert.deepEqual(connections.slice(-3), [false, true, true]);

  await bob.execute('mutation { logout }');
  const { error } = await frames.next();
  assert.equal(error?.response?.status, 401, 'a revoked session ends the stream, and the reconnect is rejected');
  stop();
});
