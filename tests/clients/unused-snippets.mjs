// Every code snippet of docs/clients.md is run by a client test.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { SNIPPETS } from './snippets.mjs';

test('every snippet is imported by a client test or by another snippet', () => {
  const files = readdirSync('.').filter((name) => /^client-.*\.mjs$/.test(name));
  const run = files.map((name) => readFileSync(name, 'utf8')).join('');
  const isRun = (name) => {
    const within = ([other, code]) => code.includes(`from './${name}'`) && isRun(other);
    return run.includes(`'${name}'`) || [...SNIPPETS].some(within);
  };
  assert(SNIPPETS.size > 0);
  assert.deepEqual([...SNIPPETS.keys()].filter((name) => !isRun(name)), []);
});
