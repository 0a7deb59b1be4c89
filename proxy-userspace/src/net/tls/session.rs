//! A TLS session over a socket.

use super::facts::TlsFacts;
use super::handshake::{Foreign, HandshakeError, alert};
use crate::net::link::Link;
use bytes::BufMut;
use rustls::{Connection, HandshakeKind, ProtocolVersion};
use std::cell::{OnceCell, RefCell};
use std::io::{self, BufRead as _, IoSlice, Read as _, Write as _};
use std::task::{Context, Poll, ready};

/// Octets that are read from the socket at once at most.
const READ: usize = 64 << 10;

/// Octets that are read at least: a caller with little room gets the rest without the kernel.
const LEAST_READ: usize = 4 << 10;

thread_local! {
    /// Where sockets are read into.
    static RECORDS: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// A TLS session inside a stream.
#[derive(Debug)]
pub(in crate::net) struct Tls {
    facts: OnceCell<TlsFacts>,
    session: RefCell<Session>,
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    /// Octets that were read and that the connection had no room for, or that came before it.
    early: Vec<u8>,
    /// Octets that are opened and not taken.
    plain: usize,
    /// Octets of what a writer offers that are sealed, but of which it was not told.
    sealed: usize,
    end: End,
    /// Nothing was received yet.
    is_new: bool,
    /// What is left to write of an alert that the connection does not send by itself.
    alert: Vec<u8>,
}

/// How far the other end's octets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// It has said `close_notify`.
    Closed,
    /// Its socket ended without.
    Cut,
    /// It broke the protocol: the connection holds the error.
    Failed,
    /// It speaks something else.
    Foreign(Foreign),
}

impl Tls {
    /// A session to begin with `early`, which was read from the socket before.
    pub(in crate::net) fn new(connection: Connection, early: Vec<u8>) -> Self {
        Self {
            facts: OnceCell::new(),
            session: RefCell::new(Session {
                connection,
                early,
                plain: 0,
                sealed: 0,
                end: End::Open,
                is_new: true,
                alert: Vec::new(),
            }),
        }
    }

    pub(in crate::net) fn facts(&self) -> Option<&TlsFacts> {
        self.facts.get()
    }

    /// Negotiates until both are agreed and all of it is written.
    pub(in crate::net) fn poll_handshake(
        &self,
        socket: &Link,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HandshakeError>> {
        let session = &mut *self.session.borrow_mut();
        loop {
            if let Err(error) = ready!(session.poll_written(socket, cx))
                && session.end != End::Failed
            {
                return Poll::Ready(Err(HandshakeError::Io(error)));
            }
            if let Some(facts) = TlsFacts::of(&session.connection) {
                let _ = self.facts.set(facts);
                return Poll::Ready(Ok(()));
            }
            match session.end {
                End::Open => {}
                End::Failed => return Poll::Ready(Err(session.handshake_error())),
                End::Foreign(what) => return Poll::Ready(Err(HandshakeError::NotTls(what))),
                End::Closed | End::Cut => return Poll::Ready(Err(HandshakeError::Closed)),
            }
            ready!(session.poll_input(socket, cx, &mut [])).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::UnexpectedEof => HandshakeError::Closed,
                    _ => HandshakeError::Io(error),
                }
            })?;
        }
    }

    pub(in crate::net) fn poll_read(
        &self,
        socket: &Link,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let session = &mut *self.session.borrow_mut();
        loop {
            let taken = session.take(buffer)?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            if session.is_over()? {
                return Poll::Ready(Ok(0));
            }
            let taken = ready!(session.poll_input(socket, cx, buffer))?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    pub(in crate::net) fn poll_read_buf(
        &self,
        socket: &Link,
        cx: &mut Context<'_>,
        buffer: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(socket, cx))?;
        let session = &mut *self.session.borrow_mut();
        let mut read = 0;
        while session.plain > 0 && buffer.has_remaining_mut() {
            let mut reader = session.connection.reader();
            let chunk = reader.fill_buf()?;
            let taken = chunk.len().min(buffer.remaining_mut());
            buffer.put_slice(&chunk[..taken]);
            reader.consume(taken);
            session.plain -= taken;
            read += taken;
        }
        if read == 0 {
            session.is_over()?;
        }
        Poll::Ready(Ok(read))
    }

    /// Waits until there are octets to take, or the end, or an error, which a read tells.
    pub(in crate::net) fn poll_readable(
        &self,
        socket: &Link,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let session = &mut *self.session.borrow_mut();
        while session.plain == 0 && session.end == End::Open {
            ready!(session.poll_input(socket, cx, &mut []))?;
        }
        Poll::Ready(Ok(()))
    }

    /// What there is to take: the end, or octets (1 stands for all of them).
    pub(in crate::net) fn peek(&self, socket: &Link) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        while session.plain == 0 {
            if session.is_over()? {
                return Ok(0);
            }
            session.try_input(socket, &mut [])?;
        }
        Ok(1)
    }

    pub(in crate::net) fn poll_write(
        &self,
        socket: &Link,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let session = &mut *self.session.borrow_mut();
        loop {
            ready!(session.poll_written(socket, cx))?;
            if session.end == End::Failed {
                return Poll::Ready(Err(session.error()));
            }
            if session.sealed > 0 {
                let offered = pieces.iter().map(|piece| piece.len()).sum();
                let told = session.sealed.min(offered);
                session.sealed -= told;
                return Poll::Ready(Ok(told));
            }
            session.sealed = session.connection.writer().write_vectored(pieces)?;
            if session.sealed == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
    }

    /// Says `close_notify`, unless the connection has failed (RFC 8446 §6.2); ready once it is
    /// written.
    pub(in crate::net) fn poll_close(
        &self,
        socket: &Link,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let session = &mut *self.session.borrow_mut();
        if session.end != End::Failed {
            // Says it once, however often it is asked.
            session.connection.send_close_notify();
        }
        session.poll_written(socket, cx)
    }
}

