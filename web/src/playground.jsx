// The page at /playground: GraphQL Playground below the bar to sign in. Playground is a separate script with its own React (see
// build.mjs). This script runs before it, and starts it when the document is loaded.
import './tab-storage.js';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import 'graphql-playground-react/build/static/css/middleware.css';
import './style.css';
import { examples } from './examples.js';
import { loadSession } from './session.js';
import { SignIn } from './sign-in.jsx';

/** Storage key of Playground's state. */
const STORAGE_KEY = 'graphql-playground';

const endpoint = new URL('/graphql', location.origin).href;
const options = {
  endpoint,
  subscriptionEndpoint: endpoint.replace('http', 'ws'),
  fixedEndpoint: true,
  setTitle: false,
};

/** Initial tabs of a new browser tab. Passing them again would discard the text in the editor. */
let tabs = sessionStorage.getItem(STORAGE_KEY) ? undefined : examples.map((tab) => ({ ...tab, endpoint, name: nameOf(tab.query) }));

function nameOf(query) {
  return /^(?:query|mutation|subscription) (\w+)/m.exec(query)[1];
}

/** Renders Playground with the session's token in the headers of every request and the parameters of every socket. */
function renderPlayground(session) {
  const authorization = session ? `Bearer ${session.accessToken}` : undefined;
  const element = document.getElementById('playground');
  const props = { ...options, key: authorization ?? 'signed-out', tabs };
  // Playground reads settings only when it mounts, so a new key mounts it again; running operations continue. The second call
  // omits the settings, because as long as they are passed the user cannot change any (such as the theme).
  const settings = { 'request.globalHeaders': authorization ? { authorization } : {}, 'schema.polling.enable': false };
  window.GraphQLPlayground.init(element, { ...props, settings });
  window.GraphQLPlayground.init(element, props);
  tabs = undefined;
}

function App() {
  const [session, setSession] = useState(loadSession);
  useEffect(() => renderPlayground(session), [session]);
  return <SignIn session={session} onSession={setSession} other={{ name: 'GraphiQL', path: '/graphiql' }} />;
}

// Playground would take an endpoint or an editor text from the URL; a link must not set either.
if (location.search) history.replaceState(null, '', location.pathname);
document.addEventListener('DOMContentLoaded', () => createRoot(document.getElementById('bar')).render(<App />));
