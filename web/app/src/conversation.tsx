// One conversation: its history upwards, new messages as they arrive, and the mark of what was read.
import { useApolloClient, useMutation, useQuery, useReactiveVar } from '@apollo/client/react';
import { useEffect, useLayoutEffect, useRef, useState } from 'react';
import { useUnread } from './badges';
import { Composer } from './composer';
import { endIfRejected, linkState } from './connection';
import { Problem } from './fields';
import {
  FirstUnreadDocument, HistoryDocument, MarkReadDocument, type MessagePartsFragment, type PersonFragment,
} from './generated';
import { goTo, useAttention } from './hooks';
import { MembersButton } from './members';
import { Messages } from './messages';
import { outbox, unsent } from './outbox';
import { titleOf } from './people';
import { useMessageFrames, useReceipts } from './streams';
import { texts } from './texts';

const PAGE = 40;
/** The limit of the server. */
const PAGE_MAX = 100;
/** Distance from the end, in pixels, up to which the newest message counts as seen. */
const NEAR_END = 40;

export function Conversation({ dialogId, user }: { dialogId: string; user: PersonFragment }) {
  const [announced, announce] = useState('');
  const unread = useUnread(dialogId);
  // All that is unread, and something before it.
  const [last] = useState(Math.min(Math.max(unread + PAGE / 4, PAGE), PAGE_MAX));
  const [isOpened, setOpened] = useState(false);
  const history = useQuery(HistoryDocument, {
    variables: { dialogId, last },
    fetchPolicy: 'cache-and-network',
    nextFetchPolicy: 'cache-first',
  });
  const dialog = history.data?.dialog;
  const reload = () => history.refetch({ dialogId, last });
  useMessageFrames(dialogId, Boolean(dialog), reload, ({ senderId, sender, text }) => {
    if (senderId !== user.id) announce(texts.conversation.arrived(sender?.name ?? '', text));
  });
  const receipts = useReceipts(dialogId);
  const divider = useFirstUnread(dialogId);
  if (!isOpened && divider !== undefined && !history.loading) setOpened(true);
  const entries = useReactiveVar(outbox).filter((it) => it.dialogId === dialogId && it.userId === user.id);

  if (!dialog) {
    if (history.error) return <Problem error={history.error} />;
    return <p className="center hint">{history.data ? texts.conversation.absent : texts.loading}</p>;
  }
  // A message that was not counted exists for its author only.
  const messages = dialog.messages.nodes.filter(({ status, senderId }) => status !== 'FAILED' || senderId === user.id);
  const { hasPreviousPage, startCursor } = dialog.messages.pageInfo;
  const title = titleOf(dialog, user.id);
  return (
    <section className="conversation" aria-label={title}>
      <header>
        <button className="plain back" aria-label={texts.conversation.back} onClick={() => goTo(null)}>
          ‹
        </button>
        <h1 dir="auto">{title}</h1>
        {!dialog.direct && <MembersButton dialog={dialog} />}
      </header>
      <Scroller
        dialogId={dialogId} title={title} messages={messages} isReady={isOpened}
        firstUnread={divider ?? null} waiting={entries.length}
      >
        {hasPreviousPage ? (
          <button className="plain older" onClick={() => void history.fetchMore({ variables: { before: startCursor } })}>
            {texts.conversation.older}
          </button>
        ) : (
          <p className="hint older">{texts.conversation.start}</p>
        )}
        <Messages
          messages={messages} receipts={receipts} userId={user.id} divider={divider ?? null}
          entries={unsent(entries, messages, user.id)}
        />
      </Scroller>
      <Composer key={dialogId} dialogId={dialogId} userId={user.id} newest={messages.at(-1)} />
      <p className="hidden" aria-live="polite">
        {announced}
      </p>
    </section>
  );
}

