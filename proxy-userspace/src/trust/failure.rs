//! Why there is no TLS with a backend.

use rustls::{AlertDescription, CertificateError, Error};

/// Why there is no session with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// No authority that is believed has issued its certificate.
    UnknownAuthority,
    /// Its certificate is out of date, or not yet good.
    Expired,
    /// Its certificate is for other names.
    WrongName,
    /// Its certificate is not good for another reason.
    Certificate,
    /// It has refused us by an alert: it wants a certificate of ours, or another version.
    Alert,
    /// It speaks no TLS, breaks the protocol, or has closed the connection.
    Failed,
}

impl TlsFailure {
    /// What an error of the library means.
    pub fn of_tls(error: &Error) -> Self {
        use CertificateError as C;
        match error {
            Error::AlertReceived(_) => Self::Alert,
            Error::InvalidCertificate(error) => match error {
                // An authority of the same name, but of another key, is another one.
                C::UnknownIssuer | C::BadSignature => Self::UnknownAuthority,
                C::Expired
                | C::ExpiredContext { .. }
                | C::NotValidYet
                | C::NotValidYetContext { .. } => Self::Expired,
                C::NotValidForName | C::NotValidForNameContext { .. } => Self::WrongName,
                _ => Self::Certificate,
            },
            _ => Self::Failed,
        }
    }

    /// What a connection that failed after its handshake means: of TLS 1.3, a client learns only
    /// then that its certificate was refused. `None` if it is not about TLS.
    pub fn of_io(error: &std::io::Error) -> Option<Self> {
        error_in(error).map(Self::of_tls)
    }
}

/// The library's error inside one of a socket.
pub fn error_in(error: &std::io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What an error of the library means, for a person, about the server that is expected to be
/// `name`. Nothing that the server has sent is in it.
pub fn told(error: &Error, name: &str) -> String {
    let alert = match error {
        Error::AlertReceived(alert) => alert,
        error => {
            return match TlsFailure::of_tls(error) {
                TlsFailure::UnknownAuthority => {
                    "no authority that is believed has issued the certificate"
                }
                TlsFailure::Expired if is_early(error) => "the certificate is not valid yet",
                TlsFailure::Expired => "the certificate has expired",
                TlsFailure::WrongName => return format!("the certificate is not for `{name}`"),
                TlsFailure::Certificate => "the certificate is not good",
                TlsFailure::Alert | TlsFailure::Failed => "the server does not speak TLS as we do",
            }
            .to_owned();
        }
    };
    let said = match alert {
        AlertDescription::CertificateRequired => "it wants a certificate of ours".to_owned(),
        AlertDescription::UnknownCA => "it does not believe our certificate's authority".to_owned(),
        AlertDescription::CertificateExpired => "our certificate has expired".to_owned(),
        AlertDescription::CertificateRevoked => "our certificate is revoked".to_owned(),
        AlertDescription::BadCertificate => "it does not take our certificate".to_owned(),
        AlertDescription::ProtocolVersion => "it speaks another version of TLS".to_owned(),
        AlertDescription::UnrecognisedName => format!("it does not know the name `{name}`"),
        AlertDescription::NoApplicationProtocol => {
            "it speaks none of the protocols that are offered".to_owned()
        }
        other => format!("alert {}", u8::from(*other)),
    };
    format!("the server refuses us: {said}")
}

fn is_early(error: &Error) -> bool {
    use CertificateError as C;
    matches!(
        error,
        Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. })
    )
}
