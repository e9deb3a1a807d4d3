// Federation: the program and another subgraph, composed with @theguild/federation-composition, behind
// @graphql-hive/gateway. Queries across both run with the caller's permissions.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { createGatewayRuntime } from '@graphql-hive/gateway-runtime';
import { compositionHasErrors, composeServices } from '@theguild/federation-composition';
import { parse } from 'graphql';
import { PINS, pins } from './pins.mjs';
import { PROGRAM, Caller } from './story.mjs';

let ann, bob, carol, dialog, other, runtime, supergraph;

before(async () => {
  [ann, bob, carol] = await Promise.all(['ann', 'bob', 'carol'].map((name) => Caller.register(name)));
  dialog = await ann.createDialog(bob);
  await ann.send(dialog, 'hello');
  while ((await bob.execute('{ unread { total } }')).unread.total === 0) await setTimeout(20);
  other = createServer(pins({ [bob.id]: 'early bird' }, [dialog])).listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { _service } = await ann.execute('{ _service { sdl } }');
  const subgraphs = [
    { name: 'tidings', url: `${PROGRAM}/graphql`, typeDefs: parse(_service.sdl) },
    { name: 'pins', url: `http://127.0.0.1:${other.address().port}/graphql`, typeDefs: parse(PINS) },
  ];
  const composed = composeServices(subgraphs);
  assert(!compositionHasErrors(composed), JSON.stringify(composed.errors));
  supergraph = composed.supergraphSdl;
  const fromClientToSubgraphs = ({ request }) => ({ authorization: request.headers.get('authorization') });
  runtime = createGatewayRuntime({ supergraph, propagateHeaders: { fromClientToSubgraphs }, logging: false });
});

after(async () => {
  await runtime?.dispose?.();
  other?.closeAllConnections();
  other?.close();
});

async function execute(caller, query, variables) {
  const headers = { 'content-type': 'application/json', ...(caller && { authorization: caller.authorization }) };
  const body = JSON.stringify({ query, variables });
  const answer = await runtime.fetch('http://gateway/graphql', { method: 'POST', headers, body });
  return answer.json();
}

test('the composed schema has types and fields of both subgraphs', () => {
  for (const part of ['type User', 'motto', 'unreadCount', 'pinned', 'graph: TIDINGS', 'graph: PINS']) {
    assert(supergraph.includes(part), part);
  }
});

test('a query across both resolves fields of users in the other subgraph', async () => {
  const query = 'query($id: ID!) { dialog(id: $id) { participants { nodes { name motto } } } }';
  const { data, errors } = await execute(ann, query, { id: dialog });
  assert.equal(errors, undefined, JSON.stringify(errors));
  const mottos = data.dialog.participants.nodes.map(({ motto }) => motto);
  assert.deepEqual(mottos.sort(), [null, 'early bird'].sort());
});

test('a query across both resolves dialogs of the other subgraph with permissions of the caller', async () => {
  const query = '{ pinned { id title unreadCount lastMessage { text sender { name motto } } } }';
  const { data, errors } = await execute(bob, query);
  assert.equal(errors, undefined, JSON.stringify(errors));
  const [pinned] = data.pinned;
  assert.deepEqual([pinned.title, pinned.lastMessage.text, pinned.lastMessage.sender.motto], ['a talk', 'hello', null]);
  assert.equal(pinned.unreadCount, 1);
  const foreign = await execute(carol, query);
  assert.deepEqual(foreign.data.pinned, [{ id: dialog, title: null, unreadCount: null, lastMessage: null }]);
});

test('one query resolves a hundred entities, unknown keys included', async () => {
  const query = 'query($keys: [_Any!]!) { _entities(representations: $keys) { ... on Dialog { id unreadCount } ... on User { id } } }';
  const known = Array.from({ length: 98 }, (_, index) => {
    return index % 2 ? { __typename: 'User', id: bob.id } : { __typename: 'Dialog', id: dialog };
  });
  const { _entities } = await bob.execute(query, { keys: [...known, { __typename: 'Dialog', id: carol.id }, { __typename: 'Pin' }] });
  assert.equal(_entities.length, 100);
  assert(_entities.slice(0, 98).every((entity, index) => entity.id === (index % 2 ? bob.id : dialog)));
  assert.deepEqual(_entities.slice(98), [null, null]);
});
