//! `tidings healthcheck`: queries `/readyz` of a role on the same machine. It exists for containers and
//! scripts, where no HTTP client is installed.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use crate::{serve::connectable, settings::Healthcheck};

/// Timeout of the connection attempt and of each read and write.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of bytes read of an answer.
const ANSWER_MAX_BYTES: u64 = 4_096;

/// Checks once. Exits with 0 when the role is ready; else with 1 and the reason on standard error, as
/// container engines expect.
#[expect(clippy::print_stderr, reason = "the output of the command; container engines keep it")]
pub fn run(settings: &Healthcheck) -> ExitCode {
    match check(connectable(settings.ops_listen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("tidings: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn check(address: SocketAddr) -> Result<(), String> {
    let answer = request(address).map_err(|error| format!("{address} does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{address} is not ready: {body}")) }
}

fn request(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // One write: `write!` on a socket sends each fragment separately, and a server that answers and
    // closes after the first one resets the connection when the others arrive.
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    match stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer) {
        // The status line is the answer; a reset after it loses at most the end of the body.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && has_status_line(&answer) => {}
        read => drop(read?),
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn has_status_line(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 ") && answer.windows(2).any(|bytes| bytes == b"\r\n")
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Checks a fake role that reads the whole request before it answers and closes.
    fn check_answer(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let role = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut bytes = [0; 512];
                let length = stream.read(&mut bytes).unwrap();
                assert!(length > 0, "closed after {request:?}");
                request.extend_from_slice(&bytes[..length]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let result = check(address);
        assert!(role.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        result
    }

    #[test]
    fn only_a_role_that_answers_200_is_ready() {
        assert_eq!(check_answer("HTTP/1.1 200 OK\r\n\r\n{}"), Ok(()));
        let reason =
            check_answer("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"log\":\"starting\"}").unwrap_err();
        assert!(reason.ends_with("is not ready: {\"log\":\"starting\"}"), "{reason}");
        assert!(check_answer("").unwrap_err().contains("is not ready"));
    }

    /// Checks a fake role that answers and closes with the request unread, which resets the connection.
    fn check_reset_after(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let role = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The request has arrived, and stays in the socket's buffer.
            stream.peek(&mut [0; 512]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let result = check(address);
        role.join().unwrap();
        result
    }

    #[test]
    fn a_reset_after_the_status_line_keeps_the_answer_and_one_before_it_is_an_error() {
        assert_eq!(check_reset_after("HTTP/1.1 200 OK\r\n\r\n{}"), Ok(()));
        assert!(
            check_reset_after("HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err().contains("not ready")
        );
        assert!(check_reset_after("HTTP/1.1 20").unwrap_err().contains("does not answer"));
    }

    #[test]
    fn a_role_that_does_not_listen_is_not_ready() {
        let address = ([127, 0, 0, 1], testkit::free_port()).into();
        assert!(check(address).unwrap_err().contains("does not answer"));
    }
}
