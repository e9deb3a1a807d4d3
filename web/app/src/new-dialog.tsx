// Starts a conversation with one person, or a group.
import { useApolloClient } from '@apollo/client/react';
import { useState, type FormEvent } from 'react';
import { addDialog } from './cache';
import { ChoosePeople } from './choose-people';
import { Field, Modal, Problem, useAction } from './fields';
import { CreateDialogDocument, type PersonFragment } from './generated';
import { goTo } from './hooks';
import { newKey } from './outbox';
import { texts } from './texts';

export function NewDialogButton({ userId }: { userId: string }) {
  const [open, setOpen] = useState(false);
  return (
    <Modal
      title={texts.create.title} open={open} onOpenChange={setOpen}
      trigger={<button className="new">{texts.list.create}</button>}
    >
      <NewDialog userId={userId} onDone={() => setOpen(false)} />
    </Modal>
  );
}

function NewDialog({ userId, onDone }: { userId: string; onDone: () => void }) {
  const client = useApolloClient();
  const [chosen, setChosen] = useState<PersonFragment[]>([]);
  const [title, setTitle] = useState('');
  // The same key for every attempt: a lost answer does not make two dialogs.
  const [clientKey, setClientKey] = useState(newKey);
  const { busy, error, run } = useAction();

  function submit(event: FormEvent) {
    event.preventDefault();
    void run(async () => {
      const input = { participantIds: chosen.map(({ id }) => id), title: title.trim() || null, clientKey };
      const { data } = await client.mutate({ mutation: CreateDialogDocument, variables: { input } });
      addDialog(client.cache, data!.createDialog);
      goTo(data!.createDialog.id);
      onDone();
    });
  }

  function choose(people: PersonFragment[]) {
    setChosen(people);
    setClientKey(newKey());
  }

  return (
    <form onSubmit={submit}>
      <ChoosePeople chosen={chosen} onChange={choose} except={[userId]} />
      <Field
        label={texts.create.groupTitle} hint={texts.create.groupHint} maxLength={64}
        value={title} onChange={(event) => { setTitle(event.target.value); setClientKey(newKey()); }}
      />
      <Problem error={error} />
      <button disabled={busy || chosen.length === 0}>{texts.create.submit}</button>
    </form>
  );
}
