import { defineConfig } from 'vite';

// `npm run dev` passes the API on to a running program.
const program = { target: process.env.TIDINGS_URL ?? 'http://127.0.0.1:8080', ws: true, changeOrigin: true };

export default defineConfig({
  oxc: { jsx: { runtime: 'automatic' } },
  build: { target: 'es2022', modulePreload: false, reportCompressedSize: true, assetsInlineLimit: 0 },
  server: { proxy: { '/graphql': program, '/graphiql': program, '/playground': program } },
});
