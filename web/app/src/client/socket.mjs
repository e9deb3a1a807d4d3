import { createClient } from 'graphql-ws';

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Opens a socket that authenticates at every connect and resumes each subscription from its last cursor. */
export function openSocket(url, session) {
  const client = createClient({
    url: url.replace(/^http/, 'ws'),
    connectionParams: () => authorization(session),
    retryAttempts: Infinity,
    shouldRetry: () => true, // Also when a connection is refused. Close codes that are final are not retried.
    retryWait: (retries) => pause(Math.min(500 * 2 ** retries, 5000) * (0.5 + Math.random())),
  });
  const subscribe = (payload, sink) => {
    const resumed = { ...payload, variables: { ...payload.variables } };
    const next = (result) => {
      resumed.variables.since = result.extensions?.cursor ?? resumed.variables.since;
      sink.next(result);
    };
    return client.subscribe(resumed, { ...sink, next });
  };
  return { ...client, subscribe };
}

/** Returns the payload of `connection_init`. If this throws, graphql-ws gives up: only the end of the session may. */
async function authorization(session) {
  for (;;) {
    try {
      return { authorization: `Bearer ${await session.token()}` };
    } catch (error) {
      if (error.code === 'UNAUTHENTICATED') throw error;
      await pause(1000); // The gateway closes a socket that waits for 3 s, and graphql-ws connects again.
    }
  }
}
