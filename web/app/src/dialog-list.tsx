// The list of conversations: newest activity first, each with its badge.
import { useQuery } from '@apollo/client/react';
import { useCallback } from 'react';
import { Badge } from './badges';
import { Problem } from './fields';
import { DialogsDocument, type DialogPartsFragment, type PersonFragment } from './generated';
import { addressOf } from './hooks';
import { fullTime, shortTime, titleOf } from './people';
import { useListFrames } from './streams';
import { texts } from './texts';

const PAGE = 30;

export function DialogList({ user, openId }: { user: PersonFragment; openId: string | null }) {
  const { data, error, refetch, fetchMore } = useQuery(DialogsDocument, { variables: { first: PAGE } });
  const reload = useCallback(() => refetch({ first: PAGE }), [refetch]);
  useListFrames(openId, reload);
  const dialogs = data?.dialogs;
  if (!dialogs && error) return <Problem error={error} />;
  if (!dialogs) return <p className="hint inset">{texts.loading}</p>;
  if (dialogs.nodes.length === 0) return <p className="hint inset">{texts.list.empty}</p>;
  return (
    <>
      <ul className="dialogs">
        {dialogs.nodes.map((dialog) => (
          <Row key={dialog.id} dialog={dialog} userId={user.id} isOpen={dialog.id === openId} />
        ))}
      </ul>
      {dialogs.pageInfo.hasNextPage && (
        <button className="plain" onClick={() => void fetchMore({ variables: { after: dialogs.pageInfo.endCursor } })}>
          {texts.more}
        </button>
      )}
    </>
  );
}

function Row({ dialog, userId, isOpen }: { dialog: DialogPartsFragment; userId: string; isOpen: boolean }) {
  return (
    <li>
      <a href={addressOf(dialog.id)} aria-current={isOpen ? 'page' : undefined} data-dialog={dialog.id}>
        <strong dir="auto">{titleOf(dialog, userId)}</strong>
        <time dateTime={dialog.lastActivityAt} title={fullTime(dialog.lastActivityAt)}>
          {shortTime(dialog.lastActivityAt)}
        </time>
        <Preview dialog={dialog} userId={userId} />
        <Badge dialogId={dialog.id} />
      </a>
    </li>
  );
}

function Preview({ dialog: { direct, lastMessage }, userId }: { dialog: DialogPartsFragment; userId: string }) {
  if (!lastMessage) return <em>{texts.list.noMessages}</em>;
  if (lastMessage.deletedAt) return <em>{texts.list.deleted}</em>;
  const author = lastMessage.senderId === userId ? texts.list.you : direct ? null : lastMessage.sender?.name;
  return (
    <span className="preview" dir="auto">
      {author && <>{author}: </>}
      {lastMessage.text}
    </span>
  );
}
