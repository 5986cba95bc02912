//! As much HTTP/1.1 as it takes to know where a message's body ends (RFC 9112, section 6).

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Bytes a message head may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The head of a request or an answer, with the empty line behind it.
#[derive(Debug)]
pub(super) struct Head {
    bytes: Vec<u8>,
    /// The request or status line.
    line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads exactly the head and nothing of the body: what is left in the socket decides how its end looks.
    pub(super) fn read(mut stream: &TcpStream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let mut window = [0; 4096];
        loop {
            let seen = stream.peek(&mut window)?;
            let had = bytes.len();
            bytes.extend_from_slice(&window[..seen]);
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            bytes.truncate(end.unwrap_or(bytes.len()));
            let taken = bytes.len() - had;
            stream.read_exact(&mut window[..taken])?;
            match end {
                Some(_) => return Ok(Self::parse(bytes)),
                None if seen == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None if bytes.len() > HEAD_BYTES_MAX => return Err(invalid("a head of more than 64 KiB")),
                None => {}
            }
        }
    }

    fn parse(bytes: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
        Self { line, headers: lines.filter_map(header).collect(), bytes }
    }

    /// Sends the head on as it came.
    pub(super) fn write(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(&self.bytes)
    }

    /// Header names, in lower case, and values.
    pub(super) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The part of the first line between its first two spaces: a request's target or an answer's status.
    pub(super) fn second_word(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// Status of an answer.
    pub(super) fn status(&self) -> io::Result<u16> {
        self.second_word().parse().map_err(|_| invalid("an answer without a status"))
    }

    /// Bytes of a request's body.
    pub(super) fn request_body_bytes(&self) -> io::Result<u64> {
        match (self.header("transfer-encoding"), self.header("content-length")) {
            (Some(_), _) => Err(invalid("a request with a transfer encoding")),
            (None, None) => Ok(0),
            (None, Some(length)) => length.parse().map_err(|_| invalid("a content length that is no number")),
        }
    }

    /// Bytes of an answer's body.
    pub(super) fn answer_body_bytes(&self) -> io::Result<u64> {
        match (self.status()?, self.header("content-length")) {
            (204 | 304, _) => Ok(0),
            (_, Some(length)) => length.parse().map_err(|_| invalid("a content length that is no number")),
            (_, None) => Err(invalid("an answer without a content length")),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a body's end is taken from the wrong place: the next request would begin in the middle of this one.
    #[test]
    fn lengths_decide_where_bodies_end() {
        let head = |text: &str| Head::parse(text.as_bytes().to_vec());
        let request = head("POST /v1?a=b HTTP/1.1\r\nContent-LENGTH: 12\r\nIdempotency-Key:  k\r\n\r\n");
        assert_eq!(request.request_body_bytes().unwrap(), 12);
        assert_eq!(request.second_word(), "/v1?a=b");
        assert_eq!(request.headers()[1], ("idempotency-key".to_owned(), "k".to_owned()));
        assert_eq!(head("GET / HTTP/1.1\r\n\r\n").request_body_bytes().unwrap(), 0);
        assert!(head("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").request_body_bytes().is_err());

        assert_eq!(head("HTTP/1.1 204 No Content\r\n\r\n").answer_body_bytes().unwrap(), 0);
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n").answer_body_bytes().unwrap(), 3);
        assert!(head("HTTP/1.1 200 OK\r\n\r\n").answer_body_bytes().is_err());
        assert!(head("nonsense\r\n\r\n").answer_body_bytes().is_err());
    }
}
