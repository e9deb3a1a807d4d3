// How GraphiQL runs what is in its editor. The header editor is the one place where the token stands; a socket gets it as its
// connection parameters.
import { getOperationAST, parse } from 'graphql';
import { live, post } from './gateway.js';

export function fetcher(request, { headers } = {}) {
  const operation = meant(request);
  const sent = operation ? { ...request, operationName: operation.name?.value } : request;
  if (operation?.operation === 'subscription') return live(sent, headers ?? {});
  return post(sent, headers).catch(({ message }) => ({ errors: [{ message }] }));
}

/** The operation to run, by the text alone: the name that GraphiQL gives lags behind its editor. */
function meant({ query, operationName }) {
  try {
    const document = parse(query);
    return getOperationAST(document, operationName) ?? getOperationAST(document);
  } catch {
    return null; // The gateway says what is wrong with it.
  }
}
