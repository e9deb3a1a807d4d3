// The members of a group: who takes part, more people, another title, leaving.
import { useApolloClient, useQuery } from '@apollo/client/react';
import { useState, type FormEvent } from 'react';
import { removeDialog } from './cache';
import { ChoosePeople } from './choose-people';
import { Field, Modal, Problem, useAction } from './fields';
import {
  AddParticipantsDocument, LeaveDialogDocument, MembersDocument, RenameDialogDocument,
  type DialogPartsFragment, type PersonFragment,
} from './generated';
import { goTo } from './hooks';
import { texts } from './texts';

export function MembersButton({ dialog }: { dialog: DialogPartsFragment }) {
  const [open, setOpen] = useState(false);
  return (
    <Modal
      title={texts.members.title} open={open} onOpenChange={setOpen}
      trigger={<button className="plain">{texts.members.show}</button>}
    >
      <Members dialog={dialog} onDone={() => setOpen(false)} />
    </Modal>
  );
}

function Members({ dialog, onDone }: { dialog: DialogPartsFragment; onDone: () => void }) {
  const client = useApolloClient();
  const dialogId = dialog.id;
  const options = { variables: { dialogId }, fetchPolicy: 'network-only' } as const;
  const { data, error: absent, refetch, fetchMore } = useQuery(MembersDocument, options);
  const members = data?.dialog?.participants;
  const [chosen, setChosen] = useState<PersonFragment[]>([]);
  const [isLeaving, setLeaving] = useState(false);
  const { busy, error, run } = useAction();

  const add = () =>
    run(async () => {
      const userIds = chosen.map(({ id }) => id);
      await client.mutate({ mutation: AddParticipantsDocument, variables: { dialogId, userIds } });
      setChosen([]);
      await refetch();
    });
  const leave = () =>
    run(async () => {
      await client.mutate({ mutation: LeaveDialogDocument, variables: { dialogId } });
      onDone();
      goTo(null);
      removeDialog(client.cache, dialogId);
    });

  function rename(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const title = String(new FormData(event.currentTarget).get('title')).trim();
    void run(() => client.mutate({ mutation: RenameDialogDocument, variables: { dialogId, title } }));
  }

  return (
    <>
      <ul className="members">
        {members?.nodes.map(({ id, name, login }) => (
          <li key={id}>
            <span dir="auto">{name}</span> <small>@{login}</small>
          </li>
        ))}
      </ul>
      {members?.pageInfo.hasNextPage && (
        <button className="plain" onClick={() => void fetchMore({ variables: { after: members.pageInfo.endCursor } })}>
          {texts.more}
        </button>
      )}
      <Problem error={error ?? absent} />
      <ChoosePeople chosen={chosen} onChange={setChosen} except={members?.nodes.map(({ id }) => id) ?? []} />
      <button disabled={busy || chosen.length === 0} onClick={() => void add()}>{texts.members.addChosen}</button>
      <form className="row" onSubmit={rename}>
        <Field label={texts.create.groupTitle} name="title" required maxLength={64} defaultValue={dialog.title ?? ''} />
        <button className="plain" disabled={busy}>{texts.members.rename}</button>
      </form>
      <button className="danger" disabled={busy} onClick={() => (isLeaving ? void leave() : setLeaving(true))}>
        {isLeaving ? texts.members.leaveConfirm : texts.members.leave}
      </button>
    </>
  );
}
