// relay-runtime with the code of docs/clients.md, and artifacts that its compiler generates from the program's schema.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import relay from 'relay-runtime';
import { FOLDER, importSnippet, runStory } from './snippets.mjs';
import { PROGRAM } from './story.mjs';

const settings = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8').match(/`(\{ "src".*?\})`/s)[1];
writeFileSync(`${FOLDER}/relay.config.json`, settings);
writeFileSync(`${FOLDER}/operations.js`, `
  graphql\`subscription operationsUnreadSubscription($since: String) {
    unread(since: $since) { kind version total changed { dialogId dialog { id unreadCount } } }
  }\`;
  graphql\`query operationsHistoryQuery($id: ID!) {
    dialog(id: $id) { unreadCount messages(first: 1) @connection(key: "operations_messages") { edges { node { text sender { name } } } } }
  }\`;
`);
const artifact = (name) => importSnippet(`__generated__/${name}.graphql.js`).then((module) => module.default);
execFileSync('sh', ['-e', 'generate.sh'], { cwd: FOLDER, env: { ...process.env, TIDINGS_URL: PROGRAM }, stdio: 'pipe' });

test('the served schema is schema.graphql of the repository', () => {
  const ours = readFileSync(new URL('../../schema.graphql', import.meta.url), 'utf8');
  assert.equal(readFileSync(`${FOLDER}/schema.graphql`, 'utf8'), ours);
});

const { connect } = await importSnippet('relay.mjs');
const subscription = await artifact('operationsUnreadSubscription');
const history = await artifact('operationsHistoryQuery');
let environment;

runStory(
  (url, session, frames) => {
    environment = connect(url, session);
    const onNext = ({ unread }) => frames.push(unread);
    const onError = (error) => frames.push({ error });
    const stream = relay.requestSubscription(environment, { subscription, variables: {}, onNext, onError });
    return () => stream.dispose();
  },
  async ({ dialog }) => {
    const { data } = { data: await relay.fetchQuery(environment, history, { id: dialog }).toPromise() };
    assert.deepEqual([data.dialog.unreadCount, data.dialog.messages.edges[0].node.text], [1, 'hello']);
  },
);
