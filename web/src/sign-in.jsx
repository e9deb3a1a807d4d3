// The bar above the editor: sign in or register, see who one is and how much is unread, sign out. It writes the token into
// the header editor of the tab in use and takes it out again; a token written there by hand is left alone.
import { useEditorContext } from '@graphiql/react';
import { useEffect, useRef, useState } from 'react';
import { Badge } from './badge.jsx';
import { enter, forget, leave, remaining, remembered } from './session.js';

/** The text of the header editor with `token` in it, or without any of `placed`; null where nothing is to change. */
export function withToken(text, token, placed) {
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

function useTokenInHeaders(session) {
  const { headerEditor, activeTabIndex } = useEditorContext({ nonNull: true });
  const placed = useRef(new Set());
  useEffect(() => {
    if (!headerEditor) return;
    const text = withToken(headerEditor.getValue(), session?.accessToken, placed.current);
    if (text !== null) headerEditor.setValue(text);
    if (session) placed.current.add(`Bearer ${session.accessToken}`);
  }, [headerEditor, activeTabIndex, session]);
}

function useExpiry(session, onExpired) {
  useEffect(() => {
    if (!session) return undefined;
    // A timer holds 31 bits of milliseconds; a token that lives longer outlives this page.
    const timer = setTimeout(onExpired, Math.min(remaining(session), 2 ** 31 - 1));
    return () => clearTimeout(timer);
  }, [session, onExpired]);
}

function Form({ onSession, notice }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);

  async function submit(event) {
    event.preventDefault();
    const how = event.nativeEvent.submitter?.value ?? 'login';
    const { login, password } = event.currentTarget.elements;
    setBusy(true);
    setError(null);
    try {
      onSession(await enter(how, { login: login.value.trim(), password: password.value }));
    } catch (failure) {
      setError(failure.message);
      setBusy(false);
    }
  }

  return (
    <form onSubmit={submit}>
      <input name="login" aria-label="Login" placeholder="login" autoComplete="username" autoCapitalize="none" required />
      <input name="password" aria-label="Password" placeholder="password" type="password" autoComplete="current-password" required />
      <button value="login" disabled={busy}>Sign in</button>
      <button value="register" className="second" disabled={busy}>Register</button>
      <output className={error ? 'error' : 'hint'}>
        {error ?? notice ?? 'New here? Choose a login and a password of at least 8 characters, and register.'}
      </output>
    </form>
  );
}

function CopyButton({ text }) {
  const [copied, setCopied] = useState(false);
  // A browser gives the clipboard only to https and to pages of its own machine.
  if (!navigator.clipboard) return null;
  const copy = () => navigator.clipboard.writeText(text).then(() => setCopied(true), () => setCopied(false));
  return <button className="second" onClick={copy}>{copied ? 'Copied' : 'Copy'}</button>;
}

function Who({ session, onOver, onSignOut }) {
  const { user } = session;
  return (
    <div className="who">
      <span>Signed in as <strong>{user.name}</strong></span>
      <Badge session={session} onOver={onOver} />
      <span className="id">
        id <code>{user.id}</code>
        <CopyButton text={user.id} />
      </span>
      <span className="hint">Open another browser tab to be somebody else.</span>
      <button onClick={onSignOut}>Sign out</button>
    </div>
  );
}

/** The bar. */
export function SignIn() {
  const [session, setSession] = useState(remembered);
  const [notice, setNotice] = useState(null);
  const [end] = useState(() => (why) => {
    forget();
    setNotice(why);
    setSession(null);
  });
  const [expired] = useState(() => () => end('Your token has expired: sign in again.'));
  const [over] = useState(() => () => end('Your session is over: sign in again.'));
  useTokenInHeaders(session);
  useExpiry(session, expired);

  function signOut() {
    leave(session);
    end('Signed out.');
  }

  return (
    <header>
      <h1>Tidings</h1>
      {session ? (
        <Who session={session} onOver={over} onSignOut={signOut} />
      ) : (
        <Form onSession={setSession} notice={notice} />
      )}
    </header>
  );
}
