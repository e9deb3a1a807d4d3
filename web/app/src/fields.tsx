// Small parts of forms and dialogs.
import * as RadixDialog from '@radix-ui/react-dialog';
import { useId, useState, type ComponentProps, type ReactNode } from 'react';
import { texts } from './texts';

/** A labelled input with an optional hint. */
export function Field({ label, hint, ...input }: { label: string; hint?: string } & ComponentProps<'input'>) {
  const id = useId();
  return (
    <p className="field">
      <label htmlFor={id}>{label}</label>
      <input id={id} aria-describedby={hint && `${id}-hint`} {...input} />
      {hint && <small id={`${id}-hint`}>{hint}</small>}
    </p>
  );
}

/** What went wrong, announced when it appears. */
export function Problem({ error }: { error: unknown }) {
  return (
    <p className="problem" role="alert">
      {error instanceof Error ? texts.failed(error.message) : null}
    </p>
  );
}

/** Runs an action of a form: the state is busy while it runs, and keeps its error. */
export function useAction() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const run = async (action: () => Promise<unknown>) => {
    setBusy(true);
    setError(null);
    try {
      await action();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return { busy, error, run };
}

interface ModalProps {
  title: string;
  trigger: ReactNode;
  open: boolean;
  onOpenChange: (open: boolean) => void;
  children: ReactNode;
}

/** A modal dialog. Without Radix's Overlay, whose style element a strict Content-Security-Policy forbids. */
export function Modal({ title, trigger, children, ...state }: ModalProps) {
  return (
    <RadixDialog.Root {...state}>
      <RadixDialog.Trigger asChild>{trigger}</RadixDialog.Trigger>
      <RadixDialog.Portal>
        <div className="overlay" />
        <RadixDialog.Content className="modal" aria-describedby={undefined}>
          <RadixDialog.Title>{title}</RadixDialog.Title>
          {children}
          <RadixDialog.Close className="plain close" aria-label={texts.close}>
            ×
          </RadixDialog.Close>
        </RadixDialog.Content>
      </RadixDialog.Portal>
    </RadixDialog.Root>
  );
}
