// Writes the session's token into GraphiQL's header editor, in the active tab, and removes it at sign-out. A token that the
// user has typed is not changed.
import { useEditorContext } from '@graphiql/react';
import { useEffect, useRef } from 'react';

/**
 * Returns the text of the header editor with `token`, or without a token of `written` if `token` is absent. Returns null if
 * nothing changes.
 */
function withToken(text, token, written) {
  let headers;
  try {
    headers = text.trim() ? JSON.parse(text) : {};
  } catch {
    return null;
  }
  const name = Object.keys(headers).find((key) => key.toLowerCase() === 'authorization') ?? 'authorization';
  const isReplaceable = headers[name] === undefined || written.has(headers[name]);
  const wanted = token ? `Bearer ${token}` : undefined;
  if (!isReplaceable || headers[name] === wanted) return null;
  if (wanted) headers[name] = wanted;
  else delete headers[name];
  return Object.keys(headers).length ? JSON.stringify(headers, null, 2) : '';
}

/** Keeps the session's token in the header editor. */
export function useTokenInHeaders(session) {
  const { headerEditor, activeTabIndex } = useEditorContext({ nonNull: true });
  const written = useRef(new Set());
  useEffect(() => {
    if (!headerEditor) return;
    const text = withToken(headerEditor.getValue(), session?.accessToken, written.current);
    if (text !== null) headerEditor.setValue(text);
    if (session) written.current.add(`Bearer ${session.accessToken}`);
  }, [headerEditor, activeTabIndex, session]);
}
