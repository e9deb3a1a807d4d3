// The session of this browser: in localStorage, shared by its tabs.
import { useSyncExternalStore } from 'react';
import { KEY, SharedSession } from './client/shared-session.mjs';
import type { PersonFragment, SessionPartsFragment } from './generated';

export const URL_OF_API = `${location.origin}/graphql`;
const changed = new EventTarget();

/** Why the page shows the sign-in form: the session ended on the server, or the user signed out here. */
export type Ending = 'ended' | 'signedOut';
let ending: Ending | null = null;
let isSigningOut = false;

function stored(): SessionPartsFragment | null {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? 'null');
  } catch {
    return null;
  }
}

function announce() {
  changed.dispatchEvent(new Event('change'));
}

export function signedIn(session: SessionPartsFragment) {
  isSigningOut = false;
  localStorage.setItem(KEY, JSON.stringify(session));
  announce();
}

/** Tells that the user signs out: the server then closes the socket as if the session had ended elsewhere. */
export function beginSignOut() {
  isSigningOut = true;
}

/** Forgets the session in all tabs. */
export function signedOut(reason: Ending) {
  if (!localStorage.getItem(KEY)) return;
  ending = isSigningOut ? 'signedOut' : reason;
  localStorage.removeItem(KEY);
  announce();
}

export const lastEnding = () => ending;

function subscribe(listener: () => void) {
  const fromOtherTab = ({ key }: StorageEvent) => (key === KEY || key === null) && listener();
  changed.addEventListener('change', listener);
  addEventListener('storage', fromOtherTab);
  return () => {
    changed.removeEventListener('change', listener);
    removeEventListener('storage', fromOtherTab);
  };
}

/** Returns the JSON of the signed-in user, or null. A text, because it is compared; new tokens do not change it. */
function snapshot(): string | null {
  const session = stored();
  return session && JSON.stringify(session.user);
}

/** Returns the user who is signed in, in every tab alike. */
export function useSignedInUser(): PersonFragment | null {
  const user = useSyncExternalStore(subscribe, snapshot);
  return user && JSON.parse(user);
}

export function renamed(user: PersonFragment) {
  const session = stored();
  if (session) localStorage.setItem(KEY, JSON.stringify({ ...session, user }));
  announce();
}

export const openSession = () => new SharedSession(URL_OF_API);
