import { defineConfig } from 'vite';

// `npm run dev` passes the API on to a running program.
const program = { target: process.env.TIDINGS_URL ?? 'http://127.0.0.1:8080', ws: true, changeOrigin: true };

export default defineConfig({
  oxc: { jsx: { runtime: 'automatic' } },
  build: {
    target: 'es2022',
    modulePreload: false,
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 600,
    license: { fileName: 'assets/LEGAL.md' },
    // Radix's modules say "use client", which means nothing outside a server that renders React.
    rolldownOptions: { onwarn: (warning, warn) => warning.code !== 'MODULE_LEVEL_DIRECTIVE' && warn(warning) },
  },
  server: { proxy: { '/graphql': program, '/graphiql': program, '/playground': program } },
});
