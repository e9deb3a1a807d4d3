//! `tidings healthcheck`: asks the role that runs beside it whether it is ready, where there is no other client to ask with:
//! in a container, in scripts.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use crate::{serve::reachable, settings::Healthcheck};

/// How long the role may take to accept, and to say each part of its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most that is read of an answer, in bytes.
const ANSWER_MAX: u64 = 4_096;

/// Asks once. What is wrong is a line on the standard error; the exit codes are those that container engines know.
#[expect(clippy::print_stderr, reason = "the line that an operator reads, or the container engine keeps")]
pub fn run(settings: &Healthcheck) -> ExitCode {
    match ask(reachable(settings.ops_listen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("tidings: {why}");
            ExitCode::FAILURE
        }
    }
}

fn ask(address: SocketAddr) -> Result<(), String> {
    let answer = exchange(address).map_err(|error| format!("{address} does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{address} is not ready: {body}")) }
}

fn exchange(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn told(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let role = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let told = ask(address);
        assert!(role.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        told
    }

    #[test]
    fn only_a_role_that_says_200_is_ready() {
        assert_eq!(told("HTTP/1.1 200 OK\r\n\r\n{}"), Ok(()));
        let why = told("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"log\":\"starting\"}").unwrap_err();
        assert!(why.ends_with("is not ready: {\"log\":\"starting\"}"), "{why}");
        assert!(told("").unwrap_err().contains("is not ready"));
    }

    #[test]
    fn a_role_that_does_not_listen_is_not_ready() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(address).unwrap_err().contains("does not answer"));
    }
}
