// The bar above the editor of both pages: sign in, register, show the user and the unread count, sign out.
import { useEffect, useState } from 'react';
import { Badge } from './badge.jsx';
import { clearSession, remainingMs, signIn, signOut } from './session.js';

function useExpiry(session, onExpired) {
  useEffect(() => {
    if (!session) return undefined;
    // setTimeout takes at most 31 bits of milliseconds, about 25 days.
    const timer = setTimeout(onExpired, Math.min(remainingMs(session), 2 ** 31 - 1));
    return () => clearTimeout(timer);
  }, [session, onExpired]);
}

function Form({ onSession, notice }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);

  async function submit(event) {
    event.preventDefault();
    const mutation = event.nativeEvent.submitter?.value ?? 'login';
    const { login, password } = event.currentTarget.elements;
    setBusy(true);
    setError(null);
    try {
      onSession(await signIn(mutation, { login: login.value.trim(), password: password.value }));
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
        {error ?? notice ?? 'To register, choose a login and a password of at least 8 characters.'}
      </output>
    </form>
  );
}

function CopyButton({ text }) {
  const [copied, setCopied] = useState(false);
  // Browsers provide the clipboard only on https and on loopback addresses.
  if (!navigator.clipboard) return null;
  const copy = () => navigator.clipboard.writeText(text).then(() => setCopied(true), () => setCopied(false));
  return <button className="second" onClick={copy}>{copied ? 'Copied' : 'Copy'}</button>;
}

function Account({ session, onRejected, onSignOut }) {
  const { user } = session;
  return (
    <div className="who">
      <span>Signed in as <strong>{user.name}</strong></span>
      <Badge session={session} onRejected={onRejected} />
      <span className="id">
        id <code>{user.id}</code>
        <CopyButton text={user.id} />
      </span>
      <span className="hint">Open another browser tab to sign in as another user.</span>
      <button onClick={onSignOut}>Sign out</button>
    </div>
  );
}

/** The bar. Calls `onSession` with the new session, or null when it has ended. `other` is the page to link to. */
export function SignIn({ session, onSession, other }) {
  const [notice, setNotice] = useState(null);
  const [end] = useState(() => (reason) => {
    clearSession();
    setNotice(reason);
    onSession(null);
  });
  const [expired] = useState(() => () => end('Your access token has expired. Sign in again.'));
  const [rejected] = useState(() => () => end('Your session has ended. Sign in again.'));
  useExpiry(session, expired);

  function handleSignOut() {
    signOut(session);
    end('Signed out.');
  }

  return (
    <header>
      <h1>Tidings</h1>
      {session ? (
        <Account session={session} onRejected={rejected} onSignOut={handleSignOut} />
      ) : (
        <Form onSession={onSession} notice={notice} />
      )}
      <a href={other.path}>{other.name}</a>
    </header>
  );
}
