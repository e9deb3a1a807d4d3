// GraphiQL's header editor, where the token of who is signed in stands for all to see. It is written there in the tab in use and
// taken out again; a token that was written there by hand is left alone.
import { useEditorContext } from '@graphiql/react';
import { useEffect, useRef } from 'react';

/** The text of the header editor with `token` in it, or without any of `placed`; null where nothing is to change. */
function withToken(text, token, placed) {
  let headers;
  try {
    headers = text.trim() ? JSON.parse(text) : {};
  } catch {
    return null;
  }
  const name = Object.keys(headers).find((key) => key.toLowerCase() === 'authorization') ?? 'authorization';
  const ours = headers[name] === undefined || placed.has(headers[name]);
  const wanted = token ? `Bearer ${token}` : undefined;
  if (!ours || headers[name] === wanted) return null;
  if (wanted) headers[name] = wanted;
  else delete headers[name];
  return Object.keys(headers).length ? JSON.stringify(headers, null, 2) : '';
}

/** Keeps the session's token in the header editor. */
export function useTokenInHeaders(session) {
  const { headerEditor, activeTabIndex } = useEditorContext({ nonNull: true });
  const placed = useRef(new Set());
  useEffect(() => {
    if (!headerEditor) return;
    const text = withToken(headerEditor.getValue(), session?.accessToken, placed.current);
    if (text !== null) headerEditor.setValue(text);
    if (session) placed.current.add(`Bearer ${session.accessToken}`);
  }, [headerEditor, activeTabIndex, session]);
}
