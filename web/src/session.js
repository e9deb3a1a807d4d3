// The session of this browser tab, in sessionStorage until the tab closes, the user signs out, or the token expires.
import { post } from './gateway.js';

const KEY = 'tidings.session';

const SESSION = 'user { id login name } accessToken expiresAt';
const DOCUMENTS = {
  login: `mutation SignIn($input: LoginInput!) { session: login(input: $input) { ${SESSION} } }`,
  register: `mutation SignUp($input: RegisterInput!) { session: register(input: $input) { ${SESSION} } }`,
  logout: 'mutation SignOut { logout }',
};

async function run(query, variables, token) {
  const { data, errors } = await post({ query, variables }, token && { authorization: `Bearer ${token}` });
  if (errors?.length) throw new Error(errors[0].message);
  return data;
}

/** Signs in (`login`) or creates an account (`register`), and stores the session. */
export async function signIn(mutation, input) {
  const { session } = await run(DOCUMENTS[mutation], { input });
  sessionStorage.setItem(KEY, JSON.stringify(session));
  return session;
}

/** Ends the session on the server. Errors are ignored: the page signs out even if the server is unavailable. */
export async function signOut(session) {
  await run(DOCUMENTS.logout, {}, session.accessToken).catch(() => {});
}

/** Deletes the session of this browser tab. */
export function clearSession() {
  sessionStorage.removeItem(KEY);
}

/** Returns the session of this browser tab, or null. */
export function loadSession() {
  try {
    const session = JSON.parse(sessionStorage.getItem(KEY));
    return session && remainingMs(session) > 0 ? session : null;
  } catch {
    return null;
  }
}

/** Returns the milliseconds until the access token expires. */
export function remainingMs(session) {
  return Date.parse(session.expiresAt) - Date.now();
}
