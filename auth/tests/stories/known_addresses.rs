//! Addresses of clients: which are known to a login, who may name one, and the places of one address in the
//! queue of passwords.

use futures_util::future::join_all;
use proto::{
    KNOWN_ADDRESS,
    auth::{LoginRequest, RefreshRequest, RegisterRequest, Session},
    retry_after,
};
use tonic::{Code, Status};

use crate::app::{Client, PASSWORD, Service, code, registration};

const HOME: [u8; 4] = [192, 0, 2, 1];
const ELSEWHERE: [u8; 4] = [198, 51, 100, 1];

async fn log_in(
    mut client: Client,
    address: &[u8],
    password: &str,
    known_address_only: bool,
) -> Result<Session, Status> {
    let request = LoginRequest {
        login: "ann".to_owned(),
        password: password.to_owned(),
        client_address: address.to_vec(),
        known_address_only,
        ..Default::default()
    };
    client.login(request).await.map(tonic::Response::into_inner)
}

/// Sends a wrong password. Returns true if the answer says that the address is known.
async fn is_known(service: &Service, address: &[u8]) -> bool {
    let status = log_in(service.as_service(), address, "wrong horse", false).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "the login or the password is wrong")
    );
    status.metadata().contains_key(KNOWN_ADDRESS)
}

#[tokio::test]
async fn an_address_is_known_once_it_has_registered_or_signed_in() {
    for service in Service::on_each_database().await {
        assert!(!is_known(&service, &HOME).await, "{}: an unknown login", service.name);
        let request = RegisterRequest { client_address: HOME.to_vec(), ..registration("ann") };
        service.as_service().register(request).await.unwrap();
        assert!(is_known(&service, &HOME).await, "{}", service.name);
        assert!(!is_known(&service, &ELSEWHERE).await);
        for password in [PASSWORD, "wrong horse"] {
            let refused = log_in(service.as_service(), &ELSEWHERE, password, true).await;
            assert_eq!(code(refused), Code::FailedPrecondition, "{}: {password}", service.name);
        }
        assert!(!is_known(&service, &ELSEWHERE).await, "a wrong password makes no address known");
        log_in(service.as_service(), &HOME, PASSWORD, true).await.unwrap();
        log_in(service.as_service(), &ELSEWHERE, PASSWORD, false).await.unwrap();
        log_in(service.as_service(), &ELSEWHERE, PASSWORD, true).await.unwrap();
    }
}

#[tokio::test]
async fn an_address_is_known_once_it_has_refreshed_a_session() {
    for service in Service::on_each_database().await {
        let session = service.register("ann").await;
        let request = RefreshRequest {
            refresh_token: session.refresh_token,
            client_address: HOME.to_vec(),
            ..Default::default()
        };
        let session = service.as_service().refresh(request).await.unwrap().into_inner();
        assert!(is_known(&service, &HOME).await, "{}", service.name);
        let refresh_token = session.refresh_token;
        let request =
            RefreshRequest { refresh_token, client_address: ELSEWHERE.to_vec(), ..Default::default() };
        service.anonymous().refresh(request).await.unwrap();
        assert!(!is_known(&service, &ELSEWHERE).await, "{}: no service names it", service.name);
    }
}

#[tokio::test]
async fn only_a_service_can_name_the_address_of_a_client() {
    for service in Service::on_each_database().await {
        let request = RegisterRequest { client_address: HOME.to_vec(), ..registration("ann") };
        let session = service.as_service().register(request).await.unwrap().into_inner();
        for client in [service.anonymous(), service.with_token(&session.access_token)] {
            let refused = log_in(client.clone(), &HOME, PASSWORD, true).await;
            assert_eq!(code(refused), Code::FailedPrecondition, "{}", service.name);
            log_in(client, &ELSEWHERE, PASSWORD, false).await.unwrap();
        }
        assert!(!is_known(&service, &ELSEWHERE).await, "{}", service.name);
        assert!(!is_known(&service, b"six by").await, "six bytes are no address");
    }
}

#[tokio::test]
async fn twenty_addresses_are_known_and_the_least_recently_used_is_forgotten() {
    for service in Service::on_each_database().await {
        service.register("ann").await;
        let address = |number: u8| [192, 0, 2, number];
        for number in (0..20).chain([0, 20]) {
            log_in(service.as_service(), &address(number), PASSWORD, false).await.unwrap();
        }
        assert!(is_known(&service, &address(0)).await, "{}: used again", service.name);
        assert!(!is_known(&service, &address(1)).await, "{}", service.name);
        assert!(is_known(&service, &address(20)).await);
    }
}

#[tokio::test]
async fn a_flood_from_one_address_is_refused_with_the_time_to_wait_and_another_is_served() {
    for service in Service::on_each_database().await {
        service.register("ann").await;
        let flood = (0..60).map(|_| log_in(service.as_service(), &HOME, "wrong horse", false));
        let (answers, other) =
            tokio::join!(join_all(flood), log_in(service.as_service(), &ELSEWHERE, PASSWORD, false));
        other.unwrap();
        let refused = answers.into_iter().map(Result::unwrap_err).filter(|status| {
            let wait = retry_after(status);
            assert_eq!(wait.is_some(), status.code() != Code::Unauthenticated, "{status:?}");
            wait.is_some()
        });
        let refused = refused.count();
        assert!((1..60).contains(&refused), "{}: {refused}", service.name);
    }
}
