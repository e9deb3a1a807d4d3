// relay-runtime with the code of docs/clients.md, and artifacts that its compiler generates from the program's schema.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import relay from 'relay-runtime';
import { FOLDER, importSnippet, runStory } from './snippets.mjs';
import { PROGRAM, Caller } from './story.mjs';

const settings = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8').match(/`(\{ "src".*?\})`/s)[1];
writeFileSync(`${FOLDER}/relay.config.json`, settings);
writeFileSync(`${FOLDER}/operations.js`, `
  graphql\`subscription operationsUnreadSubscription($since: String) {
    unread(since: $since) { kind version total changed { dialogId dialog { id unreadCount } } }
  }\`;
  graphql\`query operationsHistoryQuery($id: ID!) {
    dialog(id: $id) { unreadCount messages(first: 1) @connection(key: "operations_messages") { edges { node { text sender { name } } } } }
  }\`;
  graphql\`query operationsDialogQuery($id: ID!) { dialog(id: $id) { ...operationsDialog } }\`;
  graphql\`fragment operationsDialog on Dialog @refetchable(queryName: "operationsOlderMessagesQuery")
    @argumentDefinitions(last: { type: "Int", defaultValue: 2 }, before: { type: "String" }) {
    messages(last: $last, before: $before) @connection(key: "operationsDialog_messages") { edges { node { seq text } } }
  }\`;
`);
const artifact = (name) => importSnippet(`__generated__/${name}.graphql.js`).then((module) => module.default);
execFileSync('sh', ['-e', 'generate.sh'], { cwd: FOLDER, env: { ...process.env, TIDINGS_URL: PROGRAM }, stdio: 'pipe' });
// The compiler writes imports for bundlers, without the extension that Node requires.
const fragmentFile = `${FOLDER}/__generated__/operationsDialog.graphql.js`;
writeFileSync(fragmentFile, readFileSync(fragmentFile, 'utf8').replace(/(?<=^import .*\.graphql)(?=';$)/gm, '.js'));

test('the served schema is schema.graphql of the repository', () => {
  const ours = readFileSync(new URL('../../schema.graphql', import.meta.url), 'utf8');
  assert.equal(readFileSync(`${FOLDER}/schema.graphql`, 'utf8'), ours);
});

const { connect } = await importSnippet('relay.mjs');
const { Session } = await importSnippet('session.mjs');
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

test('a pagination container loads older pages through node(id:) and merges them in order', async () => {
  const [ann, bob] = await Promise.all(['ann', 'bob'].map((name) => Caller.register(name)));
  const dialog = await ann.createDialog(bob);
  for (let seq = 1; seq <= 5; seq += 1) await ann.send(dialog, `text ${seq}`);

  const url = `${PROGRAM}/graphql`;
  const environment = connect(url, new Session(url, bob.tokens));
  const [query, fragment] = await Promise.all(['operationsDialogQuery', 'operationsDialog'].map(artifact));
  const operation = relay.createOperationDescriptor(query, { id: dialog });
  const retained = environment.retain(operation);
  await relay.fetchQuery(environment, query, { id: dialog }).toPromise();

  // The steps of usePaginationFragment, which belongs to React.
  const container = relay.getSingularSelector(fragment, environment.lookup(operation.fragment).data.dialog);
  const read = () => environment.lookup(container).data;
  const { paginationRequest, paginationMetadata, identifierField } = relay.getPaginationMetadata(fragment, 'Dialog');
  assert.match(paginationRequest.params.text, /node\(id: \$id\)/);
  const loadOlder = () => {
    const { [identifierField]: id, messages } = read();
    const before = messages.pageInfo.startCursor;
    const page = relay.getPaginationVariables('backward', 2, before, container.variables, {}, paginationMetadata);
    return relay.fetchQuery(environment, paginationRequest, { ...page, id }).toPromise();
  };
  const assertMessages = (seqs, hasPreviousPage) => {
    const { edges, pageInfo } = read().messages;
    assert.deepEqual(edges.map(({ node }) => [node.seq, node.text]), seqs.map((seq) => [seq, `text ${seq}`]));
    assert.equal(pageInfo.hasPreviousPage, hasPreviousPage);
  };
  assertMessages([4, 5], true);
  await loadOlder();
  assertMessages([2, 3, 4, 5], true);
  await loadOlder();
  assertMessages([1, 2, 3, 4, 5], false);
  retained.dispose();
});
