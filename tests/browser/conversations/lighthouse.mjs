// Lighthouse on the page at /: prints its four numbers, and requires 95 for accessibility and best practices.
//
//     node lighthouse.mjs
//
// TIDINGS is the program, CHROMIUM the browser's path.
import assert from 'node:assert/strict';
import lighthouse from 'lighthouse';
import { launch } from './browser.mjs';
import { freePort, startTarget } from './target.mjs';

const REQUIRED = { accessibility: 95, 'best-practices': 95 };

const target = await startTarget();
const port = await freePort();
const browser = await launch([`--remote-debugging-port=${port}`]);
try {
  const { lhr } = await lighthouse(`${target.url}/`, { port, logLevel: 'error' });
  const scores = Object.fromEntries(Object.values(lhr.categories).map(({ id, score }) => [id, Math.round(score * 100)]));
  console.log(`ok  Lighthouse: ${Object.entries(scores).map(([id, score]) => `${id} ${score}`).join(', ')}`);
  for (const [id, least] of Object.entries(REQUIRED)) assert(scores[id] >= least, `${id}: ${scores[id]}`);
} finally {
  await browser.close();
  await target.stop();
}
