// Bundles the pages at /graphiql and /playground into a folder, by default dist: `node build.mjs [folder]`. The bundle loads nothing
// from other hosts. Scripts and styles have a content hash in their names and may be cached without limit.
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

/** Writes Playground's prebuilt bundle, without the one expression that a strict Content-Security-Policy reports. */
async function playgroundBundle() {
  const [bundle, license] = await Promise.all(
    ['build/static/js/middleware.js', 'LICENSE'].map((path) => readFile(join(playground, path), 'utf8')),
  );
  const parts = bundle.replace(/\n\/\/# sourceMappingURL=.*\s*$/, '\n').split('new Function("return this")()');
  if (parts.length !== 2) throw new Error(`graphql-playground-react has ${parts.length - 1} global lookups, expected 1`);
  const text = `/*! graphql-playground-react\n${license}*/\n${parts.join('globalThis')}`;
  const name = `graphql-playground-${createHash('sha256').update(text).digest('hex').slice(0, 8)}.js`;
  await writeFile(join(target, 'assets', name), text);
  return `/assets/${name}`;
}

/** Returns the URL of the bundled script or style of an entry point. */
function assetUrl(entry, ending) {
  const output = Object.keys(metafile.outputs).find((path) => basename(path).startsWith(`${entry}-`) && path.endsWith(ending));
  return `/assets/${basename(output)}`;
}

/** Writes a page from its template, with the URLs of its files. */
async function page(from, entry, to, more = {}) {
  const files = { script: assetUrl(entry, '.js'), style: assetUrl(entry, '.css'), ...more };
  const html = await readFile(join(here, 'src', from), 'utf8');
  await writeFile(join(target, to), html.replace(/\{\{(\w+)\}\}/g, (_, name) => files[name]));
}

await mkdir(target, { recursive: true });
await page('graphiql.html', 'graphiql', 'graphiql.html');
await page('playground.html', 'playground', 'playground.html', { playground: await playgroundBundle() });
