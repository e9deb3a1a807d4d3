// The bar above the editor of either page: sign in or register, see who one is and how much is unread, sign out.
import { useEffect, useState } from 'react';
import { Badge } from './badge.jsx';
import { enter, forget, leave, remaining } from './session.js';

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

/** The bar. `onSession` is told the session, or null where there is none any more; `other` is the page to go to from here. */
export function SignIn({ session, onSession, other }) {
  const [notice, setNotice] = useState(null);
  const [end] = useState(() => (why) => {
    forget();
    setNotice(why);
    onSession(null);
  });
  const [expired] = useState(() => () => end('Your token has expired: sign in again.'));
  const [over] = useState(() => () => end('Your session is over: sign in again.'));
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
        <Form onSession={onSession} notice={notice} />
      )}
      <a href={other.path}>{other.name}</a>
    </header>
  );
}
