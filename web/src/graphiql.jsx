// The page at /graphiql: GraphiQL below a bar to sign in. Its state, including the token, is in sessionStorage: it is deleted with the
// browser tab, and each browser tab can have a different user.
import { DOC_EXPLORER_PLUGIN, DocExplorerContextProvider } from '@graphiql/plugin-doc-explorer';
import { GraphiQLInterface, GraphiQLProvider } from 'graphiql';
import { useState } from 'react';
import { createRoot } from 'react-dom/client';
import 'graphiql/style.css';
import './style.css';
import { examples } from './examples.js';
import { fetcher } from './fetcher.js';
import { useTokenInHeaders } from './header-editor.js';
import { loadSession } from './session.js';
import { SignIn } from './sign-in.jsx';

// Without GraphiQL's history plugin, which would keep the headers, and so the token, after sign-out.
const plugins = [DOC_EXPLORER_PLUGIN];

function Bar() {
  const [session, setSession] = useState(loadSession);
  useTokenInHeaders(session);
  return <SignIn session={session} onSession={setSession} other={{ name: 'Playground', path: '/playground' }} />;
}

function App() {
  return (
    <GraphiQLProvider
      fetcher={fetcher}
      defaultTabs={examples}
      plugins={plugins}
      referencePlugin={DOC_EXPLORER_PLUGIN}
      storage={sessionStorage}
    >
      <DocExplorerContextProvider>
        <Bar />
        <main>
          <GraphiQLInterface defaultEditorToolsVisibility="headers" showPersistHeadersSettings={false} />
        </main>
      </DocExplorerContextProvider>
    </GraphiQLProvider>
  );
}

createRoot(document.getElementById('root')).render(<App />);
