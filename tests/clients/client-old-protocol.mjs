// subscriptions-transport-ws, the client of the old subprotocol in older Apollo clients.
import { SubscriptionClient } from 'subscriptions-transport-ws';
import { WebSocket } from 'ws';
import { runStory } from './snippets.mjs';
import { UNREAD } from './story.mjs';

runStory((url, session, frames) => {
  const options = {
    reconnect: true,
    connectionParams: async () => ({ authorization: `Bearer ${await session.token()}` }),
  };
  const client = new SubscriptionClient(url.replace(/^http/, 'ws'), options, WebSocket);
  const variables = {};
  client.request({ query: UNREAD, variables }).subscribe({
    next: ({ data, errors, extensions }) => {
      // The library keeps this object and sends it again after a reconnect.
      variables.since = extensions?.cursor ?? variables.since;
      frames.push(data?.unread ?? { errors });
    },
    error: (error) => frames.push({ error }),
  });
  return () => client.close();
});
