// The messages of a conversation, with their states, the line where reading began, and who has read up to where.
import { useMutation } from '@apollo/client/react';
import { Fragment, type ReactNode } from 'react';
import { DeleteMessageDocument, type MessagePartsFragment, type ReadStatesSubscription } from './generated';
import { endIfRejected } from './connection';
import { Problem } from './fields';
import { discard, enqueue, retry, type Entry } from './outbox';
import { dayOf, fullTime, timeOfDay } from './people';
import { texts } from './texts';

interface MessagesProps {
  messages: MessagePartsFragment[];
  entries: Entry[];
  receipts: ReadonlyMap<string, ReadStatesSubscription['readStates']>;
  userId: string;
  divider: number | null;
}

const NAMES_SHOWN = 3;

export function Messages({ messages, entries, receipts, userId, divider }: MessagesProps) {
  const readers = readersOf(messages, receipts, userId);
  // The message where reading began may have been deleted or not be loaded: the line is above the next one.
  const firstNew = divider === null ? undefined : messages.find(({ seq }) => seq >= divider);
  const isDividerLoaded = firstNew && (firstNew !== messages[0] || firstNew.seq === divider);
  return (
    <ol className="messages">
      {messages.map((message, index) => {
        const day = dayOf(message.createdAt);
        const former = messages[index - 1];
        return (
          <Fragment key={message.id}>
            {(!former || dayOf(former.createdAt) !== day) && <li className="day">{day}</li>}
            {isDividerLoaded && message === firstNew && <li className="divider">{texts.conversation.divider}</li>}
            <Message
              message={message} isMine={message.senderId === userId} isSame={former?.senderId === message.senderId} userId={userId}
            />
            {readers.has(message.seq) && <ReadBy names={readers.get(message.seq)!} />}
          </Fragment>
        );
      })}
      {entries.map((entry) => (
        <Waiting key={entry.order} entry={entry} />
      ))}
    </ol>
  );
}

/** Returns the names of the other participants by the message that each has read last. */
function readersOf(messages: MessagePartsFragment[], receipts: MessagesProps['receipts'], userId: string): Map<number, string[]> {
  const readers = new Map<number, string[]>();
  for (const { userId: reader, readSeq, user } of receipts.values()) {
    const last = messages.findLast(({ seq }) => seq <= readSeq);
    if (reader === userId || !last || last.senderId === reader) continue;
    readers.set(last.seq, [...(readers.get(last.seq) ?? []), user?.name ?? '…'].sort());
  }
  return readers;
}

function ReadBy({ names }: { names: string[] }) {
  const shown = names.slice(0, NAMES_SHOWN);
  return <li className="read-by">{texts.conversation.readBy(shown, names.length - shown.length)}</li>;
}

interface MessageProps {
  message: MessagePartsFragment;
  isMine: boolean;
  isSame: boolean;
  userId: string;
}

function Message({ message, isMine, isSame, userId }: MessageProps) {
  const [remove, { error }] = useMutation(DeleteMessageDocument, { onError: endIfRejected });
  const { id, dialogId, seq, text, status, deletedAt, createdAt, sender, failureReason } = message;
  const again = () => enqueue({ userId, dialogId, text, readUpTo: null, after: seq });
  return (
    <li className={isMine ? 'message mine' : 'message'} data-message={id} data-status={status}>
      {!isMine && !isSame && <strong dir="auto">{sender?.name}</strong>}
      {deletedAt ? <p className="text hint">{texts.conversation.deleted}</p> : <p className="text" dir="auto">{text}</p>}
      <footer>
        <time dateTime={createdAt} title={fullTime(createdAt)}>{timeOfDay(createdAt)}</time>
        {isMine && !deletedAt && <span>{texts.conversation.status[status]}</span>}
        {isMine && status === 'FAILED' && !deletedAt && <Again text={text} reason={failureReason} onClick={again} />}
        {isMine && !deletedAt && (
          <button
            className="plain" aria-label={texts.conversation.removeLabel(text)}
            onClick={() => void remove({ variables: { id } })}
          >
            {texts.conversation.remove}
          </button>
        )}
      </footer>
      {error && <Problem error={error} />}
    </li>
  );
}

/** A message of the outbox. */
function Waiting({ entry }: { entry: Entry }) {
  const { text, error } = entry;
  const status = error ? 'FAILED' : 'waiting';
  return (
    <li className="message mine" data-status={status}>
      <p className="text" dir="auto">{text}</p>
      <footer>
        <span>{texts.conversation.status[status]}</span>
        {error && (
          <Again text={text} reason={error} onClick={() => retry(entry)}>
            <button className="plain" onClick={() => void discard(entry)}>{texts.conversation.discard}</button>
          </Again>
        )}
      </footer>
    </li>
  );
}

interface AgainProps {
  text: string;
  reason?: string | null;
  onClick: () => Promise<void>;
  children?: ReactNode;
}

function Again({ text, reason, onClick, children }: AgainProps) {
  return (
    <>
      {reason && <span className="problem">{reason}</span>}
      <button className="plain" aria-label={texts.conversation.retryLabel(text)} onClick={() => void onClick()}>
        {texts.retry}
      </button>
      {children}
    </>
  );
}
