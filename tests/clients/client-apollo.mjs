// @apollo/client 4 over HTTP: subscriptions as parts, and automatic persisted queries with GET for what is hashed.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import { inspect, isDeepStrictEqual } from 'node:util';
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { CombinedProtocolErrors } from '@apollo/client/errors';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { Frames, GATEWAYS, Line, Person, STORY, UNREAD } from './story.mjs';

let ann, bob, dialog, line;
const clients = [];

before(async () => {
  [ann, bob, line] = await Promise.all([Person.register('ann'), Person.register('bob'), Line.open()]);
  dialog = await ann.talkTo(bob);
});

after(() => {
  clients.forEach((client) => client.stop());
  line?.close();
});

function connect(person, ...links) {
  const http = new HttpLink({ uri: line.url, headers: { authorization: person.authorization } });
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

  line.cut();
  assert((await frames.next()).error, 'the client is told that the connection is lost');
  const current = watch(client, zero.version);
  assert.equal((await current.frames.next()).kind, 'CURRENT');
  current.stop();
  await ann.send(dialog);
  const resumed = watch(client, zero.version);
  await resumed.frames.untilTotal(1);

  await bob.ask('mutation { logout(everywhere: true) }');
  const { error } = await resumed.frames.next();
  assert(CombinedProtocolErrors.is(error), `a session that is over is an error of the protocol: ${error}`);
  assert.equal(error.errors[0].extensions.code, 'UNAUTHENTICATED');
});

test('a refused subscription is told why', async () => {
  const { frames } = watch(connect(ann), 'yesterday');
  const { error } = await frames.next();
  assert.equal(error.errors[0].extensions.code, 'BAD_USER_INPUT');
});

test('a document is sent once, by POST, and its hash from then on, by GET', async () => {
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
  // Unlike all that was ever sent to this program: nobody has registered it.
  const query = gql(`query Once${Date.now()} { me { id login } }`);
  const ask = async (someone) => (await someone.query({ query, fetchPolicy: 'network-only' })).data.me.id;
  for (let time = 0; time < 2; time += 1) assert.equal(await ask(client), ann.id);
  assert.deepEqual(requests.slice(0, 3), [['GET', false], ['POST', true], ['GET', false]]);
  // Each gateway has documents of its own. A balancer may lead to one that does not know this one yet, which is then sent.
  const again = GATEWAYS.length > 1 ? [['POST', true]] : [];
  assert(requests.length === 3 || isDeepStrictEqual(requests.slice(3), again), inspect(requests));
  assert.equal(await ask(connect(ann, hashes)), ann.id, 'it is known to everyone');

  line.turn();
  assert.equal(await ask(connect(ann, hashes)), ann.id, 'where it is not known it is sent by itself');
});
