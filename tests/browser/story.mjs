// Both editors in a browser: the story of Playground, and while that one waits for a minute to pass the story of GraphiQL.
//
//     node story.mjs URL [FOLDER]
//
// CHROMIUM is the browser's path. FOLDER gets a screenshot of each editor with a live frame in it, or of every page where a
// step fails. It needs an empty DATA_DIR.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { graphiqlStory } from './graphiql.mjs';
import { playgroundStory } from './playground.mjs';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const [url, folder] = process.argv.slice(2);
assert(url, 'usage: node story.mjs URL [FOLDER]');
if (folder) await mkdir(folder, { recursive: true });
const html = await (await fetch(url)).text();
assert(html.includes('/assets/'), 'the page at / is the plain one: `make web` says why it could not be built');

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1280, height: 640 } });
const pages = [];

async function open(Kind, name) {
  pages.push(await Kind.open(context, url, name));
  return pages.at(-1);
}

async function photograph(page, name) {
  if (folder) await page.tab.screenshot({ path: join(folder, `${name}.png`) });
}

async function step(sentence, action) {
  await action();
  console.log(`ok  ${sentence}`);
}

try {
  const hands = { open, step, photograph, url };
  const afterAMinute = await playgroundStory(hands);
  await graphiqlStory(hands);
  await afterAMinute();
  await step('nothing went wrong unseen, and no other host was asked', async () => {
    assert.deepEqual(pages.flatMap((page) => page.faults), []);
  });
} catch (failure) {
  for (const page of pages) {
    await photograph(page, `failed-${page.name}`);
    console.error(page.faults.join('\n'));
  }
  throw failure;
} finally {
  await browser.close();
}
