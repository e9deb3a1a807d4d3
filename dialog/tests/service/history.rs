//! Pages of history, and lookup of messages by id.

use proto::{
    DialogId, MessageId,
    dialog::{HistoryPage, HistoryPageReply, HistoryRequest, Message, MessagesRequest},
};
use tonic::Code;

use crate::fixture::{code, fixtures};

fn seqs(page: &HistoryPageReply) -> Vec<i64> {
    page.messages.iter().map(|message| message.seq).collect()
}

#[tokio::test]
async fn history_is_paginated_in_both_directions_with_exact_page_info() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        for _ in 0..5 {
            a.send(&dialog.id, "text").await;
        }
        for (first, after_seq, last, before_seq, expected, previous, next) in [
            (Some(100), None, None, None, vec![1, 2, 3, 4, 5], false, false),
            (Some(5), None, None, None, vec![1, 2, 3, 4, 5], false, false),
            (Some(2), None, None, None, vec![1, 2], false, true),
            (Some(2), Some(0), None, None, vec![1, 2], false, true),
            (Some(2), Some(2), None, None, vec![3, 4], true, true),
            (Some(2), Some(3), None, None, vec![4, 5], true, false),
            (Some(2), Some(5), None, None, vec![], true, false),
            (Some(2), Some(i64::MAX), None, None, vec![], true, false),
            (None, None, Some(100), None, vec![1, 2, 3, 4, 5], false, false),
            (None, None, Some(2), None, vec![4, 5], true, false),
            (None, None, Some(2), Some(6), vec![4, 5], true, false),
            (None, None, Some(2), Some(4), vec![2, 3], true, true),
            (None, None, Some(2), Some(3), vec![1, 2], false, true),
            (None, None, Some(2), Some(1), vec![], false, true),
            (None, None, Some(2), Some(0), vec![], false, true),
        ] {
            let page = b
                .page(HistoryPage { dialog_id: dialog.id.clone(), first, after_seq, last, before_seq })
                .await;
            assert_eq!(
                seqs(&page),
                expected,
                "{}: {first:?} {after_seq:?} {last:?} {before_seq:?}",
                fixture.name
            );
            let ends = (page.found, page.has_previous, page.has_next);
            assert_eq!(ends, (true, previous, next), "{first:?} {after_seq:?} {last:?} {before_seq:?}");
        }
    }
}

#[tokio::test]
async fn pages_are_returned_in_the_order_of_the_request() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let one = a.direct(&b).await;
        let two = a.group(&[&b]).await;
        let foreign = b.direct(&c).await;
        for dialog in [&one, &two, &foreign] {
            for _ in 0..3 {
                b.send(&dialog.id, "text").await;
            }
        }
        let page = |dialog_id: &[u8], last, before_seq| HistoryPage {
            dialog_id: dialog_id.to_vec(),
            last: Some(last),
            before_seq,
            ..HistoryPage::default()
        };
        let pages = vec![
            page(&two.id, 1, Some(3)),
            page(&foreign.id, 2, Some(3)),
            page(&one.id, 2, None),
            page(&DialogId::now().bytes(), 1, None),
            page(&two.id, 5, None),
        ];
        let pages = a.client().history(HistoryRequest { pages }).await.unwrap().into_inner().pages;
        let found: Vec<_> = pages.iter().map(|page| page.found).collect();
        assert_eq!(found, [true, false, true, false, true], "{}", fixture.name);
        assert_eq!(
            pages.iter().map(seqs).collect::<Vec<_>>(),
            [vec![2], vec![], vec![2, 3], vec![], vec![1, 2, 3]]
        );
        assert_eq!((pages[0].has_previous, pages[0].has_next), (true, true));
        assert_eq!((pages[2].has_previous, pages[2].has_next), (true, false));
        assert_eq!(pages[1], pages[3], "foreign and unknown dialogs look the same");
        assert!(pages[0].messages.iter().all(|message| message.dialog_id == two.id));
        let none = a.client().history(HistoryRequest { pages: Vec::new() }).await.unwrap().into_inner();
        assert!(none.pages.is_empty());
    }
}

#[tokio::test]
async fn invalid_pages_are_refused() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let good = HistoryPage { dialog_id: dialog.id.clone(), first: Some(1), ..HistoryPage::default() };
        for bad in [
            HistoryPage { first: Some(0), ..good.clone() },
            HistoryPage { first: Some(101), ..good.clone() },
            HistoryPage { first: None, ..good.clone() },
            HistoryPage { last: Some(1), ..good.clone() },
            HistoryPage { before_seq: Some(1), ..good.clone() },
            HistoryPage { after_seq: Some(-1), ..good.clone() },
            HistoryPage { first: None, last: Some(1), after_seq: Some(1), ..good.clone() },
            HistoryPage { first: None, last: Some(1), before_seq: Some(i64::MIN), ..good.clone() },
            HistoryPage { dialog_id: vec![9; 5], ..good.clone() },
        ] {
            let refused = a.client().history(HistoryRequest { pages: vec![good.clone(), bad.clone()] }).await;
            assert_eq!(code(refused), Code::InvalidArgument, "{}: {bad:?}", fixture.name);
        }
        let refused = a.client().history(HistoryRequest { pages: vec![good.clone(); 101] }).await;
        assert_eq!(code(refused), Code::InvalidArgument);
        a.client().history(HistoryRequest { pages: vec![good; 100] }).await.unwrap();
    }
}

#[tokio::test]
async fn messages_are_found_by_message_id_and_by_transaction_id() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let own = a.direct(&b).await;
        let foreign = b.direct(&c).await;
        let one = a.send(&own.id, "one").await;
        let two = b.send(&own.id, "two").await;
        let hidden = b.send(&foreign.id, "hidden").await;
        let request = MessagesRequest {
            ids: vec![one.id.clone(), hidden.id.clone(), MessageId::now().bytes(), one.id.clone()],
            transaction_ids: vec![
                two.transaction_id.clone(),
                one.transaction_id.clone(),
                hidden.transaction_id,
            ],
        };
        let mut found: Vec<Message> = a.client().messages(request).await.unwrap().into_inner().messages;
        found.sort_by_key(|message| message.seq);
        assert_eq!(found, [one, two], "{}", fixture.name);
        let ids = |count| vec![MessageId::now().bytes(); count];
        for (ids, transaction_ids) in [(ids(501), ids(500)), (vec![vec![1]], vec![]), (vec![], vec![vec![1]])]
        {
            let refused = a.client().messages(MessagesRequest { ids, transaction_ids }).await;
            assert_eq!(code(refused), Code::InvalidArgument);
        }
    }
}
