//! Counter of a WebSocket's continuation frames, between the connection and the WebSocket library.
//!
//! The library hands up whole messages, so a client that sends fragments of a message without end, empty
//! ones included, would cost time at no charge. The counter reads the headers of the frames
//! (RFC 6455, 5.2) as they pass; the library checks them.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest header of a frame: two bytes, a length of eight bytes and a masking key of four.
const HEADER_MAX: usize = 14;
/// Opcode of a fragment after the first of its message.
const CONTINUATION: u8 = 0;

/// Connection whose incoming continuation frames are counted.
#[derive(Debug)]
pub struct FrameCounter<S> {
    stream: S,
    headers: HeaderReader,
}

/// Reader of frame headers in a sequence of bytes that arrives in pieces.
#[derive(Debug, Default)]
struct HeaderReader {
    header: [u8; HEADER_MAX],
    /// Bytes of the header that have arrived.
    header_len: usize,
    /// Bytes of the payload that have not arrived.
    payload_left: u64,
    continuations: u64,
}

impl<S> FrameCounter<S> {
    /// Wraps a connection before its first frame.
    pub fn new(stream: S) -> Self {
        Self { stream, headers: HeaderReader::default() }
    }

    /// Returns the number of continuation frames that have arrived.
    pub fn continuations(&self) -> u64 {
        self.headers.continuations
    }
}

impl HeaderReader {
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let skipped = bytes.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
                self.payload_left -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(byte) = self.header.get_mut(self.header_len) {
                *byte = *first;
            }
            self.header_len += 1;
            bytes = rest;
            self.finish_header();
        }
    }

    /// Starts the payload if the header is complete.
    fn finish_header(&mut self) {
        let [opcode, length, extended @ ..] = self.header;
        let masking_bytes = if length & 0x80 == 0 { 0 } else { 4 };
        let (extended_bytes, payload) = match length & 0x7f {
            126 => (2, u64::from_be_bytes([0, 0, 0, 0, 0, 0, extended[0], extended[1]])),
            127 => {
                let [a, b, c, d, e, f, g, h, ..] = extended;
                (8, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            short => (0, u64::from(short)),
        };
        if self.header_len < 2 + extended_bytes + masking_bytes {
            return;
        }
        if opcode & 0x0f == CONTINUATION {
            self.continuations += 1;
        }
        self.header_len = 0;
        self.payload_left = payload;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameCounter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.headers.read(buffer.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameCounter<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a frame with a masking key of zeros.
    fn frame(first: u8, payload_len: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match u16::try_from(payload_len) {
            Ok(short @ 0..=125) => bytes.push(0x80 | u8::try_from(short).expect("at most 125")),
            Ok(medium) => {
                bytes.push(0x80 | 126);
                bytes.extend(medium.to_be_bytes());
            }
            Err(_) => {
                bytes.push(0x80 | 127);
                bytes.extend((payload_len as u64).to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes.resize(bytes.len() + payload_len, 0);
        bytes
    }

    #[test]
    fn continuation_frames_are_counted_whatever_their_length_and_however_the_bytes_arrive() {
        let mut bytes = Vec::new();
        for payload_len in [0, 1, 125, 126, 65_535, 65_536] {
            // A message, the first fragment, two further ones with a ping between them, and a pong.
            for first in [0x81, 0x01, 0x00, 0x89, 0x80, 0x8a] {
                bytes.extend(frame(first, payload_len));
            }
        }
        // An unmasked frame, which the library refuses later.
        bytes.extend([0x80, 0x01, 0xff]);
        for piece_len in [1, 2, 3, 7, 1_000, bytes.len()] {
            let mut headers = HeaderReader::default();
            bytes.chunks(piece_len).for_each(|piece| headers.read(piece));
            assert_eq!(headers.continuations, 13, "pieces of {piece_len} bytes");
            assert_eq!((headers.header_len, headers.payload_left), (0, 0));
        }
    }
}
