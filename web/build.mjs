// Bundles the page into a folder: `node build.mjs [folder]`, by default dist. Everything a browser needs is in there;
// scripts and styles carry a hash in their names and may be cached for ever.
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, 'dist'));

await rm(target, { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ['src/main.jsx'],
  outdir: join(target, 'assets'),
  entryNames: 'tidings-[hash]',
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

const built = (ending) => `/assets/${basename(Object.keys(metafile.outputs).find((path) => path.endsWith(ending)))}`;
const page = await readFile(join(here, 'src/index.html'), 'utf8');
await mkdir(target, { recursive: true });
await writeFile(join(target, 'index.html'), page.replace('{{script}}', built('.js')).replace('{{style}}', built('.css')));
