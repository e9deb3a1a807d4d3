//! List of dialogs, and lookup of dialogs by id.

use proto::{
    DialogId,
    dialog::{Dialog, GetRequest, LeaveRequest, ListCursor, ListReply, ListRequest},
};
use tonic::{Code, Status};

use crate::{
    fixture::{TestUser, code, fixtures},
    store::{set_clock_back, set_equal_activity},
};

async fn list(caller: &TestUser, first: i32, after: Option<&Dialog>) -> Result<ListReply, Status> {
    let after = after
        .map(|dialog| ListCursor { last_activity_us: dialog.last_activity_us, dialog_id: dialog.id.clone() });
    Ok(caller.client().list(ListRequest { first, after, participants_first: None }).await?.into_inner())
}

#[tokio::test]
async fn the_list_is_ordered_by_activity_and_paginated() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        assert_eq!(list(&a, 1, None).await.unwrap(), ListReply::default(), "{}", fixture.name);
        let mut created = Vec::new();
        for _ in 0..7 {
            created.push(a.group(&[&b]).await);
        }
        for index in [3, 0, 5] {
            b.send(&created[index].id, "newest").await;
        }
        let all = list(&a, 100, None).await.unwrap();
        let order: Vec<_> = all.dialogs.iter().map(|dialog| &dialog.id).collect();
        let expected: Vec<_> =
            [5, 0, 3, 6, 4, 2, 1].iter().map(|index: &usize| &created[*index].id).collect();
        assert_eq!(order, expected);
        assert!(!all.has_next);
        let with_message = all.dialogs.iter().filter(|dialog| dialog.last_message.is_some()).count();
        assert_eq!(with_message, 3);
        for size in 1..=7 {
            let mut pages = Vec::new();
            let mut after = None;
            loop {
                let page = list(&a, size, after.as_ref()).await.unwrap();
                after = page.dialogs.last().cloned();
                pages.extend(page.dialogs);
                if !page.has_next {
                    break;
                }
                assert_eq!(pages.len() % size as usize, 0, "a page with a next page is full");
            }
            assert_eq!(pages, all.dialogs);
        }
    }
}

#[tokio::test]
async fn dialogs_with_equal_activity_are_ordered_by_id() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        for _ in 0..5 {
            a.group(&[&b]).await;
        }
        set_equal_activity(&fixture.db).await;
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = list(&a, 2, after.as_ref()).await.unwrap();
            after = page.dialogs.last().cloned();
            seen.extend(page.dialogs.into_iter().map(|dialog| dialog.id));
            if !page.has_next {
                break;
            }
        }
        assert_eq!(seen.len(), 5, "{}", fixture.name);
        assert!(seen.is_sorted_by(|one, next| one > next));
    }
}

#[tokio::test]
async fn the_last_activity_never_decreases_when_the_clock_is_set_back() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let quiet = a.group(&[&b]).await;
        let active = a.group(&[&b, &c]).await;
        let first = a.send(&active.id, "first").await;
        let activity = a.get(&active.id).await.unwrap().last_activity_us;
        assert_eq!(activity, first.created_at_us, "{}", fixture.name);
        set_clock_back(&fixture.db).await;
        let second = b.send(&active.id, "second").await;
        assert!(second.created_at_us < quiet.created_at_us, "the clock is set back");
        assert_eq!((first.seq, second.seq), (1, 2));
        let now = a.get(&active.id).await.unwrap();
        assert_eq!((now.last_activity_us, now.last_message.as_ref()), (activity, Some(&second)));
        c.client().leave(LeaveRequest { dialog_id: active.id.clone() }).await.unwrap();
        assert_eq!(a.get(&active.id).await.unwrap().last_activity_us, activity);
        let dialogs = list(&a, 100, None).await.unwrap().dialogs;
        let order: Vec<_> = dialogs.iter().map(|dialog| &dialog.id).collect();
        assert_eq!(order, [&active.id, &quiet.id], "the dialog with new messages stays first");
        assert_eq!(a.history(&active.id).await, [first, second], "history is ordered by seq");
    }
}

#[tokio::test]
async fn a_lookup_by_id_omits_unknown_and_foreign_dialogs() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let own = a.direct(&b).await;
        let foreign = b.direct(&c).await;
        let ids = vec![own.id.clone(), foreign.id, own.id.clone(), DialogId::now().bytes()];
        let found = a.client().get(GetRequest { ids }).await.unwrap().into_inner().dialogs;
        assert_eq!(found, [own], "{}", fixture.name);
        assert!(
            a.client().get(GetRequest { ids: Vec::new() }).await.unwrap().into_inner().dialogs.is_empty()
        );
    }
}

#[tokio::test]
async fn invalid_pages_and_ids_are_refused() {
    for fixture in fixtures().await {
        let a = fixture.user();
        for first in [i32::MIN, -1, 0, 101] {
            assert_eq!(code(list(&a, first, None).await), Code::InvalidArgument, "{}", fixture.name);
        }
        for (last_activity_us, dialog_id) in [(-1, DialogId::now().bytes()), (1, vec![]), (1, vec![1; 17])] {
            let after = Some(ListCursor { last_activity_us, dialog_id });
            assert_eq!(
                code(a.client().list(ListRequest { first: 1, after, participants_first: None }).await),
                Code::InvalidArgument
            );
        }
        let unknown_dialog =
            Some(ListCursor { last_activity_us: i64::MAX, dialog_id: DialogId::now().bytes() });
        a.client()
            .list(ListRequest { first: 1, after: unknown_dialog, participants_first: None })
            .await
            .unwrap();
        for ids in [vec![DialogId::now().bytes(); 1_001], vec![b"short".to_vec()]] {
            assert_eq!(code(a.client().get(GetRequest { ids }).await), Code::InvalidArgument);
        }
    }
}

#[tokio::test]
async fn a_list_names_as_many_participants_as_requested() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let d = fixture.user();
        let group = a.group(&[&b, &c, &d]).await;
        c.client().leave(LeaveRequest { dialog_id: group.id.clone() }).await.unwrap();
        let all = a.get(&group.id).await.unwrap().participant_ids;
        assert_eq!(all.len(), 3, "{}", fixture.name);
        for (participants_first, expected) in [(None, 3), (Some(0), 0), (Some(2), 2), (Some(1_000), 3)] {
            let request = ListRequest { first: 1, after: None, participants_first };
            let page = a.client().list(request).await.unwrap().into_inner();
            assert_eq!(page.dialogs[0].participant_ids, all[..expected], "{}", fixture.name);
        }
        for refused in [-1, 1_001] {
            let request = ListRequest { first: 1, after: None, participants_first: Some(refused) };
            assert_eq!(code(a.client().list(request).await), Code::InvalidArgument, "{}", fixture.name);
        }
    }
}
