// Hooks that know nothing of Tidings.
import { useEffect, useState, useSyncExternalStore } from 'react';

function onHash(listener: () => void) {
  addEventListener('hashchange', listener);
  return () => removeEventListener('hashchange', listener);
}

/** Returns the id of the dialog in the page's address, or null. */
export function useRoute(): string | null {
  const hash = useSyncExternalStore(onHash, () => location.hash);
  return hash.startsWith('#/d/') ? decodeURIComponent(hash.slice(4)) : null;
}

export const addressOf = (dialogId: string) => `#/d/${encodeURIComponent(dialogId)}`;

export function goTo(dialogId: string | null) {
  location.hash = dialogId ? addressOf(dialogId) : '#/';
}

const VISIBILITY = ['focus', 'blur', 'visibilitychange'] as const;
function onVisibility(listener: () => void) {
  for (const name of VISIBILITY) (name === 'visibilitychange' ? document : window).addEventListener(name, listener);
  return () => {
    for (const name of VISIBILITY) (name === 'visibilitychange' ? document : window).removeEventListener(name, listener);
  };
}

/** Returns whether the user looks at this tab: it is visible and has the focus. */
export function useAttention(): boolean {
  return useSyncExternalStore(onVisibility, () => document.visibilityState === 'visible' && document.hasFocus());
}

/** Returns a value that has not changed for some time. */
export function useSettled<T>(value: T, ms: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}
