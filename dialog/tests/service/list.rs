//! Lists of dialogs, and dialogs by ids.

use proto::{
    DialogId,
    dialog::{Dialog, GetRequest, ListCursor, ListReply, ListRequest},
};
use tonic::{Code, Status};

use crate::{
    store::at_one_instant,
    world::{Person, code, worlds},
};

async fn list(caller: &Person, first: i32, after: Option<&Dialog>) -> Result<ListReply, Status> {
    let after = after
        .map(|dialog| ListCursor { last_activity_us: dialog.last_activity_us, dialog_id: dialog.id.clone() });
    Ok(caller.client().list(ListRequest { first, after }).await?.into_inner())
}

#[tokio::test]
async fn dialogs_are_listed_by_activity_page_by_page() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        assert_eq!(list(&a, 1, None).await.unwrap(), ListReply::default(), "{}", world.name);
        let mut made = Vec::new();
        for _ in 0..7 {
            made.push(a.group(&[&b]).await);
        }
        for place in [3, 0, 5] {
            b.send(&made[place].id, "newest").await;
        }
        let all = list(&a, 100, None).await.unwrap();
        let order: Vec<_> = all.dialogs.iter().map(|dialog| &dialog.id).collect();
        let expected: Vec<_> = [5, 0, 3, 6, 4, 2, 1].iter().map(|place| &made[*place].id).collect();
        assert_eq!(order, expected);
        assert!(!all.has_next);
        let with_words = all.dialogs.iter().filter(|dialog| dialog.last_message.is_some()).count();
        assert_eq!(with_words, 3);
        for size in 1..=7 {
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let page = list(&a, size, after.as_ref()).await.unwrap();
                after = page.dialogs.last().cloned();
                pages.extend(page.dialogs);
                if !page.has_next {
                    break;
                }
                assert_eq!(pages.len() % size as usize, 0, "a page that something follows is full");
            }
            assert_eq!(pages, all.dialogs);
        }
    }
}

#[tokio::test]
async fn dialogs_of_one_instant_are_in_the_order_of_their_ids() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        for _ in 0..5 {
            a.group(&[&b]).await;
        }
        at_one_instant(&world.db).await;
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = list(&a, 2, after.as_ref()).await.unwrap();
            after = page.dialogs.last().cloned();
            seen.extend(page.dialogs.into_iter().map(|dialog| dialog.id));
            if !page.has_next {
                break;
            }
        }
        assert_eq!(seen.len(), 5, "{}", world.name);
        assert!(seen.is_sorted_by(|one, next| one > next));
    }
}

#[tokio::test]
async fn dialogs_by_ids_leave_out_what_is_absent_or_foreign() {
    for world in worlds().await {
        let (a, b, c) = (world.person(), world.person(), world.person());
        let (own, foreign) = (a.direct(&b).await, b.direct(&c).await);
        let ids = vec![own.id.clone(), foreign.id, own.id.clone(), DialogId::now().bytes()];
        let found = a.client().get(GetRequest { ids }).await.unwrap().into_inner().dialogs;
        assert_eq!(found, [own], "{}", world.name);
        assert!(
            a.client().get(GetRequest { ids: Vec::new() }).await.unwrap().into_inner().dialogs.is_empty()
        );
    }
}

#[tokio::test]
async fn bad_pages_are_refused() {
    for world in worlds().await {
        let a = world.person();
        for first in [i32::MIN, -1, 0, 101] {
            assert_eq!(code(list(&a, first, None).await), Code::InvalidArgument, "{}", world.name);
        }
        for (last_activity_us, dialog_id) in [(-1, DialogId::now().bytes()), (1, vec![]), (1, vec![1; 17])] {
            let after = Some(ListCursor { last_activity_us, dialog_id });
            assert_eq!(code(a.client().list(ListRequest { first: 1, after }).await), Code::InvalidArgument);
        }
        let elsewhere = Some(ListCursor { last_activity_us: i64::MAX, dialog_id: DialogId::now().bytes() });
        a.client().list(ListRequest { first: 1, after: elsewhere }).await.unwrap();
        for ids in [vec![DialogId::now().bytes(); 1_001], vec![b"short".to_vec()]] {
            assert_eq!(code(a.client().get(GetRequest { ids }).await), Code::InvalidArgument);
        }
    }
}
