// Fetcher of GraphiQL: runs an operation with the headers of the header editor, which contain the token. A WebSocket gets them
// as connection parameters.
import { getOperationAST, parse } from 'graphql';
import { post, subscribe } from './gateway.js';

export function fetcher(request, { headers } = {}) {
  const operation = selectedOperation(request);
  const sent = operation ? { ...request, operationName: operation.name?.value } : request;
  if (operation?.operation === 'subscription') return subscribe(sent, headers ?? {});
  return post(sent, headers).catch(({ message }) => ({ errors: [{ message }] }));
}

/** Returns the operation to run, from the text, because GraphiQL's operation name lags behind its editor. */
function selectedOperation({ query, operationName }) {
  try {
    const document = parse(query);
    return getOperationAST(document, operationName) ?? getOperationAST(document);
  } catch {
    return null; // The gateway reports the syntax error.
  }
}
