// How the page reaches the gateway: by POST, and for what is live by graphql-ws on the same path.
import { createClient } from 'graphql-ws';

const path = '/graphql';

/** A socket is closed so where its token has expired or was never valid. */
export const REFUSED = 4403;
/** And so where its session is over: signed out, perhaps on another device. */
export const OVER = 4401;

/** The answer to a query or a mutation, its errors included; throws where there is none. */
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
 * The frames of a subscription, over a socket of its own; `return` ends them at once. What goes wrong for good is the last
 * frame. A connection that stood and is lost (the gateway starts anew, a laptop wakes) is tried again for as long as it takes.
 */
export function live(request, headers, on = {}) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  let stood = false;
  const connected = () => {
    stood = true;
    on.connected?.();
  };
  const frames = createClient({
    url: url.href,
    connectionParams: headers,
    on: { ...on, connected },
    retryAttempts: Infinity,
    retryWait: () => new Promise((resolve) => setTimeout(resolve, 1000 + 1000 * Math.random())),
    // The token is that of the start: once it is refused, another try changes nothing.
    shouldRetry: (problem) => stood && problem.code !== REFUSED,
  }).iterate(request);
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    next: () => frames.next().catch((problem) => ({ done: false, value: { errors: errors(problem) } })),
    return: () => frames.return(),
  };
}

/** GraphQL errors as they are, and all else in their shape: a closed socket, one that could not be opened. */
function errors(problem) {
  if (Array.isArray(problem)) return problem;
  if (problem.code) {
    return [{ message: problem.reason || 'The gateway closed the socket.', extensions: { closed: problem.code } }];
  }
  return [{ message: 'No socket to the gateway: it is not running, or ALLOWED_ORIGINS does not name this page.' }];
}
