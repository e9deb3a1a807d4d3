// Writes the page's documents, as Apollo Client sends them, for TRUSTED_DOCUMENTS: part of `npm run generate`.
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { InMemoryCache } from '@apollo/client';
import { print } from 'graphql';
import typescript from 'typescript';
import { REFRESH } from './src/client/session.mjs';

const here = (path) => new URL(path, import.meta.url);
const options = { compilerOptions: { module: typescript.ModuleKind.ESNext, target: typescript.ScriptTarget.ES2022 } };
const { outputText } = typescript.transpileModule(await readFile(here('src/generated.ts'), 'utf8'), options);
const generated = await import(`data:text/javascript,${encodeURIComponent(outputText)}`);

const operations = Object.entries(generated).filter(([name]) => name.endsWith('Document'));
const cache = new InMemoryCache();
const texts = operations.map(([, document]) => print(cache.transformDocument(document)));
const hash = (text) => createHash('sha256').update(text).digest('hex');
const manifest = Object.fromEntries([...texts, REFRESH].map((text) => [hash(text), text]));
await writeFile(here('trusted-documents.json'), `${JSON.stringify(manifest, null, 2)}\n`);
