// @apollo/client 4 with a socket and HTTP, with the code of docs/clients.md: the subscription updates the cache.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gql } from '@apollo/client';
import { importSnippet, runStory } from './snippets.mjs';
import { Caller, Frames, ResettableProxy, UNREAD } from './story.mjs';

const { connect, followUnread } = await importSnippet('apollo.mjs');
const DIALOG = gql`query($id: ID!) { dialog(id: $id) { id title unreadCount } unread { total } }`;
let client;

runStory(
  (url, session, frames) => {
    client = connect(url, session);
    const streams = [
      followUnread(client),
      client.subscribe({ query: gql(UNREAD) }).subscribe({
        next: ({ data, error }) => frames.push(data?.unread ?? { error }),
        error: (error) => frames.push({ error }),
      }),
    ];
    return () => {
      streams.forEach((stream) => stream.unsubscribe());
      client.stop();
    };
  },
  async ({ ann, dialog }) => {
    const shown = new Frames();
    const watched = client.watchQuery({ query: DIALOG, variables: { id: dialog } }).subscribe(({ data, error }) => {
      if (data || error) shown.push(error ? { error } : { total: data.dialog.unreadCount, sum: data.unread.total });
    });
    await shown.untilTotal(1);
    await ann.send(dialog);
    const { sum } = await shown.untilTotal(2);
    assert.equal(sum, 2, 'the query was sent once; the new value came through the socket');
    watched.unsubscribe();
  },
);

test('a badge that another device cleared while the connection was lost is cleared', async () => {
  const [eve, fay, proxy] = await Promise.all([Caller.register('eve'), Caller.register('fay'), ResettableProxy.open()]);
  const dialog = await eve.createDialog(fay);
  const { Session } = await importSnippet('session.mjs');
  const own = connect(proxy.url, new Session(proxy.url, fay.tokens));
  const follower = followUnread(own);
  const shown = new Frames();
  const watched = own.watchQuery({ query: DIALOG, variables: { id: dialog } }).subscribe(({ data }) => {
    if (data) shown.push({ total: data.dialog.unreadCount });
  });
  await eve.send(dialog);
  await shown.untilTotal(1);
  proxy.cut();
  await fay.read(dialog);
  await shown.untilTotal(0);
  for (const stream of [follower, watched]) stream.unsubscribe();
  own.stop();
  proxy.close();
});
