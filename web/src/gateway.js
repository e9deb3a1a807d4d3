// Client of the gateway: POST for queries and mutations, graphql-ws on the same path for subscriptions.
import { createClient } from 'graphql-ws';

const path = '/graphql';

/** Close code of a socket whose token is invalid or has expired. */
export const TOKEN_REJECTED = 4403;
/** Close code of a socket whose session was revoked, perhaps on another device. */
export const SESSION_REVOKED = 4401;

/** Runs a query or mutation and returns the response, including its errors. Throws if there is no response. */
export async function post(request, headers) {
  const body = JSON.stringify(request);
  let response;
  try {
    response = await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body });
  } catch {
    throw new Error('The gateway does not answer. Is it running?');
  }
  const answer = await response.json().catch(() => null);
  if (!answer) throw new Error(`The gateway answered ${response.status} ${response.statusText}`);
  return answer;
}

/**
 * Returns the frames of a subscription, on a separate socket; `return` ends it immediately. A permanent error is the last
 * frame. An established connection that is lost (the gateway restarts, a laptop wakes up) is retried without limit.
 */
export function subscribe(request, headers, on = {}) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  let wasConnected = false;
  const connected = () => {
    wasConnected = true;
    on.connected?.();
  };
  const frames = createClient({
    url: url.href,
    connectionParams: headers,
    on: { ...on, connected },
    retryAttempts: Infinity,
    retryWait: () => new Promise((resolve) => setTimeout(resolve, 1000 + 1000 * Math.random())),
    // A retry sends the same token, so a rejected token is permanent.
    shouldRetry: (problem) => wasConnected && problem.code !== TOKEN_REJECTED,
  }).iterate(request);
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    next: () => frames.next().catch((problem) => ({ done: false, value: { errors: errors(problem) } })),
    return: () => frames.return(),
  };
}

/** Converts a problem of the socket into GraphQL errors; GraphQL errors are returned as they are. */
function errors(problem) {
  if (Array.isArray(problem)) return problem;
  if (problem.code) {
    return [{ message: problem.reason || 'The gateway closed the socket.', extensions: { closed: problem.code } }];
  }
  return [{ message: 'Cannot open a WebSocket: the gateway is not running, or ALLOWED_ORIGINS does not include this page.' }];
}
