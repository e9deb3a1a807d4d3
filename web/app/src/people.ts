// Names and times, as the page shows them.
import type { DialogPartsFragment } from './generated';
import { texts } from './texts';

/** Returns the title of a group, or the names of the others. */
export function titleOf({ title, participants }: DialogPartsFragment, userId: string): string {
  const others = participants?.nodes.filter(({ id }) => id !== userId) ?? [];
  return title ?? (others.map(({ name }) => name).join(', ') || texts.list.unnamed);
}

const DAY_MS = 86_400_000;
const time = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: 'short' });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'medium' });

/** Returns the time of today, the weekday of this week, or the date, in the reader's zone. */
export function shortTime(at: string): string {
  const date = new Date(at);
  const now = new Date();
  if (date.toDateString() === now.toDateString()) return time.format(date);
  return now.getTime() - date.getTime() < 6 * DAY_MS ? weekday.format(date) : day.format(date);
}

export const timeOfDay = (at: string) => time.format(new Date(at));
export const dayOf = (at: string) => day.format(new Date(at));
export const fullTime = (at: string) => full.format(new Date(at));
