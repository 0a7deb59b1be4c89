//! What backends are told about a client's certificate.
//!
//! Whoever can write these fields can pretend to have any certificate, so what a client says there
//! is taken away whenever it is not a proxy that the configuration trusts.

use crate::certificates::CertificateView;
use crate::message::{Fields, Name};
use std::fmt::Write as _;

/// Names of nginx' manner begin so, in lower case.
const X_SSL: &[u8] = b"x-ssl-client-";

/// A client's certificate, with the fields that tell of it.
#[derive(Debug)]
pub struct Certified {
    /// Whose it is.
    pub subject: String,
    forwarded: Option<String>,
    x_ssl: Vec<(&'static str, String)>,
}

impl Certified {
    /// Of a certificate; `xfcc` and `x_ssl` say which fields there are.
    pub fn new(view: &CertificateView, xfcc: bool, x_ssl: bool) -> Self {
        let fields = || {
            vec![
                ("X-SSL-Client-Verify", "SUCCESS".to_owned()),
                ("X-SSL-Client-DN", view.subject.clone()),
                ("X-SSL-Client-Issuer", view.issuer.clone()),
                ("X-SSL-Client-Serial", view.serial.to_uppercase()),
                ("X-SSL-Client-Fingerprint", view.fingerprint.clone()),
                ("X-SSL-Client-Not-After", view.not_after.to_string()),
            ]
        };
        Self {
            subject: view.subject.clone(),
            forwarded: xfcc.then(|| element(view)),
            x_ssl: if x_ssl { fields() } else { Vec::new() },
        }
    }

    /// Adds the fields.
    fn tell(&self, fields: &mut Fields) {
        if let Some(element) = &self.forwarded {
            append(fields, element.as_bytes());
        }
        for (name, value) in &self.x_ssl {
            fields.set_named(name.as_bytes(), value.as_bytes());
        }
    }
}

/// Takes away what only we may say, and says it. `asks` has it that certificates are asked for
/// here, and `x_ssl` that clients without one are told of, too.
pub fn tell(fields: &mut Fields, certified: Option<&Certified>, asks: bool, x_ssl: bool) {
    if asks {
        fields.retain(|field| {
            let start = field.spelled.get(..X_SSL.len());
            !start.is_some_and(|start| start.eq_ignore_ascii_case(X_SSL))
        });
    }
    match certified {
        Some(certified) => certified.tell(fields),
        None if x_ssl => fields.append_named(b"X-SSL-Client-Verify", b"NONE"),
        None => {}
    }
}

/// Puts an element behind those of trusted proxies.
fn append(fields: &mut Fields, element: &[u8]) {
    let mut value = Vec::new();
    for before in fields.all(Name::XForwardedClientCert) {
        value.extend_from_slice(before);
        value.push(b',');
    }
    value.extend_from_slice(element);
    fields.set(Name::XForwardedClientCert, &value);
}

/// One element of `X-Forwarded-Client-Cert`, as Envoy documents it.
fn element(view: &CertificateView) -> String {
    let mut text = format!("Hash={};Subject=", view.fingerprint);
    quote(&view.subject, true, &mut text);
    for uri in &view.uris {
        text.push_str(";URI=");
        quote(uri, false, &mut text);
    }
    let is_host = |name: &&String| name.parse::<std::net::IpAddr>().is_err();
    for name in view.names.iter().filter(is_host) {
        text.push_str(";DNS=");
        quote(name, false, &mut text);
    }
    text
}

/// Writes a value, in quotes if it must be. What cannot stand in a field is left out.
fn quote(value: &str, always: bool, text: &mut String) {
    let printable = value.chars().filter(|letter| matches!(letter, ' '..='~'));
    if !always && !value.contains([',', ';', '=', '"', '\\', ' ']) {
        text.extend(printable);
        return;
    }
    text.push('"');
    for letter in printable {
        if matches!(letter, '"' | '\\') {
            text.push('\\');
        }
        let _ = text.write_char(letter);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> CertificateView {
        CertificateView {
            names: vec!["a.test".to_owned(), "10.0.0.1".to_owned()],
            uris: vec!["spiffe://test/a;b".to_owned()],
            subject: r#"CN=a\,b"#.to_owned(),
            issuer: "CN=ca".to_owned(),
            serial: "0a1b".to_owned(),
            fingerprint: "ff".to_owned(),
            not_before: 0,
            not_after: 7,
            source: String::new(),
        }
    }

    #[test]
    fn both_manners_tell_the_same() {
        let mut fields = Fields::new();
        fields.append_named(b"x-ssl-CLIENT-dn", b"CN=admin");
        fields.append_named(b"X-SSL-Client-Anything", b"x");
        fields.append_named(b"X-SSL", b"stays");
        tell(
            &mut fields,
            Some(&Certified::new(&view(), true, true)),
            true,
            true,
        );
        let get = |name: &str| {
            let all: Vec<_> = fields.all_named(name.as_bytes()).collect();
            assert!(all.len() <= 1, "{name}");
            all.first()
                .map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let expected = r#"Hash=ff;Subject="CN=a\\,b";URI="spiffe://test/a;b";DNS=a.test"#;
        assert_eq!(get("X-Forwarded-Client-Cert").as_deref(), Some(expected));
        assert_eq!(get("X-SSL-Client-Verify").as_deref(), Some("SUCCESS"));
        assert_eq!(get("X-SSL-Client-DN").as_deref(), Some(r"CN=a\,b"));
        assert_eq!(get("X-SSL-Client-Serial").as_deref(), Some("0A1B"));
        assert_eq!(get("X-SSL-Client-Anything"), None);
        assert_eq!(get("X-SSL").as_deref(), Some("stays"));
    }

    #[test]
    fn a_client_without_a_certificate_cannot_pretend_to_have_one() {
        let mut fields = Fields::new();
        fields.append_named(b"X-SSL-Client-Verify", b"SUCCESS");
        tell(&mut fields, None, true, true);
        let all: Vec<_> = fields.all_named(b"x-ssl-client-verify").collect();
        assert_eq!(all, [b"NONE"]);
        tell(&mut fields, None, true, false);
        assert!(
            !fields
                .iter()
                .any(|field| field.spelled.starts_with(b"X-SSL-Client"))
        );
    }

    #[test]
    fn an_element_goes_behind_those_of_trusted_proxies() {
        let mut fields = Fields::new();
        fields.append(Name::XForwardedClientCert, b"Hash=1");
        append(&mut fields, b"Hash=2");
        assert_eq!(
            fields.get(Name::XForwardedClientCert),
            Some(&b"Hash=1,Hash=2"[..])
        );
    }
}
