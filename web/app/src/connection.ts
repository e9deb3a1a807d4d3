// The connection of a signed-in user: Apollo Client over HTTP and one socket, as docs/clients.md sets them up.
import { InMemoryCache, makeVar, type ApolloClient } from '@apollo/client';
import { CombinedGraphQLErrors, ServerError } from '@apollo/client/errors';
import { policies } from './cache';
import { connect } from './client/apollo.mjs';
import { counts } from './client/counts.mjs';
import { openSocket } from './client/socket.mjs';
import { URL_OF_API, openSession, signedOut } from './session';

/** State of the socket, on which the counts are live. */
export type LinkState = 'connecting' | 'live' | 'reconnecting' | 'offline';
export const linkState = makeVar<LinkState>('connecting');

/** Close code of a socket whose session ended, perhaps on another device. */
const SESSION_ENDED = 4401;
/** Close codes after which graphql-ws gives up: the page did something wrong or too often. */
const GIVEN_UP = new Set([1002, 1009, 1011, 4400, 4409, 4429]);
const PAUSE_MS = 10_000;

export interface Connection {
  client: ApolloClient;
  close: () => void;
}

/** Opens a connection. `lostForGood` is called when it does not come back by itself: another one must be opened. */
export function openConnection(lostForGood: () => void): Connection {
  const session = openSession();
  const socket = openSocket(URL_OF_API, session);
  const client: ApolloClient = connect(URL_OF_API, session, socket, new InMemoryCache({ typePolicies: policies }));
  // The answer to a refetch may be older than a frame too: without this it would replace what the cache knows.
  client.defaultOptions = { watchQuery: { refetchWritePolicy: 'merge' } };
  const lost = () => linkState(navigator.onLine ? 'reconnecting' : 'offline');
  // A device that wakes up may have a socket that is dead without knowing it.
  const online = () => {
    lost();
    socket.terminate();
  };
  socket.on('connected', () => linkState('live'));
  socket.on('closed', (event) => {
    const { code } = event as CloseEvent;
    if (code === SESSION_ENDED) return signedOut('ended');
    lost();
    if (GIVEN_UP.has(code)) setTimeout(lostForGood, PAUSE_MS);
  });
  addEventListener('offline', lost);
  addEventListener('online', online);
  return {
    client,
    close() {
      removeEventListener('offline', lost);
      removeEventListener('online', online);
      client.stop();
      void socket.dispose();
      counts(null);
      linkState('connecting');
    },
  };
}

/** Returns the code of a GraphQL error, or null if there was no answer. */
export function errorCode(error: unknown): string | null {
  if (CombinedGraphQLErrors.is(error)) return String(error.errors[0]?.extensions?.code ?? 'INTERNAL');
  if (ServerError.is(error)) {
    try {
      return JSON.parse(error.bodyText).errors[0].extensions.code;
    } catch {
      return null;
    }
  }
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : null;
}

/** Ends the session here if the server says that it has ended. Returns whether it did. */
export function endIfRejected(error: unknown): boolean {
  const rejected = errorCode(error) === 'UNAUTHENTICATED';
  if (rejected) signedOut('ended');
  return rejected;
}
