// @apollo/client 4 over HTTP: multipart subscriptions, and automatic persisted queries with GET for hashed documents.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import { inspect, isDeepStrictEqual } from 'node:util';
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { CombinedProtocolErrors } from '@apollo/client/errors';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { Frames, GATEWAYS, ResettableProxy, Caller, STORY, UNREAD } from './story.mjs';

let ann, bob, dialog, proxy;
const clients = [];

before(async () => {
  [ann, bob, proxy] = await Promise.all([Caller.register('ann'), Caller.register('bob'), ResettableProxy.open()]);
  dialog = await ann.createDialog(bob);
});

after(() => {
  clients.forEach((client) => client.stop());
  proxy?.close();
});

function connect(caller, ...links) {
  const http = new HttpLink({ uri: proxy.url, headers: { authorization: caller.authorization } });
  clients.push(new ApolloClient({ link: ApolloLink.from([...links, http]), cache: new InMemoryCache() }));
  return clients.at(-1);
}

function watch(client, since) {
  const frames = new Frames();
  const subscription = client.subscribe({ query: gql(UNREAD), variables: { since }, fetchPolicy: 'no-cache' }).subscribe({
    next: ({ data, error }) => frames.push(data?.unread ?? { error }),
    error: (error) => frames.push({ error }),
    complete: () => frames.push({ complete: true }),
  });
  return { frames, stop: () => subscription.unsubscribe() };
}

test(STORY, async () => {
  const client = connect(bob);
  const { frames } = watch(client);
  const first = await frames.next();
  assert.deepEqual([first.kind, first.total], ['SNAPSHOT', 0]);
  await ann.send(dialog);
  assert.equal((await frames.untilTotal(1)).kind, 'CHANGE');
  await bob.read(dialog);
  const zero = await frames.untilTotal(0);

  proxy.cut();
  assert((await frames.next()).error, 'the client receives an error when the connection is lost');
  const current = watch(client, zero.version);
  assert.equal((await current.frames.next()).kind, 'CURRENT');
  current.stop();
  await ann.send(dialog);
  const resumed = watch(client, zero.version);
  await resumed.frames.untilTotal(1);

  await bob.execute('mutation { logout(everywhere: true) }');
  const { error } = await resumed.frames.next();
  assert(CombinedProtocolErrors.is(error), `a revoked session is a protocol error: ${error}`);
  assert.equal(error.errors[0].extensions.code, 'UNAUTHENTICATED');
});

test('a rejected subscription has an error code', async () => {
  const frames = new Frames();
  const query = gql('subscription { messages(dialogId: "unknown") { kind } }');
  connect(ann).subscribe({ query, fetchPolicy: 'no-cache' }).subscribe({
    next: ({ error }) => frames.push({ error }),
    error: (error) => frames.push({ error }),
  });
  const { error } = await frames.next();
  assert.equal(error.errors[0].extensions.code, 'NOT_FOUND');
});

test('a document is sent once by POST, and then its hash by GET', async () => {
  const requests = [];
  const hashes = new PersistedQueryLink({
    sha256: (text) => createHash('sha256').update(text).digest('hex'),
    useGETForHashedQueries: true,
  });
  const seen = new ApolloLink((operation, forward) => {
    const { fetchOptions, http } = operation.getContext();
    requests.push([fetchOptions?.method ?? 'POST', Boolean(http.includeQuery)]);
    return forward(operation);
  });
  const client = connect(ann, hashes, seen);
  // A document that no earlier run has registered.
  const query = gql(`query Once${Date.now()} { me { id login } }`);
  const execute = async (apollo) => (await apollo.query({ query, fetchPolicy: 'network-only' })).data.me.id;
  for (let time = 0; time < 2; time += 1) assert.equal(await execute(client), ann.id);
  assert.deepEqual(requests.slice(0, 3), [['GET', false], ['POST', true], ['GET', false]]);
  // Each gateway has its own document cache. Behind a balancer the request may reach one that does not have the document,
  // and the client sends it again.
  const again = GATEWAYS.length > 1 ? [['POST', true]] : [];
  assert(requests.length === 3 || isDeepStrictEqual(requests.slice(3), again), inspect(requests));
  assert.equal(await execute(connect(ann, hashes)), ann.id, 'the document is available to every client');

  proxy.switchTarget();
  assert.equal(await execute(connect(ann, hashes)), ann.id, 'the client sends a document that the gateway does not have');
});
