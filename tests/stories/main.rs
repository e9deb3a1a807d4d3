//! End-to-end tests of the whole system: the real program as a child process, used only through HTTP and
//! WebSocket, as a browser uses it. The exception is `grpc_permissions`, which tests the permissions of the
//! services' gRPC calls directly.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing step ends the test; measurements are printed"
)]

mod answers;
mod app;
mod attacks;
mod attacks_table;
mod backup;
mod bad_input;
mod balancer;
mod cache;
mod caller;
mod caller_kind;
mod collector;
mod costs;
mod demo;
mod dialog_list;
mod document_limits;
mod endpoint;
mod engines;
mod error_codes;
mod event_log;
mod forged_tokens;
mod full_disk;
mod gateways;
mod grpc_permissions;
mod grpc_permissions_table;
mod held_answers;
mod http;
mod key_rotation;
mod kill;
mod log_recorder;
mod login_floods;
mod maintenance;
mod old_protocol;
mod operation_limits;
mod oracle;
mod permissions;
mod permissions_table;
mod ports;
mod private_folder;
mod profiles;
mod proxy;
mod rate_limits;
mod raw_http;
mod refusals;
mod replica;
mod restore;
mod revocation;
mod secrets;
mod sessions;
mod small_disk;
mod soak;
mod socket_client;
mod sockets;
mod specification;
mod stack;
mod story;
mod streams;
mod subscriptions;
mod trace;
mod traces;
mod transport;
mod transport_limits;
mod upgrade;
mod upstream_calls;
