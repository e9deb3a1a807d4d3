// Search of people, and those who were chosen.
import { useQuery } from '@apollo/client/react';
import { useState } from 'react';
import { Field, Problem } from './fields';
import { SearchPeopleDocument, type PersonFragment } from './generated';
import { useSettled } from './hooks';
import { texts } from './texts';

const SETTLED_MS = 200;
/** One is enough in Chinese, Japanese and Korean. */
const CJK = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u;
const isLongEnough = (text: string) => [...text].length >= 2 || CJK.test(text);

interface ChoosePeopleProps {
  chosen: PersonFragment[];
  onChange: (chosen: PersonFragment[]) => void;
  /** Ids of those who cannot be chosen. */
  except: string[];
}

export function ChoosePeople({ chosen, onChange, except }: ChoosePeopleProps) {
  const [written, setWritten] = useState('');
  const search = useSettled(written.trim(), SETTLED_MS);
  const { data, error, loading } = useQuery(SearchPeopleDocument, {
    variables: { search },
    skip: !isLongEnough(search),
    fetchPolicy: 'network-only',
  });
  const taken = new Set([...except, ...chosen.map(({ id }) => id)]);
  const found = isLongEnough(search) ? (data?.users?.nodes.filter(({ id }) => !taken.has(id)) ?? []) : [];

  function choose(person: PersonFragment) {
    setWritten('');
    onChange([...chosen, person]);
  }

  return (
    <>
      <Field
        label={texts.create.search} hint={texts.create.hint} type="search" autoComplete="off" maxLength={32}
        value={written} onChange={(event) => setWritten(event.target.value)}
      />
      <Problem error={error} />
      <ul className="found" aria-live="polite">
        {found.map((person) => (
          <li key={person.id}>
            <button type="button" className="plain" onClick={() => choose(person)}>
              <span dir="auto">{person.name}</span> <small>@{person.login}</small>
            </button>
          </li>
        ))}
        {isLongEnough(search) && !loading && found.length === 0 && <li className="hint">{texts.create.none}</li>}
      </ul>
      {chosen.length > 0 && (
        <ul className="chosen" aria-label={texts.create.chosen}>
          {chosen.map(({ id, name }) => (
            <li key={id}>
              <button
                type="button" aria-label={texts.create.removePerson(name)}
                onClick={() => onChange(chosen.filter((it) => it.id !== id))}
              >
                <span dir="auto">{name}</span> ×
              </button>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}
