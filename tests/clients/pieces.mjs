// No piece of code stands in docs/clients.md that no client runs.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { PIECES } from './page.mjs';

test('every piece of code of the page is run by a client, by itself or within another', () => {
  const files = readdirSync('.').filter((name) => /^client-.*\.mjs$/.test(name));
  const run = files.map((name) => readFileSync(name, 'utf8')).join('');
  const isRun = (name) => {
    const within = ([other, code]) => code.includes(`from './${name}'`) && isRun(other);
    return run.includes(`'${name}'`) || [...PIECES].some(within);
  };
  assert(PIECES.size > 0);
  assert.deepEqual([...PIECES.keys()].filter((name) => !isRun(name)), []);
});
