// GraphQL over HTTP: every audit of the graphql-http suite is `ok`, without warnings and notices.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { serverAudits } from 'graphql-http';
import { PROGRAM } from './story.mjs';

test('all audits of GraphQL over HTTP pass', async () => {
  const audits = serverAudits({ url: `${PROGRAM}/graphql` });
  const results = [];
  for (const audit of audits) results.push(await audit.fn());
  const bad = results.filter((result) => result.status !== 'ok');
  for (const { id, name, status, reason } of bad) console.log(`${status}  ${id} ${name}: ${reason}`);
  console.log(`graphql-http audits: ${results.length - bad.length} of ${results.length} ok`);
  assert.equal(bad.length, 0);
  assert.equal(results.length, 61);
});
