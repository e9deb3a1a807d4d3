// How GraphiQL reaches the gateway: queries and mutations by POST, subscriptions by graphql-ws on the same path. The
// header editor is the one place where the token stands; a socket gets it as its connection parameters.
import { createGraphiQLFetcher } from '@graphiql/toolkit';
import { createClient } from 'graphql-ws';

export const url = '/graphql';

function socket(headers) {
  const address = new URL(url, location.href);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  // Lazy: it connects with the first subscription and closes after the last, so the next one carries the token of its day.
  return createClient({ url: address.href, connectionParams: headers });
}

export function fetcher(params, options) {
  const wsClient = socket(options?.headers ?? {});
  return createGraphiQLFetcher({ url, wsClient, enableIncrementalDelivery: false })(params, options);
}
