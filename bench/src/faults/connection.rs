//! One client's connection: reads its requests and does to each what the script says.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::http::Head;
use super::{Fault, Seen, Shared};

/// Serves requests until a fault or either side ends the connection.
pub(super) fn serve(shared: &Shared, client: &TcpStream) -> io::Result<()> {
    // A request begins with its first byte, which is left in the socket for the reset.
    while client.peek(&mut [0])? > 0 {
        let fault = shared.next_fault();
        if fault == Fault::Refuse {
            shared.record(Seen { target: String::new(), headers: Vec::new(), body_bytes: 0, fault, status: None });
            return Ok(());
        }
        let head = Head::read(client)?;
        let body_bytes = head.request_body_bytes()?;
        let number = shared.record(Seen {
            target: head.second_word().to_owned(),
            headers: head.headers().to_vec(),
            body_bytes,
            fault: fault.clone(),
            status: None,
        });
        let request = Request { shared, client, head, body_bytes, number };
        if !request.befall(&fault)? {
            return Ok(());
        }
    }
    Ok(())
}

/// A request whose head has been read and whose body has not.
struct Request<'a> {
    shared: &'a Shared,
    client: &'a TcpStream,
    head: Head,
    body_bytes: u64,
    number: usize,
}

impl Request<'_> {
    /// Lets the fault befall the request; whether the connection goes on.
    fn befall(&self, fault: &Fault) -> io::Result<bool> {
        match fault {
            Fault::Pass => self.pass(),
            Fault::Delay(time) => {
                self.shared.pause(*time);
                self.pass()
            }
            Fault::Refuse | Fault::ResetBeforeBody => Ok(false),
            Fault::ResetInBody => transfer(self.client, self.body_bytes / 2, io::sink()).map(|()| false),
            Fault::ResetAfterBody => self.body_but_for_its_end(io::sink()).map(|()| false),
            Fault::LoseAnswer => self.lose_answer().map(|()| false),
            Fault::Hang => {
                transfer(self.client, self.body_bytes, io::sink())?;
                // Returns when the client gives up, or the proxy goes down.
                self.client.peek(&mut [0]).map(|_| false)
            }
            Fault::Answer { status, retry_after } => {
                transfer(self.client, self.body_bytes, io::sink())?;
                self.answer(*status, retry_after.as_deref()).map(|()| true)
            }
        }
    }

    fn pass(&self) -> io::Result<bool> {
        let Some(upstream) = self.connect() else {
            transfer(self.client, self.body_bytes, io::sink())?;
            return self.answer(502, None).map(|()| true);
        };
        self.head.write(&upstream)?;
        transfer(self.client, self.body_bytes, &upstream)?;
        let answer = Head::read(&upstream)?;
        answer.write(self.client)?;
        transfer(&upstream, answer.answer_body_bytes()?, self.client)?;
        self.shared.answered(self.number, answer.status()?);
        Ok(true)
    }

    fn lose_answer(&self) -> io::Result<()> {
        let Some(upstream) = self.connect() else { return Ok(()) };
        self.head.write(&upstream)?;
        self.body_but_for_its_end(&upstream)?;
        let answer = Head::read(&upstream)?;
        transfer(&upstream, answer.answer_body_bytes()?, io::sink())?;
        self.shared.answered(self.number, answer.status()?);
        Ok(())
    }

    /// Passes the whole body on and leaves its last byte in the socket, so that closing it is a reset.
    fn body_but_for_its_end(&self, mut to: impl Write) -> io::Result<()> {
        let Some(most) = self.body_bytes.checked_sub(1) else { return Ok(()) };
        transfer(self.client, most, &mut to)?;
        let mut last = [0];
        match self.client.peek(&mut last)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => to.write_all(&last),
        }
    }

    fn answer(&self, status: u16, retry_after: Option<&str>) -> io::Result<()> {
        let pause = retry_after.map(|value| format!("retry-after: {value}\r\n")).unwrap_or_default();
        let mut client = self.client;
        client.write_all(format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n{pause}\r\n").as_bytes())?;
        self.shared.answered(self.number, status);
        Ok(())
    }

    fn connect(&self) -> Option<TcpStream> {
        let upstream = self.shared.lock().upstream;
        TcpStream::connect(upstream).ok()
    }
}

/// Moves exactly `count` bytes.
fn transfer(from: &TcpStream, count: u64, mut to: impl Write) -> io::Result<()> {
    match io::copy(&mut from.take(count), &mut to)? {
        moved if moved == count => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
