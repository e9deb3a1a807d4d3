// @apollo/client 4 with a socket and HTTP, as docs/clients.md has it: the stream keeps the cache true.
import assert from 'node:assert/strict';
import { gql } from '@apollo/client';
import { code, tellsTheStory } from './page.mjs';
import { Frames, UNREAD } from './story.mjs';

const { connect, followUnread } = await code('apollo.mjs');
const DIALOG = gql`query($id: ID!) { dialog(id: $id) { id title unreadCount } unread { total } }`;
let client;

tellsTheStory(
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
    assert.equal(sum, 2, 'the query was asked once; what it shows came through the socket');
    watched.unsubscribe();
  },
);