impl Session {
    /// Takes opened octets.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.plain == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let taken = self.connection.reader().read(buffer)?;
        self.plain -= taken;
        Ok(taken)
    }

    /// True if nothing more will come; an error if something is missing.
    fn is_over(&mut self) -> io::Result<bool> {
        match self.end {
            End::Open => Ok(false),
            End::Closed => Ok(true),
            End::Cut => Err(io::ErrorKind::UnexpectedEof.into()),
            End::Failed => Err(self.error()),
            End::Foreign(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Why the connection failed.
    fn error(&mut self) -> io::Error {
        match self.connection.process_new_packets() {
            Err(error) => io::Error::new(io::ErrorKind::InvalidData, error),
            Ok(_) => io::ErrorKind::InvalidData.into(),
        }
    }

    fn handshake_error(&mut self) -> HandshakeError {
        match self.connection.process_new_packets() {
            Err(error) => HandshakeError::Tls(error),
            Ok(_) => HandshakeError::Closed,
        }
    }

    /// Reads from the socket, once it has something, and opens it into `buffer` as far as there is
    /// room. Ready with 0 if that gave no octets: records can be without.
    fn poll_input(
        &mut self,
        socket: &Link,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.early.is_empty() {
                ready!(socket.poll_read_ready(cx))?;
            }
            match self.try_input(socket, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(taken) => {
                    if self.connection.wants_write() && !self.connection.is_handshaking() {
                        // An answer to a key update, or an alert. Whoever writes next sends what
                        // the socket does not take now.
                        let _ = self.poll_written(socket, cx);
                    }
                    return Poll::Ready(Ok(taken));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As [`Self::poll_input`], for what has come already.
    fn try_input(&mut self, socket: &Link, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            return Ok(self.open(&early, buffer));
        }
        RECORDS.with_borrow_mut(|records| {
            let most = buffer.len().clamp(LEAST_READ, READ);
            let records = &mut records[..most];
            let read = socket.read(records)?;
            if read == 0 {
                self.end = End::Cut;
                return Ok(0);
            }
            Ok(self.open(&records[..read], buffer))
        })
    }

    /// Opens records into `buffer`, and returns how many octets went there.
    fn open(&mut self, mut records: &[u8], buffer: &mut [u8]) -> usize {
        if self.is_new
            && let Some(foreign) = Foreign::of(records)
        {
            // Not told to the library, which would answer with an alert.
            self.end = End::Foreign(foreign);
            return 0;
        }
        self.is_new = false;
        let mut taken = 0;
        while !records.is_empty() && self.end == End::Open {
            // Full of octets that nobody has taken yet: the rest has to wait.
            let read = match self.connection.read_tls(&mut records) {
                Ok(read) => read,
                Err(_) => {
                    match self.plain {
                        0 => self.end = End::Failed,
                        _ => self.early = records.to_vec(),
                    }
                    break;
                }
            };
            match self.connection.process_new_packets() {
                Ok(state) => {
                    self.plain = state.plaintext_bytes_to_read();
                    if state.peer_has_closed() {
                        self.end = End::Closed;
                    }
                }
                Err(error) => self.fail(&error),
            }
            if let Ok(more) = self.take(&mut buffer[taken..]) {
                taken += more;
            }
            if read == 0 {
                break;
            }
        }
        taken
    }

    /// The connection has failed. The library says so by an alert, but not for every error: where
    /// it says nothing and nothing is encrypted yet, the client is told all the same.
    fn fail(&mut self, error: &rustls::Error) {
        self.end = End::Failed;
        let is_plain = match self.connection.protocol_version() {
            None => true,
            // A server changes to encrypted records at the end of a whole handshake, but at the
            // beginning of one that takes up a session.
            Some(ProtocolVersion::TLSv1_2) => {
                self.connection.handshake_kind() == Some(HandshakeKind::Full)
            }
            Some(_) => false,
        };
        let is_server = matches!(self.connection, Connection::Server(_));
        let is_early = is_server && is_plain && self.connection.is_handshaking();
        if is_early
            && !self.connection.wants_write()
            && let Some(alert) = alert(error)
        {
            self.alert = alert.record().to_vec();
        }
    }

    /// Writes what is sealed.
    fn poll_written(&mut self, socket: &Link, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Output(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        while !self.alert.is_empty() {
            match Output(socket).write(&self.alert) {
                Ok(written) => drop(self.alert.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A socket to write records to.
struct Output<'a>(&'a Link);

impl io::Write for Output<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [piece] = pieces {
            return self.write(piece);
        }
        self.0.write_pieces(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
