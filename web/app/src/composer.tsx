// The field in which a message is written. Enter sends, Shift+Enter is a new line.
import { useEffect, useRef, useState, type FormEvent, type KeyboardEvent } from 'react';
import type { MessagePartsFragment } from './generated';
import { Problem, useAction } from './fields';
import { enqueue } from './outbox';
import { texts } from './texts';

/** The server's limit, in characters. */
const LENGTH_MAX = 4000;
const drafts = new Map<string, string>();

interface ComposerProps {
  dialogId: string;
  userId: string;
  newest: MessagePartsFragment | undefined;
}

export function Composer({ dialogId, userId, newest }: ComposerProps) {
  const [text, setText] = useState(drafts.get(dialogId) ?? '');
  const { error, run } = useAction();
  const field = useRef<HTMLTextAreaElement>(null);
  const excess = [...text].length - LENGTH_MAX;
  useEffect(() => void drafts.set(dialogId, text), [dialogId, text]);

  function send() {
    const written = text.trim();
    if (!written || excess > 0) return;
    setText('');
    field.current?.focus();
    void run(() => enqueue({ userId, dialogId, text: written, readUpTo: newest?.id ?? null, after: newest?.seq ?? 0 }));
  }

  function submit(event: FormEvent) {
    event.preventDefault();
    send();
  }

  function key(event: KeyboardEvent) {
    // While an input method composes a character, Enter chooses it.
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  }

  return (
    <form className="composer" onSubmit={submit}>
      <Problem error={error} />
      <textarea
        ref={field} rows={1} dir="auto" value={text} aria-label={texts.conversation.write} placeholder={texts.conversation.write}
        onChange={(event) => setText(event.target.value)} onKeyDown={key}
      />
      <button disabled={!text.trim() || excess > 0}>{texts.conversation.send}</button>
      {excess > 0 && <small role="status">{texts.conversation.tooLong(excess)}</small>}
    </form>
  );
}
