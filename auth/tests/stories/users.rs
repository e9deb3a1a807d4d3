//! Users as other users see them: lookup by id, search, rename.

use proto::{
    UserId,
    auth::{RenameRequest, SearchRequest, User, UsersRequest},
    events::{UserRenamed, event::Kind},
};
use tonic::Code;

use crate::app::{Service, error_of, user_id};

fn search(prefix: &str, first: i32, after: Option<&str>) -> SearchRequest {
    SearchRequest { prefix: prefix.to_owned(), first, after_login: after.map(str::to_owned) }
}

fn logins(users: &[User]) -> Vec<&str> {
    users.iter().map(|user| user.login.as_str()).collect()
}

#[tokio::test]
async fn users_are_looked_up_by_id_and_unknown_ids_omitted() {
    for service in Service::on_each_database().await {
        let ann = service.register("ann").await;
        let bob = service.register("bob").await;
        service.register("carl").await;
        let mut client = service.with_token(&ann.access_token);
        let ids = vec![user_id(&bob), UserId::now().bytes(), user_id(&ann), user_id(&bob)];
        let mut users = client.users(UsersRequest { ids }).await.unwrap().into_inner().users;
        users.sort_by(|one, two| one.login.cmp(&two.login));
        assert_eq!(users, [ann.user.unwrap(), bob.user.unwrap()], "{}", service.name);
        let none = client.users(UsersRequest { ids: Vec::new() }).await.unwrap().into_inner().users;
        assert_eq!(none, []);
    }
}

#[tokio::test]
async fn a_lookup_takes_at_most_10_000_ids() {
    for service in Service::on_each_database().await {
        let ann = service.register("ann").await;
        let mut client = service.with_token(&ann.access_token);
        let mut ids: Vec<_> = (1..10_000).map(|_| UserId::now().bytes()).collect();
        ids.push(user_id(&ann));
        let users = client.users(UsersRequest { ids: ids.clone() }).await.unwrap().into_inner().users;
        assert_eq!(users, [ann.user.unwrap()], "{}", service.name);
        ids.push(UserId::now().bytes());
        let (code, message) = error_of(client.users(UsersRequest { ids }).await);
        assert_eq!((code, message.contains("10000")), (Code::InvalidArgument, true), "{message}");
        let (code, _) = error_of(client.users(UsersRequest { ids: vec![vec![1; 15]] }).await);
        assert_eq!(code, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_search_is_paginated() {
    for service in Service::on_each_database().await {
        let mut token = String::new();
        for login in ["anna", "annb", "annc", "bob"] {
            token = service.register(login).await.access_token;
        }
        let mut client = service.with_token(&token);
        client.rename(RenameRequest { name: "ANNette".to_owned() }).await.unwrap();
        let first = client.search(search("Ann", 3, None)).await.unwrap().into_inner();
        assert_eq!(
            (logins(&first.users), first.has_next),
            (vec!["anna", "annb", "annc"], true),
            "{}",
            service.name
        );
        let second = client.search(search("Ann", 3, Some("annc"))).await.unwrap().into_inner();
        assert_eq!((logins(&second.users), second.has_next), (vec!["bob"], false));
        let all = client.search(search("ann", 4, None)).await.unwrap().into_inner();
        assert_eq!((all.users.len(), all.has_next), (4, false), "a full page can be the last one");
        let none = client.search(search("an_", 100, None)).await.unwrap().into_inner();
        assert_eq!((none.users, none.has_next), (Vec::new(), false));
    }
}

#[tokio::test]
async fn a_rename_is_visible_to_other_users_and_appends_an_event() {
    for mut service in Service::on_each_database().await {
        let ann = service.register("ann").await;
        let bob = service.register("bob").await;
        service.events(4).await;
        let rename = RenameRequest { name: " Anna \u{1f40e} ".to_owned() };
        let renamed = service.with_token(&ann.access_token).rename(rename).await.unwrap().into_inner();
        assert_eq!(
            renamed,
            User { name: "Anna \u{1f40e}".to_owned(), ..ann.user.clone().unwrap() },
            "{}",
            service.name
        );
        assert_eq!(service.events(1).await, [Kind::UserRenamed(UserRenamed { user_id: user_id(&ann) })]);
        let request = UsersRequest { ids: vec![user_id(&ann)] };
        let users = service.with_token(&bob.access_token).users(request).await.unwrap().into_inner().users;
        assert_eq!(users, [renamed]);
    }
}
