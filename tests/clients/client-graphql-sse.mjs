// graphql-sse 2, a connection for each operation: the counts are live, a lost connection is made good from where it broke.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createClient } from 'graphql-sse';
import { Frames, Line, Person, STORY, UNREAD } from './story.mjs';

let ann, bob, dialog, line, client, cursor;
const connections = [];

before(async () => {
  [ann, bob, line] = await Promise.all([Person.register('ann'), Person.register('bob'), Line.open()]);
  dialog = await ann.talkTo(bob);
  client = createClient({
    url: line.url,
    // The library leaves resuming to us: it hands out what came, and asks for the headers anew when it connects again.
    headers: () => ({ authorization: bob.authorization, ...(cursor && { 'last-event-id': cursor }) }),
    onMessage: ({ data }) => (cursor = data?.extensions?.cursor ?? cursor),
    retry: () => new Promise((resolve) => setTimeout(resolve, 100)),
    on: { connected: (again) => connections.push(again) },
  });
});

after(() => {
  client?.dispose();
  line?.close();
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

test('what does not fit the schema is shown at once, without another try', async () => {
  const [refused, ...more] = await results('{ nonsense }');
  assert.deepEqual([refused.errors[0].extensions.code, more], ['GRAPHQL_VALIDATION_FAILED', []]);
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

  line.cut();
  assert.equal((await frames.next()).kind, 'CURRENT', 'nothing was missed');
  line.cut();
  await ann.send(dialog);
  const missed = await frames.untilTotal(1);
  assert(['SNAPSHOT', 'CHANGE'].includes(missed.kind));
  assert.deepEqual(connections.slice(-3), [false, true, true]);

  await bob.ask('mutation { logout }');
  const { error } = await frames.next();
  assert.equal(error?.response?.status, 401, 'a session that is over ends the stream and is not let in again');
  stop();
});
