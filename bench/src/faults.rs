//! A proxy in front of a receiver that fails on request: a script says what becomes of each of the next requests.
//!
//! It speaks HTTP/1.1 with content lengths, one thread a connection, on loopback. It never waits for a fixed time
//! of its own accord, so a test that uses it is as fast as the client's time-outs allow.

mod connection;
mod http;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::utc::http_date;

/// Connections served at once; more are closed as they come.
const CONNECTIONS_MAX: usize = 256;
/// Requests that are remembered; later ones are only counted.
const SEEN_MAX: usize = 65_536;

/// What becomes of one request.
///
/// A reset is a real one (RST): the socket is closed with bytes in it that nobody read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The receiver gets the request, the client the answer.
    Pass,
    /// As `Pass`, after a while.
    Delay(Duration),
    /// The connection is reset as soon as a request begins.
    Refuse,
    /// The connection is reset behind the head.
    ResetBeforeBody,
    /// The connection is reset behind the first half of the body.
    ResetInBody,
    /// The whole body comes in, but goes nowhere; then the connection is reset.
    ResetAfterBody,
    /// The receiver gets the request and answers; instead of the answer, the client gets a reset.
    LoseAnswer,
    /// The whole request comes in, but goes nowhere and is never answered.
    Hang,
    /// The whole request comes in, but goes nowhere; the answer is this one.
    Answer {
        /// Status of the answer.
        status: u16,
        /// Value of its `Retry-After`.
        retry_after: Option<String>,
    },
}

impl Fault {
    /// An answer with this status and nothing else.
    pub fn answer(status: u16) -> Self {
        Self::Answer { status, retry_after: None }
    }

    /// An answer that asks for a pause in seconds.
    pub fn retry_after_seconds(status: u16, seconds: u64) -> Self {
        Self::Answer { status, retry_after: Some(seconds.to_string()) }
    }

    /// An answer that asks for a pause until a moment, in seconds since the epoch.
    pub fn retry_after_date(status: u16, epoch_s: u64) -> Self {
        Self::Answer { status, retry_after: Some(http_date(epoch_s)) }
    }
}

/// A request as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Path and query; empty for a refused one, which was not read.
    pub target: String,
    /// Header names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Bytes of its body, as announced.
    pub body_bytes: u64,
    /// What became of it.
    pub fault: Fault,
    /// Status of the answer, once there was one; with [`Fault::LoseAnswer`] the client never saw it.
    pub status: Option<u16>,
}

impl Seen {
    /// Value of a header, its name given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A running proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    script: VecDeque<Fault>,
    otherwise: Fault,
    requests: usize,
    seen: Vec<Seen>,
    /// Open connections to clients, to close them with the proxy.
    clients: HashMap<u64, TcpStream>,
    down: bool,
}

impl FaultProxy {
    /// Starts a proxy on a free loopback port. The script's faults befall one request each, in the order of the
    /// requests' first bytes; what comes behind them passes.
    ///
    /// # Errors
    /// No port or thread can be had.
    pub fn start(upstream: SocketAddr, script: impl IntoIterator<Item = Fault>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let state = State {
            upstream,
            script: script.into_iter().collect(),
            otherwise: Fault::Pass,
            requests: 0,
            seen: Vec::new(),
            clients: HashMap::new(),
            down: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let address = listener.local_addr()?;
        let acceptor = Some(spawn_acceptor(listener, &shared)?);
        Ok(Self { address, shared, acceptor })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Appends to the script.
    pub fn then(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.lock().script.extend(faults);
    }

    /// What becomes of requests that the script has nothing for.
    pub fn otherwise(&self, fault: Fault) {
        self.shared.lock().otherwise = fault;
    }

    /// Forgets the rest of the script; everything passes from now on.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.script.clear();
        state.otherwise = Fault::Pass;
    }

    /// Sends requests elsewhere from now on, such as to a restarted receiver.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.shared.lock().upstream = upstream;
    }

    /// Closes the port and every connection: connecting is refused by the kernel until [`FaultProxy::up`].
    pub fn down(&mut self) {
        {
            let mut state = self.shared.lock();
            state.down = true;
            for client in state.clients.values() {
                // One that is closed already needs no closing.
                let _ = client.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
        if let Some(acceptor) = self.acceptor.take() {
            // Wakes the acceptor; where the connection fails, it has woken up by itself.
            let _ = TcpStream::connect(self.address);
            let _ = acceptor.join();
        }
    }

    /// Opens the same port again after [`FaultProxy::down`].
    ///
    /// # Errors
    /// The port was taken by someone else meanwhile.
    pub fn up(&mut self) -> io::Result<()> {
        if self.acceptor.is_none() {
            let listener = TcpListener::bind(self.address)?;
            self.shared.lock().down = false;
            self.acceptor = Some(spawn_acceptor(listener, &self.shared)?);
        }
        Ok(())
    }

    /// Requests that have begun.
    pub fn requests(&self) -> usize {
        self.shared.lock().requests
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// Waits until the requests so far meet a condition; `false` if they do not within `limit`.
    pub fn wait_until(&self, limit: Duration, condition: impl Fn(&[Seen]) -> bool) -> bool {
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), limit, |state| !condition(&state.seen));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.down();
    }
}

impl Shared {
    /// The state; a thread that panicked with the lock has left it whole, as every change is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of the request that begins now.
    fn next_fault(&self) -> Fault {
        let mut state = self.lock();
        state.script.pop_front().unwrap_or_else(|| state.otherwise.clone())
    }

    /// Remembers a request; gives its number.
    fn record(&self, seen: Seen) -> usize {
        let mut state = self.lock();
        state.requests += 1;
        if state.seen.len() < SEEN_MAX {
            state.seen.push(seen);
        }
        self.changed.notify_all();
        state.requests - 1
    }

    /// Remembers how request `number` was answered.
    fn answered(&self, number: usize, status: u16) {
        if let Some(seen) = self.lock().seen.get_mut(number) {
            seen.status = Some(status);
        }
        self.changed.notify_all();
    }

    /// Waits, unless the proxy goes down.
    fn pause(&self, time: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), time, |state| !state.down));
    }
}

fn spawn_acceptor(listener: TcpListener, shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("fault-proxy".into()).spawn(move || accept(&listener, &shared))
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (number, client) in (0..).zip(listener.incoming()) {
        let Ok(client) = client else { continue };
        {
            let mut state = shared.lock();
            if state.down {
                return;
            }
            let Ok(clone) = client.try_clone() else { continue };
            if state.clients.len() >= CONNECTIONS_MAX {
                continue;
            }
            state.clients.insert(number, clone);
        }
        let own = Arc::clone(shared);
        let serve = move || {
            // An error is a connection that broke, which the client notices as well.
            let _ = connection::serve(&own, &client);
            // The clone goes first: only the last owner's close reaches the client.
            own.lock().clients.remove(&number);
            drop(client);
        };
        if std::thread::Builder::new().spawn(serve).is_err() {
            shared.lock().clients.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests;
