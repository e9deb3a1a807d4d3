// Badges: beside a conversation, in the tab's title and in its icon.
import { useReactiveVar } from '@apollo/client/react';
import { counts } from './client/counts.mjs';
import { texts } from './texts';

const MAX_SHOWN = 999;
const shown = (n: number) => (n > MAX_SHOWN ? `${MAX_SHOWN}+` : String(n));

/** Returns the count of a dialog. Dialogs without a row have none. */
export function useUnread(dialogId: string): number {
  return useReactiveVar(counts)?.rows.get(dialogId) ?? 0;
}

/** The count of a dialog. Takes the same place whether there is one or not, so that nothing moves when it appears. */
export function Badge({ dialogId }: { dialogId: string }) {
  const unread = useUnread(dialogId);
  return (
    <span className="badge" data-unread={unread}>
      {unread > 0 && (
        <>
          <span aria-hidden="true">{shown(unread)}</span>
          <span className="hidden">{texts.list.unread(unread)}</span>
        </>
      )}
    </span>
  );
}

const icon = document.querySelector<HTMLLinkElement>('link[rel=icon]')!;
const plainIcon = icon.href;

/** Shows the total in the title and the icon of the tab. */
export function showTotal(total: number) {
  document.title = total > 0 ? `(${shown(total)}) ${texts.title}` : texts.title;
  const text = total > 99 ? '99' : String(total);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
    <rect width="16" height="16" rx="5" fill="#b8047c"/><text x="8" y="12" font-family="sans-serif" font-weight="bold" font-size="11" text-anchor="middle" fill="#fff">${text}</text></svg>`;
  icon.href = total > 0 ? `data:image/svg+xml,${encodeURIComponent(svg)}` : plainIcon;
}
