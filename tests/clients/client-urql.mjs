// urql 5 with the code of docs/clients.md.
import assert from 'node:assert/strict';
import { importSnippet, runStory } from './snippets.mjs';
import { UNREAD } from './story.mjs';

const { connect } = await importSnippet('urql.mjs');
let client;

runStory(
  (url, session, frames) => {
    client = connect(url, session);
    const stream = client.subscription(UNREAD, {}).subscribe(({ data, error }) => frames.push(data?.unread ?? { error }));
    return () => stream.unsubscribe();
  },
  async ({ bob, dialog }) => {
    const [me, unread] = await Promise.all([
      client.query('{ me { id } }', {}).toPromise(),
      client.query('{ unread { total dialogs { dialogId unread } } }', {}).toPromise(),
    ]);
    assert.deepEqual([me.data.me.id, unread.error], [bob.id, undefined]);
    assert.deepEqual(unread.data.unread.dialogs.map(({ dialogId, unread: count }) => [dialogId, count]), [[dialog, 1]]);
  },
);
