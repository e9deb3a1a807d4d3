// Bundles the pages into a folder: `node build.mjs [folder]`, by default dist. Everything a browser needs is in there;
// scripts and styles carry a hash in their names and may be cached for ever.
import { createHash } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, 'dist'));
const playground = join(here, 'node_modules/graphql-playground-react');

await rm(target, { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ['src/graphiql.jsx', 'src/playground.jsx'],
  outdir: join(target, 'assets'),
  entryNames: '[name]-[hash]',
  bundle: true,
  minify: true,
  metafile: true,
  format: 'esm',
  target: ['es2022'],
  jsx: 'automatic',
  legalComments: 'linked',
  define: { 'process.env.NODE_ENV': '"production"' },
  logLevel: 'warning',
});

/** Playground as its package has it built, but for the one thing in it that a strict Content-Security-Policy reports. */
async function playgroundBundle() {
  const [bundle, license] = await Promise.all(
    ['build/static/js/middleware.js', 'LICENSE'].map((path) => readFile(join(playground, path), 'utf8')),
  );
  const parts = bundle.replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n').split('new Function("return this")()');
  if (parts.length !== 2) throw new Error(`graphql-playground-react is not as expected: ${parts.length - 1} global lookups`);
  const text = `/*! graphql-playground-react\n${license}*/\n${parts.join('globalThis')}`;
  const name = `graphql-playground-${createHash('sha256').update(text).digest('hex').slice(0, 8)}.js`;
  await writeFile(join(target, 'assets', name), text);
  return `/assets/${name}`;
}

/** Where the script or the style of an entry point was put. */
function built(entry, ending) {
  const output = Object.keys(metafile.outputs).find((path) => basename(path).startsWith(`${entry}-`) && path.endsWith(ending));
  return `/assets/${basename(output)}`;
}

async function page(from, entry, to, more = {}) {
  const files = { script: built(entry, '.js'), style: built(entry, '.css'), ...more };
  const html = await readFile(join(here, 'src', from), 'utf8');
  await writeFile(join(target, to), html.replace(/\{\{(\w+)\}\}/g, (_, name) => files[name]));
}

await mkdir(target, { recursive: true });
await page('graphiql.html', 'graphiql', 'index.html');
await page('playground.html', 'playground', 'playground.html', { playground: await playgroundBundle() });
