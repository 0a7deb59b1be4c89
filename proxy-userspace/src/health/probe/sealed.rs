//! The handshake of a probe, and what is said where it fails.

use super::Deadline;
use crate::health::outcome::{Failure, FailureKind};
use crate::health::sealed::ProbeTls;
use crate::trust;
use rustls::pki_types::ServerName;
use std::io;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Negotiates over an open connection.
pub(super) async fn seal(
    stream: TcpStream,
    tls: &ProbeTls,
    deadline: Deadline,
) -> Result<TlsStream<TcpStream>, Failure> {
    let connector = TlsConnector::from(tls.config.clone());
    let negotiated = connector.connect(tls.name.clone(), stream);
    let negotiated = deadline.bound("in the TLS handshake", negotiated).await?;
    let told = |error: &_| Failure::new(FailureKind::Tls, trust::told(error, &text(&tls.name)));
    negotiated.map_err(|error| match trust::error_in(&error) {
        Some(error) => told(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::new(FailureKind::Tls, "the peer closed in the TLS handshake")
        }
        None => super::socket::classify("in the TLS handshake", &error),
    })
}

/// What an error of a sealed connection means, if it is about TLS. Of TLS 1.3 a client learns only
/// after the handshake that its certificate was refused.
pub(super) fn of_io(error: &io::Error) -> Option<Failure> {
    let error = trust::error_in(error)?;
    Some(Failure::new(
        FailureKind::Tls,
        trust::told(error, "the server"),
    ))
}

fn text(name: &ServerName<'_>) -> String {
    match name {
        ServerName::DnsName(name) => name.as_ref().to_owned(),
        ServerName::IpAddress(address) => std::net::IpAddr::from(*address).to_string(),
        _ => "the server".to_owned(),
    }
}

#[cfg(test)]
mod tests;