/** Returns the `seq` of the message where reading began when the conversation was opened. Undefined until it is known. */
function useFirstUnread(dialogId: string): number | null | undefined {
  const client = useApolloClient();
  const [first, setFirst] = useState<number | null>();
  useEffect(() => {
    const query = { query: FirstUnreadDocument, variables: { dialogId }, fetchPolicy: 'network-only' } as const;
    client.query(query).then(
      ({ data }) => setFirst(data?.dialogUnread?.messages?.nodes[0]?.seq ?? null),
      () => setFirst(null),
    );
  }, [client, dialogId]);
  return first;
}

interface ScrollerProps {
  dialogId: string;
  title: string;
  messages: MessagePartsFragment[];
  isReady: boolean;
  firstUnread: number | null;
  waiting: number;
  children: React.ReactNode;
}

/** The scrolled messages. Stays at the end while the user is there, keeps its place when older messages appear above. */
function Scroller(props: ScrollerProps) {
  const { dialogId, title, messages, isReady, firstUnread, waiting, children } = props;
  const box = useRef<HTMLDivElement>(null);
  const [atEnd, setAtEnd] = useState(false);
  const before = useRef({ first: messages[0]?.seq, height: 0, top: 0, opened: false, waiting });
  const newest = messages.at(-1);

  useLayoutEffect(() => {
    const { current: view } = box;
    if (!view || !isReady) return;
    const known = before.current;
    const isOlder = known.first !== undefined && messages[0] !== undefined && messages[0].seq < known.first;
    if (!known.opened) {
      const divider = view.querySelector<HTMLElement>('.divider');
      // Reading begins at the line, or at the oldest loaded message if the line is above it.
      const read = divider ? divider.offsetTop - view.clientHeight / 3 : view.scrollHeight;
      view.scrollTop = !divider && firstUnread !== null ? 0 : read;
    } else if (isOlder) view.scrollTop = known.top + view.scrollHeight - known.height;
    else if (atEnd || waiting > known.waiting) view.scrollTop = view.scrollHeight;
    before.current = { first: messages[0]?.seq, height: view.scrollHeight, top: view.scrollTop, opened: true, waiting };
    setAtEnd(isAtEnd(view));
  }, [messages, isReady, firstUnread, atEnd, waiting]);

  // The window changes its size, a keyboard appears.
  useEffect(() => {
    const observer = new ResizeObserver(() => {
      if (box.current && atEnd) box.current.scrollTop = box.current.scrollHeight;
    });
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, [atEnd]);

  function scrolled() {
    const view = box.current!;
    before.current.top = view.scrollTop;
    setAtEnd(isAtEnd(view));
  }

  useMarkRead(dialogId, newest?.id, atEnd && isReady);
  return (
    <div className="scroller" ref={box} onScroll={scrolled} tabIndex={0} role="region" aria-label={texts.conversation.label(title)}>
      {children}
      {!atEnd && isReady && (
        <button className="to-end" onClick={() => box.current?.scrollTo({ top: box.current.scrollHeight })}>
          {texts.conversation.toBottom}
        </button>
      )}
    </div>
  );
}

const isAtEnd = (view: HTMLElement) => view.scrollHeight - view.scrollTop - view.clientHeight <= NEAR_END;

/** Marks the dialog as read up to its newest message when the user sees it: not when it is merely loaded. */
function useMarkRead(dialogId: string, newestId: string | undefined, isShown: boolean) {
  const isSeen = useAttention() && isShown;
  const unread = useUnread(dialogId);
  const isLive = useReactiveVar(linkState) === 'live';
  const [markRead] = useMutation(MarkReadDocument);
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    if (!isSeen || !isLive || unread === 0 || !newestId) return undefined;
    let timer: ReturnType<typeof setTimeout>;
    markRead({ variables: { input: { dialogId, upTo: newestId } } }).catch((error) => {
      if (!endIfRejected(error)) timer = setTimeout(() => setAttempt(attempt + 1), 1000);
    });
    return () => clearTimeout(timer);
  }, [markRead, dialogId, newestId, unread, isSeen, isLive, attempt]);
}
