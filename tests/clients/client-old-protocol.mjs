// subscriptions-transport-ws, which speaks the old subprotocol: older Apollo clients are built on it.
import { SubscriptionClient } from 'subscriptions-transport-ws';
import { WebSocket } from 'ws';
import { tellsTheStory } from './page.mjs';
import { UNREAD } from './story.mjs';

tellsTheStory((url, session, frames) => {
  const options = {
    reconnect: true,
    connectionParams: async () => ({ authorization: `Bearer ${await session.token()}` }),
  };
  const client = new SubscriptionClient(url.replace(/^http/, 'ws'), options, WebSocket);
  const variables = {};
  client.request({ query: UNREAD, variables }).subscribe({
    next: ({ data, errors, extensions }) => {
      // It keeps what it was given, and sends that again when it connects again.
      variables.since = extensions?.cursor ?? variables.since;
      frames.push(data?.unread ?? { errors });
    },
    error: (error) => frames.push({ error }),
  });
  return () => client.close();
});
